"""Half of a mesh dies at once: how soon the other half has noticed, and that it judges right."""

import pytest

from protocol.config import SECOND
from protocol.members import State
from simulations.pretend_crypto import PretendCrypto
from simulations.world import World

SIZE = 20
DEAD = range(SIZE // 2, SIZE)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("is_silent", "limit_s"), [(True, 25), (False, 15)])
def test_half_of_a_mesh_is_given_up_in_time(seed: int, is_silent: bool, limit_s: int) -> None:
    """Machines that are silent within 25 s, processes whose hosts refuse within 15 s; no other."""
    world = World(SIZE, seed, make_crypto=PretendCrypto)
    for index in range(SIZE):
        world.start(index, *[0][:index])
    assert world.run_until(world.is_converged, 30 * SECOND)
    world.run(5 * SECOND)
    world.changes.clear()
    for index in DEAD:
        world.crash(index, is_silent=is_silent)

    def is_done() -> bool:
        return all(
            state is State.DEAD for index in DEAD for state in world.states_of(index).values()
        )

    assert world.run_until(is_done, limit_s * SECOND)
    victims = [world.hosts[index].crypto.node_id for index in DEAD]
    died = [change.node for _, _, change in world.changes if change.state is State.DEAD]
    assert sorted(died) == sorted(victims * (SIZE - len(DEAD)))
    world.run(30 * SECOND)
    assert world.is_converged()
