"""The one place for what gateways know of others by a fixed delay, whatever gossip tells.

What if everybody's load were known so late, however large the mesh is? Each gateway hears of each
server in turn, of how it was the low end of the span ago, and again when that has become as old as
its high end: the ages in a choice are even between the two.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from protocol.config import MILLISECOND
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.speeds import Speed
from simulations.chance import shuffle
from simulations.timeline import Timeline

Hear = Callable[[NodeId, int, Load, Speed | None], None]
"""(server, moment, its load and its speed at that moment)."""
PARTS: Final = 16
"""A gateway hears of so large a part of all servers at a time."""
ROUND_NS_MIN: Final = 250 * MILLISECOND
"""Where the span has no width, loads are as much older than it at most."""
HISTORY_MAX: Final = 4_096
"""Loads of one server that are remembered."""


class History:
    """What one server has told, and when."""

    def __init__(self, slots: int) -> None:
        self._at: list[int] = []
        self._told: list[tuple[Load, Speed | None]] = []
        self._idle = Load(0, 0, slots)

    def note(self, now: int, load: Load, speed: Speed | None) -> None:
        """It tells something else."""
        self._at.append(now)
        self._told.append((load, speed))
        if len(self._at) > HISTORY_MAX:
            del self._at[: HISTORY_MAX // 2], self._told[: HISTORY_MAX // 2]

    def as_of(self, moment: int) -> tuple[Load, Speed | None]:
        """What it had told by then. Before the first word it was idle, and no other machine."""
        place = bisect_right(self._at, moment)
        if place:
            return self._told[place - 1]
        return self._idle, self._told[0][1] if self._told else None


class Hearsay:
    """Of one gateway."""

    def __init__(
        self,
        timeline: Timeline,
        histories: Mapping[NodeId, History],
        span_ns: tuple[int, int],
        hear: Hear,
        rng: random.Random,
    ) -> None:
        """`hear` is told what the gateway hears."""
        self._timeline = timeline
        self._histories = histories
        self._late_ns = span_ns[0]
        self._step_ns = max(span_ns[1] - span_ns[0], ROUND_NS_MIN) // PARTS
        self._tell = hear
        nodes = list(histories)
        shuffle(nodes, rng)
        self._parts = [nodes[part::PARTS] for part in range(PARTS)]
        self._turn = 0
        self._until_ns = 0

    def begin(self, until_ns: int) -> None:
        """From now on, and until then."""
        self._until_ns = until_ns
        for part in self._parts:
            self._hear(part)
        self._timeline.at(self._step_ns, self._go_on)

    def _go_on(self) -> None:
        self._hear(self._parts[self._turn])
        self._turn = (self._turn + 1) % PARTS
        if self._timeline.now < self._until_ns:
            self._timeline.at(self._step_ns, self._go_on)

    def _hear(self, nodes: Sequence[NodeId]) -> None:
        moment = self._timeline.now - self._late_ns
        for node in nodes:
            self._tell(node, moment, *self._histories[node].as_of(moment))
