"""The one place for how long models take to load here: learned from those that were. Pure."""

from typing import Final

START_S: Final = 1.0
"""For a worker to begin."""
BYTES_PER_S: Final = 300_000_000
"""Before anything was seen: a disk of no great speed."""
_SMOOTHING: Final = 2
_EARLY: Final = 0.1
"""Before so much is done, what is left is not foretold from what was."""
BYTES_PER_S_MAX: Final = 10_000_000_000
_BYTES_MIN: Final = 50_000_000
"""Of a model whose load says something of the disk."""


class LoadPace:
    """How fast this machine loads."""

    def __init__(self) -> None:
        self._bytes_per_s = float(BYTES_PER_S)

    def expected_s(self, size_bytes: int) -> float:
        """How long a model of so many bytes takes, from nothing to ready."""
        return START_S + size_bytes / self._bytes_per_s

    def left_s(self, size_bytes: int, elapsed_s: float, share: float) -> float:
        """How long until it is ready, `share` of it being done after `elapsed_s`."""
        if share < _EARLY:
            return max(START_S, self.expected_s(size_bytes) - elapsed_s)
        return elapsed_s * (1 - share) / share

    def note(self, size_bytes: int, took_s: float) -> None:
        """A model was loaded."""
        if size_bytes >= _BYTES_MIN:
            seen = min(BYTES_PER_S_MAX, size_bytes / max(START_S, took_s))
            self._bytes_per_s += (seen - self._bytes_per_s) / _SMOOTHING
