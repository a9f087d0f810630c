"""The one place for the phase after the faults: nothing is wrong any more, so all must agree.

As TigerBeetle's simulator has it: first safety under any faults, then the faults end and what runs
must get somewhere. Who is down stays down.
"""

from collections.abc import Iterator
from typing import Final

from protocol.config import SECOND, ProtocolConfig
from protocol.members import State
from simulations.bounds import agreement_ns
from simulations.director import Director
from simulations.world import World

STEP_NS: Final = SECOND
HOLD_NS: Final = 30 * SECOND
NAME: Final = "liveness"


def heal(world: World, director: Director) -> None:
    """End all faults."""
    director.end_all()
    world.network.heal()
    for host in world.hosts:
        if host.is_paused:
            world.resume(host.index)


def violations(world: World, protocol: ProtocolConfig) -> Iterator[str]:
    """Let the mesh come together in the time that it may take; where it does not, a line each."""
    limit_ns = agreement_ns(protocol, len(world.hosts))
    end_ns = world.now + limit_ns
    while world.now < end_ns:
        if _is_one(world):
            world.run(HOLD_NS)  # for good, not for a moment
            if _is_one(world):
                return
        world.run(min(STEP_NS, end_ns - world.now))
    within = f"{limit_ns / SECOND:.0f} s after the last fault"
    for host in world.running():
        for other in world.hosts:
            state = world.agreement.state(host.index, other.index)
            is_seen = state in (State.ALIVE, State.SUSPECT)
            if is_seen != (other.node is not None) and other is not host:
                yield f"node {host.index} says {state} of {other.index}, {within}"
    for line in _different_offers(world):
        yield f"{line}, {within}"


def _is_one(world: World) -> bool:
    return world.is_agreed() and not any(_different_offers(world))


def _different_offers(world: World) -> Iterator[str]:
    nodes = [(host.index, host.mesh_node) for host in world.running() if host.mesh_node]
    for owner, own in nodes:
        offered = own.offers.of(own.node_id)
        for host, node in nodes:
            if node.offers.of(own.node_id) != offered:
                yield f"node {host} has other offers of {owner} than {owner} has"
