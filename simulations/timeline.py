"""The one place where virtual time passes: a heap of (time, sequence, what)."""

import heapq
from collections.abc import Callable
from typing import Any


class Timeline:
    """Nothing happens but what was asked for, in order of time and then of asking."""

    def __init__(self) -> None:
        self.now = 0
        """Nanoseconds since the beginning."""
        self._sequence = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        """(time, sequence, what, with what)."""

    def at(self, delay_ns: int, what: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        """Do something later, with these arguments."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_ns, self._sequence, what, arguments))

    def run(self, duration_ns: int) -> None:
        """Let time pass."""
        end = self.now + duration_ns
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, what, arguments = heapq.heappop(heap)
            what(*arguments)
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_ns: int) -> bool:
        """Let time pass until the condition holds; False when the limit came first."""
        end = self.now + limit_ns
        while not condition():
            if not self._heap or self._heap[0][0] > end:
                self.now = end
                return condition()
            self.now, _, what, arguments = heapq.heappop(self._heap)
            what(*arguments)
        return True
