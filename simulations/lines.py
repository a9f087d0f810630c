"""The one place for how much a host's access line carries, and what waits before it."""

import dataclasses

from protocol.config import SECOND

DATAGRAM_OVERHEAD_BYTES = 28
"""IPv4 and UDP headers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LineOptions:
    """One access line; 0 bytes a second means that it has no limit."""

    up_bytes_per_s: int = 0
    down_bytes_per_s: int = 0
    queue_bytes: int = 262_144
    """So much waits before each direction; a datagram that finds no room is lost."""

    @property
    def is_limited(self) -> bool:
        """Whether anything has to be counted at all."""
        return self.up_bytes_per_s > 0 or self.down_bytes_per_s > 0


class Line:
    """One direction of one host's line. Calls come with times that hardly go back."""

    def __init__(self, bytes_per_s: int, queue_bytes: int) -> None:
        self._rate = bytes_per_s
        self._queue_bytes = queue_bytes
        self._free_ns = 0

    def datagram(self, size: int, now: int) -> int | None:
        """Nanoseconds until its last byte is through; None when it found no room."""
        waiting_ns = max(0, self._free_ns - now)
        if self._rate and waiting_ns * self._rate // SECOND + size > self._queue_bytes:
            return None
        return self._take(size, now)

    def stream(self, size: int, now: int, patience_ns: int) -> int | None:
        """The same for bytes of a stream, which wait, but no longer than that: then nothing of them
        is sent.
        """
        if self._rate and self._free_ns - now > patience_ns:
            return None
        return self._take(size, now)

    def _take(self, size: int, now: int) -> int:
        if not self._rate:
            return 0
        self._free_ns = max(now, self._free_ns) + size * SECOND // self._rate
        return self._free_ns - now
