"""The one place for how far views and truth are apart, counted as it changes.

A pair (observer, subject) is wrong while the observer runs and has the subject in its view (alive
or suspect) although it does not run, or the other way round. All views agree with the truth when no
pair is wrong. Counting costs one step per change and one byte per pair, so that ten thousand nodes
can be asked at any moment.
"""

from typing import Final

_ABSENT: Final = 0
_PRESENT: Final = 1
_SUSPECT: Final = 2


class Agreement:
    """Wrong pairs, and pairs in doubt, among so many hosts."""

    def __init__(self, size: int) -> None:
        self._views = [bytearray(size) for _ in range(size)]
        """How each host has each other in its view."""
        self._running: dict[int, None] = {}
        self.wrong = 0
        self.suspected = 0

    def begin(self, host: int) -> None:
        """It runs from now on, and knows nobody yet."""
        self.end(host)
        for observer in self._running:
            self.wrong += -1 if self._views[observer][host] else 1
        self._running[host] = None
        self.wrong += len(self._running)

    def begin_whole(self) -> None:
        """All that run have just those in view."""
        for host in self._running:
            view = self._views[host] = bytearray(len(self._views))
            for subject in self._running:
                view[subject] = _PRESENT
        self.wrong = self.suspected = 0

    def end(self, host: int) -> None:
        """It runs no more."""
        if host not in self._running:
            return
        view = self._views[host]
        for subject in range(len(view)):
            if (view[subject] != _ABSENT) != (subject in self._running):
                self.wrong -= 1
        self.suspected -= view.count(_SUSPECT)
        self._views[host] = bytearray(len(view))
        del self._running[host]
        for observer in self._running:
            self.wrong += 1 if self._views[observer][host] else -1

    def note(self, observer: int, subject: int, *, is_present: bool, is_suspect: bool) -> None:
        """One view changed."""
        if observer not in self._running:
            return
        view = self._views[observer]
        before = view[subject]
        if (before != _ABSENT) != is_present:
            self.wrong += -1 if is_present == (subject in self._running) else 1
        self.suspected += is_suspect - (before == _SUSPECT)
        view[subject] = _SUSPECT if is_suspect else _PRESENT if is_present else _ABSENT
