"""The one place for measured round trips, and for how long to wait for an answer because of them.

RFC 6298: smoothed mean and mean deviation, and mean + 4 deviations as the time-out. Here the
time-out only starts helpers and the stream probe; nobody is suspected because of it.
"""

from typing import Final

from protocol.identity import NodeId

ROUND_TRIPS_MAX: Final = 4_096


class RoundTrips:
    """Smoothed round trips of the members that we ping; nanoseconds."""

    def __init__(self, timeout_min_ns: int, timeout_max_ns: int) -> None:
        self._timeout_min_ns = timeout_min_ns
        self._timeout_max_ns = timeout_max_ns
        self._measured: dict[NodeId, tuple[int, int]] = {}

    def smoothed_ns(self, node: NodeId) -> int | None:
        """Mean; None while nothing is measured."""
        known = self._measured.get(node)
        return known[0] if known is not None else None

    def timeout_ns(self, node: NodeId) -> int:
        """How long an answer may take before it is odd; the maximum while nothing is measured."""
        known = self._measured.get(node)
        if known is None:
            return self._timeout_max_ns
        mean, deviation = known
        return min(self._timeout_max_ns, max(self._timeout_min_ns, mean + 4 * deviation))

    def learn(self, node: NodeId, sample_ns: int) -> None:
        """A ping was answered after so long."""
        known = self._measured.pop(node, None)
        if len(self._measured) >= ROUND_TRIPS_MAX:
            del self._measured[next(iter(self._measured))]
        if known is None:
            self._measured[node] = (sample_ns, sample_ns // 2)
            return
        mean, deviation = known
        deviation = (3 * deviation + abs(mean - sample_ns)) // 4
        self._measured[node] = ((7 * mean + sample_ns) // 8, deviation)

    def forget(self, node: NodeId) -> None:
        """It is somewhere else now: what was measured says nothing."""
        self._measured.pop(node, None)
