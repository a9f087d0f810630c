"""Nodes that remember far fewer peers than they have."""

from protocol.config import SECOND, ProtocolConfig
from protocol.errors import DropReason
from simulations.pretend_crypto import PretendCrypto
from simulations.world import World


def test_who_must_forget_all_the_time_kills_nobody() -> None:
    """With room for a third of the mesh, views come together and stay right."""
    protocol = ProtocolConfig(sessions_max=8)
    world = World(24, seed=1, protocol=protocol, make_crypto=PretendCrypto)
    for index in range(24):
        world.start(index, *[0][:index])
    assert world.run_until(world.is_converged, 30 * SECOND)
    world.run(30 * SECOND)
    assert world.is_converged()
    assert world.mistakes == []
    assert world.drops[DropReason.UNPROVEN] > 24 * 30  # it did forget
    assert DropReason.BAD_SEAL not in world.drops
    assert DropReason.REPLAYED not in world.drops
