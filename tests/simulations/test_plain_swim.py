"""Plain SWIM in the simulator: what the paper says of it, by scenarios that our nodes run too."""

import pytest

from protocol.config import SECOND, ProtocolConfig
from protocol.members import State
from simulations.library import find_scenario, resized
from simulations.network import NetworkOptions
from simulations.plain_swim import PlainSwim, Row, ceil_ln
from simulations.pretend_crypto import PretendCrypto
from simulations.run import run
from simulations.world import World

SIZE = 12


class Impatient(PlainSwim):
    """The failure detector of section 3 alone."""

    SUSPECTS = False
    PIGGYBACKS = False
    ROUND_ROBIN = False


class Mute(PlainSwim):
    """Spreads nothing."""

    def _limit(self) -> int:
        return 0

    def _ride(self) -> list[Row]:
        return []


def _world(node: type[PlainSwim] = PlainSwim, *, loss_ppm: int = 0) -> World:
    options = NetworkOptions(loss_ppm=loss_ppm)
    world = World(SIZE, 1, network=options, make_crypto=PretendCrypto, make_node=node)
    for index in range(SIZE):
        world.start(index, *[0][:index])
    world.run(20 * SECOND)
    return world


def _said(world: World, state: State) -> list[int]:
    return [at for at, _, change in world.changes if change.state is state]


@pytest.mark.parametrize("name", ["single_death", "goodbyes", "split"])
def test_it_runs_the_scenarios_that_ship(name: str) -> None:
    """With the same measures."""
    once = run(resized(find_scenario(name), SIZE), 1, make_node=PlainSwim)
    if name == "split":
        assert once.measures["agreement_s"] is None  # the paper has no way back
    else:
        assert once.measures["agreement_s"] is not None
        assert once.measures["mistakes"] == 0


def test_a_whole_mesh_is_whole_whatever_the_protocol() -> None:
    """Who lacks somebody is introduced, also by nodes that tell nobody of others."""
    scenario = resized(find_scenario("swim_load"), 5)
    assert run(scenario, 1, make_node=Mute).measures["agreement_s"] is not None


def test_one_seed_decides_everything() -> None:
    """Two runs, one trace; another node, another trace."""
    scenario = resized(find_scenario("swim_load"), 4)
    once, again = (run(scenario, 1, make_node=PlainSwim) for _ in range(2))
    assert once == again
    assert once.trace_hash != run(scenario, 1).trace_hash


def test_a_death_needs_a_suspicion_that_runs_out() -> None:
    """3 * ceil(ln(N + 1)) periods after the first who suspects, and all hear of it."""
    world = _world()
    world.crash(3, is_silent=True)
    assert world.run_until(lambda: set(world.states_of(3).values()) == {State.DEAD}, 60 * SECOND)
    first, dead = min(_said(world, State.SUSPECT)), min(_said(world, State.DEAD))
    assert dead - first == 3 * ceil_ln(SIZE + 1) * SECOND
    assert {subject for _, _, subject in world.mistakes} == set()


def test_without_suspicion_silence_is_death() -> None:
    """At the end of the period, said to all at once."""
    world = _world(Impatient)
    world.crash(3, is_silent=True)
    assert world.run_until(lambda: set(world.states_of(3).values()) == {State.DEAD}, 30 * SECOND)
    assert _said(world, State.SUSPECT) == []
    dead = _said(world, State.DEAD)
    assert max(dead) - min(dead) < SECOND // 100


def test_helpers_get_through_where_one_line_is_cut() -> None:
    """Section 3.1: nobody is suspected for one broken path between two members."""
    world = _world()
    world.network.block([1], [2])
    world.network.block([2], [1])
    world.run(60 * SECOND)
    assert _said(world, State.SUSPECT) == []
    assert world.traffic["ping-req"][0] > 0


def test_suspicions_of_the_living_are_refuted() -> None:
    """Section 4.2: one in five datagrams is lost, and with so long a suspicion nobody dies."""
    world = _world(loss_ppm=200_000)
    world.run(120 * SECOND)
    assert len(_said(world, State.SUSPECT)) > 0
    assert world.mistakes == []


def test_it_sends_a_ping_and_an_ack_a_period() -> None:
    """2.0 datagrams per member: the paper's constant load."""
    scenario = resized(find_scenario("swim_load"), SIZE)
    measures = run(scenario, 1, make_node=PlainSwim).measures
    period_s = ProtocolConfig().probe_interval_ns / SECOND
    sent = measures["datagrams_per_node_s"]
    assert sent is not None
    assert sent * period_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(("count", "wanted"), [(1, 0), (2, 1), (3, 2), (7, 2), (8, 3), (55, 5)])
def test_the_logarithm_is_rounded_up(count: int, wanted: int) -> None:
    """By whole numbers."""
    assert ceil_ln(count) == wanted
