"""The one place for meshes that are whole from their first moment.

Making n nodes hear of each other costs n * n steps and as many shares of memory. Here one node
hears of all, and the others begin with what it knows, of which most is held once for all.
"""

import functools

from protocol.codec import encode_stream
from protocol.effects import OffersChanged
from protocol.events import StreamReceived
from protocol.identity import Address, NodeId
from protocol.messages import PushPull
from simulations.admissions import WALL_START_S
from simulations.host import Host
from simulations.latency import even
from simulations.network import NetworkOptions
from simulations.pretend_crypto import PretendCrypto
from simulations.world import World


def whole_world(nodes: int, seed: int, *, are_acquainted: bool = True, loss_ppm: int = 0) -> World:
    """A LAN on which everybody knows everybody, and nothing is left to spread.

    `are_acquainted`: for so long that each has met each, and no challenge is needed any more.
    """
    options = NetworkOptions(delay=even(200_000, 800_000), loss_ppm=loss_ppm)
    world = World(nodes, seed, network=options, make_crypto=PretendCrypto)
    for host in world.hosts:
        world.start(host.index)
    make_whole(world, are_acquainted=are_acquainted)
    return world


def make_whole(world: World, *, are_acquainted: bool = True) -> None:
    """The same of a world whose hosts have all just started, each alone: members and what they
    offer so far.
    """
    records: dict[bytes, None] = {}
    statements: dict[bytes, None] = {}
    for host in world.hosts:
        assert host.mesh_node is not None  # it was started just now
        records.update(dict.fromkeys(host.snapshot.records))
        statements.update(dict.fromkeys(host.mesh_node.join_state()[1]))
    everything = encode_stream(PushPull(False, tuple(records), tuple(statements), ()))
    first, second, *others = world.hosts
    world.give(first, StreamReceived(0, second.crypto.node_id, everything, WALL_START_S))
    assert first.mesh_node is not None
    for host in world.hosts:
        assert host.mesh_node is not None  # nothing has ended them
        host.mesh_node.begin_like(first.mesh_node)
        if are_acquainted:
            host.mesh_node.envelope.begin_acquainted(functools.partial(_meet, world, host))
    world.agreement.begin_whole()
    for offer in first.mesh_node.offers.all():
        for host in (second, *others):
            world.listener.on_effect(host, OffersChanged(offer.author, offer))


def _meet(world: World, host: Host, peer: NodeId) -> tuple[Address, bytes] | None:
    """Where a peer is, and what token it wants to see of `host`."""
    other = world.host_of(peer)
    if other.mesh_node is None:
        return None
    return other.address, other.mesh_node.envelope.token_for(host.crypto.node_id, host.address)
