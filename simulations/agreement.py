"""The one place for how far views and truth are apart, counted as it changes.

A pair (observer, subject) is wrong while the observer runs and has the subject in its view (alive
or suspect) although it does not run, or the other way round. All views agree with the truth when no
pair is wrong. Counting costs one step per change and one byte per pair, so that ten thousand nodes
can be asked at any moment.
"""

from typing import Final

from protocol.members import State

_UNKNOWN: Final = 0
_ALIVE: Final = 1
_SUSPECT: Final = 2
_DEAD: Final = 3
_LEFT: Final = 4
_CODES: Final = {
    State.ALIVE: _ALIVE,
    State.SUSPECT: _SUSPECT,
    State.DEAD: _DEAD,
    State.LEFT: _LEFT,
}
_STATES: Final = (None, State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT)
_IS_PRESENT: Final = (False, True, True, False, False)


class Agreement:
    """Wrong pairs, and pairs in doubt, among so many hosts."""

    def __init__(self, size: int) -> None:
        self._views = [bytearray(size) for _ in range(size)]
        """How each host sees each other."""
        self._running: dict[int, None] = {}
        self.wrong = 0
        self.suspected = 0

    def begin(self, host: int) -> None:
        """It runs from now on, and knows nobody yet."""
        self.end(host)
        for observer in self._running:
            self.wrong += -1 if _IS_PRESENT[self._views[observer][host]] else 1
        self._running[host] = None
        self.wrong += len(self._running)

    def begin_whole(self) -> None:
        """All that run have just those in view."""
        for host in self._running:
            view = self._views[host] = bytearray(len(self._views))
            for subject in self._running:
                view[subject] = _ALIVE
        self.wrong = self.suspected = 0

    def end(self, host: int) -> None:
        """It runs no more."""
        if host not in self._running:
            return
        view = self._views[host]
        for subject in range(len(view)):
            if _IS_PRESENT[view[subject]] != (subject in self._running):
                self.wrong -= 1
        self.suspected -= view.count(_SUSPECT)
        self._views[host] = bytearray(len(view))
        del self._running[host]
        for observer in self._running:
            self.wrong += 1 if _IS_PRESENT[self._views[observer][host]] else -1

    def state(self, observer: int, subject: int) -> State | None:
        """How one who runs sees another; None for nobody it has spoken of."""
        return _STATES[self._views[observer][subject]]

    def present(self, observer: int) -> int:
        """How many one who runs has in its view."""
        view = self._views[observer]
        return view.count(_ALIVE) + view.count(_SUSPECT)

    def note(self, observer: int, subject: int, state: State) -> None:
        """One view changed."""
        if observer not in self._running:
            return
        view = self._views[observer]
        before, now = view[subject], _CODES[state]
        is_present = _IS_PRESENT[now]
        if _IS_PRESENT[before] != is_present:
            self.wrong += -1 if is_present == (subject in self._running) else 1
        self.suspected += (now == _SUSPECT) - (before == _SUSPECT)
        view[subject] = now
