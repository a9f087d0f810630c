"""The one place for how often requests fail where they were sent, by node and model; pure.

Each answer and each failure moves what is known by a part; what is old counts less and less, for
whoever is asked less for failing could not show otherwise that it has been mended.
"""

import dataclasses
from typing import Final

from protocol.identity import NodeId

ENTRIES_MAX: Final = 4_096
SMOOTHING: Final = 8
"""An answer or a failure moves what is known by one part in so many."""
HALF_LIFE_NS: Final = 60_000_000_000
"""After so long without either, half as much is believed."""
ONE_EVENT_NS: Final = 1_000_000_000
"""What fails within this has failed together: a process that ends takes all its answers along."""
PERMILLE_MAX: Final = 900
"""Nobody is given up by this alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    permille: int
    at_ns: int
    failed_ns: int


class ErrorRates:
    """What one node has seen of all others and of itself. Bounded; the one that was not heard of
    for longest is forgotten.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[NodeId, str], _Known] = {}

    def permille(self, node: NodeId, model: str, now: int) -> int:
        """Of 1,000 requests for a model that a node were given now, so many would fail."""
        known = self._known.get((node, model))
        if known is None:
            return 0
        halvings, rest_ns = divmod(max(0, now - known.at_ns), HALF_LIFE_NS)
        permille = known.permille >> min(halvings, 10)
        return min(PERMILLE_MAX, permille - permille * rest_ns // (2 * HALF_LIFE_NS))

    def note(self, node: NodeId, model: str, now: int, *, has_failed: bool) -> None:
        """A request was answered to its end, or was not."""
        before = self._known.get((node, model))
        if before is None and not has_failed:
            return
        if before is not None and has_failed and now - before.failed_ns < ONE_EVENT_NS:
            return
        permille = self.permille(node, model, now)
        permille += (1000 * has_failed - permille) // SMOOTHING
        failed_ns = now if has_failed or before is None else before.failed_ns
        self._known.pop((node, model), None)
        if len(self._known) >= ENTRIES_MAX:
            del self._known[next(iter(self._known))]
        self._known[node, model] = _Known(permille, now, failed_ns)
