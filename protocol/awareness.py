"""The one place for how well this node itself is: Lifeguard's local health multiplier.

arXiv 1707.00788 section IV-A. A node that misses answers which healthy helpers got, or that has to
refute suspicions of itself, is likely the slow one. The worse its own score, the longer it waits
before it judges others: probe intervals and time-outs are multiplied by score + 1.
"""

from typing import Final

from protocol.config import SCORE_MAX

PATIENCE_SCORE_MAX: Final = 3
"""Who sees nobody any more must come to an end too."""


class Awareness:
    """One node's health score: 0 is well, the highest is barely there."""

    __slots__ = ("_score", "_score_max")

    def __init__(self, score_max: int = SCORE_MAX) -> None:
        self._score = 0
        self._score_max = score_max

    @property
    def score(self) -> int:
        """0 to the highest."""
        return self._score

    def note(self, delta: int) -> None:
        """Worse by `delta`, or better if it is negative."""
        self._score = min(self._score_max, max(0, self._score + delta))

    def patience(self, duration_ns: int) -> int:
        """How long a suspicion lasts in our own view: half as long again per point, of three.

        Departs from Lifeguard, where only probes are stretched: with nacks as accusations a
        suspicion soon has its shortest length, and who reads everything late would declare deaths
        that were refuted in time.
        """
        return duration_ns * (2 + min(self._score, PATIENCE_SCORE_MAX)) // 2

    def scale(self, duration_ns: int) -> int:
        """A wait, as long as our state demands."""
        return duration_ns * (self._score + 1)
