"""The one place for a host's own clock: where it began, and how fast it goes.

What `Node.handle` is given is this clock's time: no two machines' clocks agree, and nothing in the
protocol may think so.
"""

from typing import Final

_MILLION: Final = 1_000_000


class Clock:
    """Reads `offset + world time`, and drifts from there."""

    def __init__(self, offset_ns: int = 0) -> None:
        self._since_ns = 0
        self._read_ns = offset_ns
        self._drift_ppm = 0

    def drift(self, ppm: int, now: int) -> None:
        """From now on it gains so many millionths; below 0 it loses."""
        self._read_ns = self.read(now)
        self._since_ns = now
        self._drift_ppm = ppm

    def read(self, now: int) -> int:
        """What it shows at world time `now`."""
        passed = now - self._since_ns
        return self._read_ns + passed + passed * self._drift_ppm // _MILLION

    def when(self, shown: int) -> int:
        """The first world time at which it shows at least `shown`."""
        ahead = shown - self._read_ns
        rate = _MILLION + self._drift_ppm
        return self._since_ns - (-ahead * _MILLION // rate)
