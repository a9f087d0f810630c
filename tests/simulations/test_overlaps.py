"""Acts of one kind on one host: each ends by itself."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from protocol.config import MILLISECOND, SECOND
from simulations.acts import ACTS
from simulations.network import Network, NetworkOptions
from simulations.overlaps import Overlaps
from simulations.pretend_crypto import PretendCrypto
from simulations.world import World


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_last_begun_of_those_that_go_on_holds(order: tuple[int, ...]) -> None:
    """In whatever order they end, each once."""
    held: dict[int, Any] = {}
    overlaps = Overlaps()
    ends = [overlaps.begin("kind", [7], value, held.__setitem__) for value in range(3)]
    going_on = [0, 1, 2]
    for number in order:
        assert held == {7: going_on[-1]}
        going_on.remove(number)
        ends[number]()
        ends[number]()
    assert held == {7: None}


def test_other_kinds_and_hosts_are_left_alone() -> None:
    """What ends is of one kind, and only where it went on."""
    held: dict[int, Any] = {}
    others: dict[int, Any] = {}
    overlaps = Overlaps()
    end = overlaps.begin("kind", [1, 2], "both", held.__setitem__)
    overlaps.begin("kind", [2], "second", held.__setitem__)
    overlaps.begin("other", [1], "other", others.__setitem__)
    end()
    assert held == {1: None, 2: "second"}
    assert others == {1: "other"}


def _world() -> World:
    world = World(4, 1, make_crypto=PretendCrypto)
    for index in range(4):
        world.start(index, *[0][:index])
    world.run(5 * SECOND)
    return world


def _begin(world: World, do: str, **options: object) -> Callable[[], None]:
    end = ACTS[do].begin(world, [3], options)
    assert end is not None
    return end


def _is_unplugged(world: World) -> object:
    return world.network.is_unplugged(3)


@pytest.mark.parametrize(
    ("do", "first", "second", "look"),
    [
        ("pause", {}, {}, lambda world: world.hosts[3].is_paused),
        ("unplug", {}, {}, _is_unplugged),
        ("cut", {}, {}, lambda world: not world.network.is_connected(3, 0)),
        ("loss", {"loss_ppm": 1}, {"loss_ppm": 2}, lambda w: w.network._host_loss_ppm.get(3)),
        (
            "starve",
            {"late_ns": (1, 2), "slow": True},
            {"late_ns": (3, 4), "slow": False},
            lambda world: world.hosts[3].starved_ns,
        ),
        (
            "clock",
            {"drift_ppm": 5, "ahead_s": 1},
            {"drift_ppm": 5, "ahead_s": 2},
            lambda world: world.hosts[3].wall_ahead_s,
        ),
    ],
)
def test_each_act_ends_by_itself(
    do: str,
    first: dict[str, object],
    second: dict[str, object],
    look: Callable[[World], object],
) -> None:
    """The end of one leaves the other, whichever ends first."""
    for is_first_ended in (True, False):
        world = _world()
        before = look(world)
        ends = [_begin(world, do, **first)]
        of_first = look(world)
        ends.append(_begin(world, do, **second))
        of_second = look(world)
        assert of_first != before
        ends.pop(0 if is_first_ended else 1)()
        assert look(world) == (of_second if is_first_ended else of_first)
        ends.pop()()
        assert look(world) == before


def test_a_pause_ends_with_the_process() -> None:
    """The next process on that host runs, whatever was done to the one before it."""
    world = _world()
    end = _begin(world, "pause")
    world.crash(3)
    world.start(3)
    assert not world.hosts[3].is_paused
    second = _begin(world, "pause")
    end()
    assert world.hosts[3].is_paused
    second()
    assert not world.hosts[3].is_paused


def test_who_flaps_within_a_cut_stays_cut_off() -> None:
    """Its line comes and goes, the cut remains; afterwards it is the other way round."""
    world = _world()
    short = (10 * MILLISECOND, 20 * MILLISECOND)
    cut = _begin(world, "cut")
    flap = _begin(world, "flap", up_ns=short, down_ns=short)
    for _ in range(100):
        world.run(5 * MILLISECOND)
        assert not world.network.is_connected(3, 0)
    cut()
    seen = list[bool]()
    for _ in range(100):
        world.run(5 * MILLISECOND)
        seen.append(world.network.is_connected(3, 0))
    assert {True, False} <= set(seen)
    flap()
    assert world.network.is_connected(3, 0)


def test_who_is_in_the_same_cuts_is_reached() -> None:
    """Two that are cut off together, of which one is cut off once more."""
    world = World(4, 1, make_crypto=PretendCrypto)
    network = Network(NetworkOptions(), world.chance, world.hosts)
    both = network.separate([1, 2])
    assert network.is_connected(1, 2)
    one = network.separate([1])
    assert not network.is_connected(1, 2)
    network.rejoin(both)
    assert network.is_connected(0, 2)
    assert not network.is_connected(0, 1)
    network.rejoin(one)
    network.rejoin(one)
    assert network.is_connected(0, 1)
