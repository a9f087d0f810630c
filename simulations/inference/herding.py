"""The one place for whether gateways herd: whether servers are rushed and shunned in turns.

Who believes old loads may send everything to those that were idle, and nothing to those that were
busy, until both have changed sides. So looked at is how much each server has to do (requests that
run and wait, per slot) beyond the mean of its class at that moment, which takes out whatever comes
in bursts. Where that only wanders, it has less and less to do with itself the later one looks again
(its covariance with itself falls to nothing); where it swings, it is on the other side half a
period later, and the covariance is below nothing: -a * a for a swing whose root mean square is a.

    swing = the root of minus the least covariance over all lags; 0 if none is negative

So a swing of 1 is a full machine and an idle one changing places, and one far below 1 costs nobody
anything, as slots are free on either side of it.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from protocol.config import MILLISECOND
from protocol.messages import Load

STEP_NS: Final = 500 * MILLISECOND
"""How often it is looked at how much each has to do."""
LAGS: Final = 24
"""Steps of the longest lag: half the period of the slowest swing that is found."""
MILLI: Final = 1_000


class Herding:
    """Of the servers of a workload, while requests come."""

    def __init__(self, classes: Mapping[str, Sequence[Callable[[], Load]]]) -> None:
        """`classes`: how to ask each server of a class for its load."""
        self._classes = classes
        self._seen: dict[str, list[list[int]]] = {name: [] for name in classes}
        """For each moment what each has to do, in thousandths of a slot."""

    def look(self) -> None:
        """One more moment."""
        for name, asked in self._classes.items():
            loads = [ask() for ask in asked]
            self._seen[name].append(
                [(load.queued + load.running) * MILLI // max(1, load.slots) for load in loads]
            )

    @property
    def swing_milli(self) -> int | None:
        """That of the class that swings most, in thousandths of a request per slot; None where
        nothing was seen of two of one class.
        """
        swings = [
            _swing_milli([_beyond(moment) for moment in moments[len(moments) // 4 :]])
            for moments in self._seen.values()
            if moments and len(moments[0]) > 1
        ]
        return max(swings, default=None)


def _swing_milli(moments: Sequence[Sequence[int]]) -> int:
    least = 0
    for lag in range(1, min(LAGS, len(moments) // 2) + 1):
        pairs = list(zip(moments, moments[lag:], strict=False))
        product = sum(sum(map(operator.mul, now, later)) for now, later in pairs)
        least = min(least, product // (len(pairs) * len(moments[0])))
    return math.isqrt(-least)


def _beyond(moment: Sequence[int]) -> list[int]:
    """What each has to do beyond the mean."""
    mean = sum(moment) // max(1, len(moment))
    return [value - mean for value in moment]
