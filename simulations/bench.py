"""The one place for how fast the simulator is on this machine.

A mesh is put together at once: every node knows every other and has nothing left to spread. By
default they have also met, as in a mesh that has run for as many seconds as it has nodes; else each
probe meets a stranger at first, and takes twice as many datagrams.
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
    memory_bytes_per_node: int
    is_compiled: bool
    """Whether the core is compiled (mypyc) or interpreted."""

    def to_json(self) -> dict[str, Any]:
        """As `meshd sim bench --json` prints it."""
        return dataclasses.asdict(self)


def bench(
    nodes: int,
    duration_s: float,
    starved: int = 0,
    seed: int = 1,
    *,
    are_acquainted: bool = True,
) -> Pace:
    """Time `duration_s` of virtual time of a LAN of so many nodes; so many of them read late."""
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
    return Pace(
        nodes=nodes,
        starved=starved,
        node_seconds_per_second=round(nodes * duration_s / spent_s, 1),
        datagrams_per_second=round(datagrams / spent_s, 1),
        datagrams_per_node_second=round(datagrams / nodes / duration_s, 3),
        memory_bytes_per_node=used_bytes // nodes,
        is_compiled=not isinstance(World.run, types.FunctionType),
    )
