"""The one place for how fast the simulator is on this machine.

A mesh is put together at once (every node is told of every other, and has nothing left to spread),
runs for a while until its sessions are made, and is then timed.
"""

import dataclasses
import time
import types
from typing import Any, Final

import psutil

from protocol.codec import encode_stream
from protocol.config import MILLISECOND, SECOND
from protocol.events import StreamReceived
from protocol.messages import PushPull
from simulations.admissions import WALL_START_S
from simulations.network import NetworkOptions
from simulations.pretend_crypto import PretendCrypto
from simulations.run import without_collections
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


def bench(nodes: int, duration_s: float, starved: int = 0, seed: int = 1) -> Pace:
    """Time `duration_s` of virtual time of a LAN of so many nodes; so many of them read late."""
    before_bytes = psutil.Process().memory_info().rss
    with without_collections():
        world = whole_world(nodes, seed)
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


def whole_world(nodes: int, seed: int, loss_ppm: int = 0) -> World:
    """A LAN on which everybody has heard of everybody."""
    options = NetworkOptions(delay_min_ns=200_000, delay_max_ns=800_000, loss_ppm=loss_ppm)
    world = World(nodes, seed, network=options, make_crypto=PretendCrypto)
    records: dict[bytes, None] = {}
    lives: dict[bytes, None] = {}
    for host in world.hosts:
        records.update(dict.fromkeys(host.snapshot.records))
        world.start(host.index)
        assert host.mesh_node is not None  # it was started just now
        lives.update(dict.fromkeys(host.mesh_node.join_state()[1]))
    everything = encode_stream(PushPull(True, tuple(records), tuple(lives)))
    for host in world.hosts:
        other = world.hosts[0 if host.index else 1].crypto.node_id
        world.give(host, StreamReceived(0, other, everything, WALL_START_S))
        assert host.mesh_node is not None  # nothing has ended it
        host.mesh_node.hush()
    return world
