"""The one place for what the members of a mesh were seen to believe, and when."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

ALIVE: Final = "alive"
SUSPECT: Final = "suspect"
DEAD: Final = "dead"
LEFT: Final = "left"


@dataclasses.dataclass(frozen=True, slots=True)
class Sighting:
    """At that time (seconds of time.monotonic) `observer` was heard to count `subject` as such."""

    at_s: float
    observer: str
    subject: str
    state: str


class Sightings:
    """All that was seen, and each member's present view."""

    def __init__(self) -> None:
        self.all: list[Sighting] = []
        self._views: dict[str, dict[str, str]] = {}

    def note(self, at_s: float, observer: str, subject: str, state: str) -> None:
        """Take one in. A suspicion changes no view: Serf does not tell when it ends."""
        if observer == subject:
            return
        self.all.append(Sighting(at_s, observer, subject, state))
        if state != SUSPECT:
            self._views.setdefault(observer, {})[subject] = state

    def forget(self, observer: str) -> None:
        """Its process is a new one and tells everything anew."""
        self._views.pop(observer, None)

    def mark(self) -> int:
        """A place in the story, for `since` and `firsts`."""
        return len(self.all)

    def since(self, mark: int, *, states: Collection[str]) -> list[Sighting]:
        """What was seen from there on."""
        return [one for one in self.all[mark:] if one.state in states]

    def firsts(self, mark: int, subject: str, state: str) -> dict[str, float]:
        """By observer, when it was first heard of from there on."""
        pairs = self.pairs(mark, state)
        return {observer: at_s for (observer, of), at_s in pairs.items() if of == subject}

    def pairs(self, mark: int, state: str) -> dict[tuple[str, str], float]:
        """By observer and subject, when that state was first heard of from there on."""
        found: dict[tuple[str, str], float] = {}
        for one in self.all[mark:]:
            if one.state == state:
                found.setdefault((one.observer, one.subject), one.at_s)
        return found

    def do_all_say(self, observers: Iterable[str], subjects: Collection[str], state: str) -> bool:
        """Whether each of the observers counts each of the others among the subjects as such."""
        return all(
            self._views.get(observer, {}).get(subject) == state
            for observer in observers
            for subject in subjects
            if subject != observer
        )

    def missing(self, names: Collection[str], state: str) -> dict[str, int]:
        """By name, in how many pairs it has part that are not as they should be; most first."""
        counts: Counter[str] = Counter()
        for observer in names:
            for subject in names:
                if observer != subject and self._views.get(observer, {}).get(subject) != state:
                    counts.update((observer, subject))
        return dict(counts.most_common())

    def last_change_s(self, mark: int) -> float | None:
        """When the last view changed from there on."""
        times = [one.at_s for one in self.all[mark:] if one.state != SUSPECT]
        return times[-1] if times else None
