"""The one place for whether a node knows what was decided while it was away.

A member that was revoked yesterday is still one in the eyes of who slept since. So a node that
starts, or wakes from a gap, first completes one exchange with a member; until then it neither
admits, nor serves, nor asks. If nobody answers for a while there is nobody who could be fooled.
"""

from collections.abc import Callable
from typing import Final

from protocol.config import SECOND
from protocol.deadlines import NEVER

CATCH_UP_NS: Final = 5 * SECOND
"""So long is waited for a member that answers."""


class CatchUp:
    """Whether this node is up to date with the mesh's records."""

    def __init__(self, on_caught_up: Callable[[], None]) -> None:
        """`on_caught_up` hears of the end of each wait."""
        self._on_caught_up = on_caught_up
        self._until_ns = NEVER
        self.is_over = False

    @property
    def deadline_ns(self) -> int:
        """When `advance` has something to do."""
        return NEVER if self.is_over else self._until_ns

    def begin(self, now: int, *, has_others: bool) -> None:
        """We were away; `has_others`: somebody is known who may have been there."""
        self._until_ns = now + CATCH_UP_NS
        self.is_over = False
        if not has_others:
            self.end()

    def advance(self, now: int) -> None:
        """Give up waiting when nobody answers."""
        if now >= self.deadline_ns:
            self.end()

    def end(self) -> None:
        """An exchange with a member is complete."""
        if not self.is_over:
            self.is_over = True
            self._on_caught_up()
