"""The one place for whether gateways herd: whether servers are rushed and shunned in turns.

Who believes old loads may send everything to those that were idle, and nothing to those that were
busy, until both have changed sides. Then a server that is busier than others of its class is less
busy than they a while later. So looked at is how much each has to do (requests running and waiting,
per slot) beyond the mean of its class at that moment, which takes out whatever comes in bursts:

    rebound = the least, over all lags, of the correlation of that with itself so much later

Queues that only wander are correlated less and less the longer the lag, down to nothing: 0 but for
chance. What swings with a period is correlated negatively half a period later: -1 for a pure swing.
"""

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

    def correlations_ppm(self) -> list[int]:
        """By lag from one step on, in millionths, over all servers; nothing where nothing varies."""
        square, products, pairs = 0, [0] * LAGS, [0] * LAGS
        count = 0
        for moments in self._seen.values():
            beyond = [_beyond(moment) for moment in moments[len(moments) // 4 :]]
            for place, now in enumerate(beyond):
                square += sum(value * value for value in now)
                count += len(now)
                for lag, later in enumerate(beyond[place + 1 : place + 1 + LAGS]):
                    products[lag] += sum(map(int.__mul__, now, later))
                    pairs[lag] += len(now)
        if square == 0:
            return []
        return [
            product * count * 1_000_000 // (square * many)
            for product, many in zip(products, pairs, strict=True)
            if many
        ]

    @property
    def rebound_ppm(self) -> int | None:
        """The least of these."""
        return min(self.correlations_ppm(), default=None)


def _beyond(moment: Sequence[int]) -> list[int]:
    """What each has to do beyond the mean."""
    mean = sum(moment) // max(1, len(moment))
    return [value - mean for value in moment]
