"""The one place for "so many at once, and so many per second on average", by a key of any kind."""

from collections.abc import Hashable

BUCKETS_MAX = 4_096
"""Beyond them the one that was longest not used is forgotten, and so is full again."""


class TokenBuckets:
    """One bucket for each key that was used lately. Times are in seconds of any steady clock."""

    def __init__(self, buckets_max: int = BUCKETS_MAX) -> None:
        self._buckets_max = buckets_max
        self._levels: dict[Hashable, tuple[float, float]] = {}
        """What is left, and when that was."""

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._levels)

    def take(self, key: Hashable, now: float, *, burst: int, per_s: float) -> float:
        """Take one token: 0.0, or when there is none the seconds until there will be one."""
        left, since = self._levels.pop(key, (float(burst), now))
        left = min(float(burst), left + (now - since) * per_s)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / per_s
        if wait_s == 0.0:
            left -= 1.0
        if len(self._levels) >= self._buckets_max:
            del self._levels[next(iter(self._levels))]
        self._levels[key] = (left, now)
        return wait_s
