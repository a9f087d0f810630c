"""The one place for how fast the simulator is on this machine.

A mesh is put together at once: every node knows every other and has nothing left to spread. It is
timed twice: when they have also met, as in a mesh that has run for as many seconds as it has nodes;
and before, when each probe meets a stranger, and takes twice as many datagrams.
"""

import dataclasses
import time
import types
from typing import Any, Final

import psutil

from protocol.config import MILLISECOND, SECOND
from simulations.run import without_collections
from simulations.whole import whole_world
from simulations.world import World

LATE_NS: Final = (500 * MILLISECOND, 2_500 * MILLISECOND)
"""How late a starved node reads each message."""
WARM_NS: Final = 3 * SECOND


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What one timing showed."""

    nodes: int
    starved: int
    node_seconds_per_second: float
    """Seconds of virtual time of one node that pass in one second of processor time."""
    datagrams_per_second: float
    """Sealed, sent, opened and decoded."""
    datagrams_per_node_second: float
    meeting_node_seconds_per_second: float | None
    """The same while each probe still meets a stranger. None with starved nodes: not timed."""
    meeting_datagrams_per_node_second: float | None
    memory_bytes_per_node: int
    is_compiled: bool
    """Whether the core is compiled (mypyc) or interpreted."""

    def to_json(self) -> dict[str, Any]:
        """As `meshd sim bench --json` prints it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class _Timed:
    """One mesh, as long as it was watched."""

    node_seconds: float
    spent_s: float
    datagrams: int
    memory_bytes: int

    @property
    def pace(self) -> float:
        return round(self.node_seconds / self.spent_s, 1)

    @property
    def datagrams_per_node_second(self) -> float:
        return round(self.datagrams / self.node_seconds, 3)


def bench(nodes: int, duration_s: float, starved: int = 0, seed: int = 1) -> Pace:
    """Time `duration_s` of virtual time of a LAN of so many nodes; so many of them read late."""
    steady = _timed(nodes, duration_s, starved, seed, are_acquainted=True)
    meeting = None if starved else _timed(nodes, duration_s, 0, seed, are_acquainted=False)
    return Pace(
        nodes=nodes,
        starved=starved,
        node_seconds_per_second=steady.pace,
        datagrams_per_second=round(steady.datagrams / steady.spent_s, 1),
        datagrams_per_node_second=steady.datagrams_per_node_second,
        meeting_node_seconds_per_second=None if meeting is None else meeting.pace,
        meeting_datagrams_per_node_second=(
            None if meeting is None else meeting.datagrams_per_node_second
        ),
        memory_bytes_per_node=steady.memory_bytes // nodes,
        is_compiled=not isinstance(World.run, types.FunctionType),
    )


def _timed(
    nodes: int, duration_s: float, starved: int, seed: int, *, are_acquainted: bool
) -> _Timed:
    before_bytes = psutil.Process().memory_info().rss
    with without_collections():
        world = whole_world(nodes, seed, are_acquainted=are_acquainted)
        for index in range(nodes - starved, nodes):
            world.starve(index, *LATE_NS)
        world.run(WARM_NS)
        datagrams, began_s = world.datagrams, time.process_time()
        world.run(round(duration_s * SECOND))
        spent_s = max(time.process_time() - began_s, 1e-9)
        datagrams = world.datagrams - datagrams
    used_bytes = psutil.Process().memory_info().rss - before_bytes
    return _Timed(nodes * duration_s, spent_s, datagrams, used_bytes)
