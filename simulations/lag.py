"""The one place for what a driver tells a node that it wakes late, as `meshd/gossip.py` does.

A process that was late by a little is busy: its node is told so, but not at every turn. One that
was late by much stood still: whatever it had begun says nothing.
"""

from typing import Final

from protocol.config import MILLISECOND, SECOND
from protocol.events import Delayed, Resumed

GAP_NS: Final = 2_000 * MILLISECOND
"""Woken later than this a driver gives Resumed."""
LAG_NS: Final = 300 * MILLISECOND
"""Woken later than this, but not so late, it gives Delayed ..."""
LAG_PAUSE_NS: Final = SECOND
"""... and at most so often."""


class Lag:
    """What one process was told of its being late."""

    __slots__ = ("_told_ns",)

    def __init__(self) -> None:
        self._told_ns = -LAG_PAUSE_NS

    def word(self, late_ns: int, now: int) -> Resumed | Delayed | None:
        """What to give a node that is woken `late_ns` after its deadline, before anything else."""
        if late_ns > GAP_NS:
            return Resumed(late_ns)
        if late_ns <= LAG_NS or now - self._told_ns <= LAG_PAUSE_NS:
            return None
        self._told_ns = now
        return Delayed(late_ns)
