"""The one place for how many changes one author may make: so many at once, so many per second.

Signed statements are cheap to make and cost every member a check, a rumour and memory. What is over
the budget is dropped, not punished: comparing digests brings it later.
"""

from typing import Final

from protocol.config import SECOND
from protocol.identity import NodeId

_AUTHORS_MAX: Final = 16_384


class Budgets:
    """A token bucket per author, by integers."""

    __slots__ = ("_levels", "_price")

    def __init__(self, per_second: int) -> None:
        self._price = SECOND // per_second
        """Of one change, in nanoseconds of saving."""
        self._levels: dict[NodeId, tuple[int, int]] = {}
        """What was spent (in nanoseconds of saving) at what time, of those who spent lately."""

    def has_room(self, author: NodeId, burst: int, now: int) -> bool:
        """Whether one more change is within the budget of this author."""
        return self._spent(author, now) + self._price <= burst * self._price

    def spend(self, author: NodeId, now: int, changes: int = 1) -> None:
        """So many changes were made; more than there was room for delays the next one."""
        spent = self._spent(author, now) + changes * self._price
        self._levels.pop(author, None)
        self._forget_saved(now)
        if len(self._levels) >= _AUTHORS_MAX:
            del self._levels[next(iter(self._levels))]
        self._levels[author] = (spent, now)

    def _forget_saved(self, now: int) -> None:
        """Who has saved all up again needs no entry; those that spent first come first."""
        while self._levels:
            first = next(iter(self._levels))
            if self._spent(first, now) > 0:
                break
            del self._levels[first]

    def _spent(self, author: NodeId, now: int) -> int:
        level = self._levels.get(author)
        if level is None:
            return 0
        left = level[0] - (now - level[1])
        return left if left > 0 else 0
