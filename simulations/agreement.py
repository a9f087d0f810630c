"""The one place for how far views and truth are apart, counted as it changes.

A pair (observer, subject) is wrong while the observer runs and has the subject in its view (alive
or suspect) although it does not run, or the other way round. All views agree with the truth when no
pair is wrong. Counting costs one step per change, so that ten thousand nodes can be asked at any
moment.
"""

from protocol.members import State


class Agreement:
    """Wrong pairs, and pairs in doubt, among so many hosts."""

    def __init__(self, size: int) -> None:
        self._views: list[dict[int, bool]] = [{} for _ in range(size)]
        """Whom each host has in its view, and whether under suspicion."""
        self._gone: list[dict[int, State]] = [{} for _ in range(size)]
        """Who is dead or left in each host's view."""
        self._running: dict[int, None] = {}
        self.wrong = 0
        self.suspected = 0

    def begin(self, host: int) -> None:
        """It runs from now on, and knows nobody yet."""
        self.end(host)
        for observer in self._running:
            self.wrong += -1 if host in self._views[observer] else 1
        self._running[host] = None
        self.wrong += len(self._running)

    def end(self, host: int) -> None:
        """It runs no more."""
        if host not in self._running:
            return
        view = self._views[host]
        seen = sum(subject in self._running for subject in view)
        self.wrong -= len(self._running) - seen + len(view) - seen
        self.suspected -= sum(view.values())
        view.clear()
        self._gone[host].clear()
        del self._running[host]
        for observer in self._running:
            self.wrong += 1 if host in self._views[observer] else -1

    def state(self, observer: int, subject: int) -> State | None:
        """How one who runs sees another; None for nobody it has spoken of."""
        is_suspect = self._views[observer].get(subject)
        if is_suspect is None:
            return self._gone[observer].get(subject)
        return State.SUSPECT if is_suspect else State.ALIVE

    def note(self, observer: int, subject: int, state: State) -> None:
        """One view changed."""
        if observer not in self._running:
            return
        is_present = state in (State.ALIVE, State.SUSPECT)
        is_suspect = state is State.SUSPECT
        view = self._views[observer]
        if (subject in view) != is_present:
            self.wrong += -1 if is_present == (subject in self._running) else 1
        self.suspected += is_suspect - view.get(subject, False)
        if is_present:
            view[subject] = is_suspect
            self._gone[observer].pop(subject, None)
        else:
            view.pop(subject, None)
            self._gone[observer][subject] = state
