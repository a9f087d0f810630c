"""Time for an engine alone, without a mesh."""

import heapq
from collections.abc import Callable


class Clockwork:
    """Does what is due, in order."""

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[tuple[int, int, Callable[[], object]]] = []
        self._sequence = 0

    def at(self, delay_ns: int, what: Callable[[], object]) -> None:
        """Do something later."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_ns, self._sequence, what))

    def run(self, until_ns: int = 10**18) -> None:
        """Let time pass until then, or until nothing is due."""
        while self._heap and self._heap[0][0] <= until_ns:
            self.now, _, what = heapq.heappop(self._heap)
            what()
