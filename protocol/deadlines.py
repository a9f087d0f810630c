"""The one place for many deadlines under one clock: a heap with deterministic ties."""

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

NEVER: Final = 2**63 - 1
"""Later than any deadline, in nanoseconds."""

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """At most one deadline per key; equal times fire in the order in which they were set."""

    __slots__ = ("_current", "_heap", "_sequence", "next_ns")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Key]] = []
        self._current: dict[Key, tuple[int, int]] = {}
        self._sequence = 0
        self.next_ns = NEVER
        """The earliest deadline; NEVER when there is none. Read far more often than it changes."""

    def __len__(self) -> int:
        return len(self._current)

    def set(self, key: Key, when_ns: int) -> None:
        """Set or move the deadline of `key`."""
        self._sequence += 1
        self._current[key] = (when_ns, self._sequence)
        heapq.heappush(self._heap, (when_ns, self._sequence, key))
        if len(self._heap) > 64 + 4 * len(self._current):
            self._heap = [(when, seq, k) for k, (when, seq) in self._current.items()]
            heapq.heapify(self._heap)
        self._settle()

    def clear(self, key: Key) -> None:
        """Forget the deadline of `key`, if it has one."""
        if self._current.pop(key, None) is not None:
            self._settle()

    def get(self, key: Key) -> int | None:
        """When `key` is due."""
        entry = self._current.get(key)
        return entry[0] if entry is not None else None

    def _settle(self) -> None:
        heap, current = self._heap, self._current
        while heap and current.get(heap[0][2]) != heap[0][:2]:
            heapq.heappop(heap)
        self.next_ns = heap[0][0] if heap else NEVER

    def pop_due(self, now: int) -> Key | None:
        """Take out one key whose time has come."""
        if self.next_ns > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._current[key]
        self._settle()
        return key
