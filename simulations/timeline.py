"""The one place where virtual time passes: a heap of (time, sequence, what)."""

import heapq
from collections.abc import Callable


class Timeline:
    """Nothing happens but what was asked for, in order of time and then of asking."""

    def __init__(self) -> None:
        self.now = 0
        """Nanoseconds since the beginning."""
        self._sequence = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []

    def at(self, delay_ns: int, what: Callable[[], None]) -> None:
        """Do something later."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_ns, self._sequence, what))

    def run(self, duration_ns: int) -> None:
        """Let time pass."""
        end = self.now + duration_ns
        while self._heap and self._heap[0][0] <= end:
            self.now, _, what = heapq.heappop(self._heap)
            what()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_ns: int) -> bool:
        """Let time pass until the condition holds; False when the limit came first."""
        end = self.now + limit_ns
        while not condition():
            if not self._heap or self._heap[0][0] > end:
                self.now = end
                return condition()
            self.now, _, what = heapq.heappop(self._heap)
            what()
        return True
