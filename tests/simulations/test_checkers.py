"""Checkers say what should have held: nothing in a run that went well, and each its own breach."""

import dataclasses
import pathlib
from types import SimpleNamespace
from typing import cast

import pytest

from protocol.config import SECOND, ProtocolConfig
from protocol.effects import MembershipChanged
from protocol.identity import Address
from protocol.members import State
from simulations import liveness
from simulations.acts import READERS
from simulations.checkers import CHECKERS, NoFalseDeath, Story
from simulations.director import Director, Episode
from simulations.library import scenario_from
from simulations.pretend_crypto import PretendCrypto
from simulations.world import World

SIZE = 5


@pytest.fixture
def world() -> World:
    """A small mesh in which one crashed long ago and one left."""
    world = World(SIZE, 1, make_crypto=PretendCrypto)
    for index in range(SIZE):
        world.start(index, *[0][:index])
    assert world.run_until(world.is_converged, 30 * SECOND)
    world.crash(3)
    world.leave(4)
    world.run(600 * SECOND)
    return world


def _violated(world: World, *episodes: Episode, is_lossy: bool = False) -> list[str]:
    story = Story(world=world, protocol=ProtocolConfig(), episodes=episodes, is_lossy=is_lossy)
    return [checker.name for checker in CHECKERS for _ in checker.violations(story)]


def _seen(world: World, subject: int, state: State, incarnation: int, **fields: object) -> None:
    node = world.hosts[subject].crypto.node_id
    change = MembershipChanged(node, "n", state, incarnation, None)
    world.changes.append((world.now, 0, dataclasses.replace(change, **fields)))  # type: ignore[arg-type]  # by name


def test_a_run_that_went_well_violates_nothing(world: World) -> None:
    """Deaths and goodbyes are none."""
    assert _violated(world) == []


def test_a_false_death_is_noticed_unless_something_was_done(world: World) -> None:
    """To the observer or the subject, lately; what was done to others, or long ago, is none."""
    world.mistakes.append((world.now, 0, 1))
    assert _violated(world) == ["no_false_death"]
    assert _violated(world, Episode("pause", [2], 0)) == ["no_false_death"]
    assert _violated(world, Episode("flood", [1], 0)) == ["no_false_death"]
    assert _violated(world, Episode("pause", [1], 0, end_ns=SECOND)) == ["no_false_death"]
    assert _violated(world, Episode("pause", [1], 0)) == []
    assert _violated(world, is_lossy=True) == []


def test_lies_are_an_excuse_only_where_a_quarter_lies_or_each_tells_one(world: World) -> None:
    """What one of five says kills nobody else."""
    world.mistakes.append((world.now, 0, 1))
    assert _violated(world, Episode("lie", [2], 0)) == ["no_false_death"]
    assert _violated(world, *[Episode("forge", [2], 0)] * 2) == ["no_false_death"]
    assert _violated(world, Episode("lie", [2, 4], 0, end_ns=SECOND)) == ["no_false_death"]
    assert _violated(world, Episode("lie", [2, 4], 0)) == []
    slow = Story(
        world=world,
        protocol=ProtocolConfig(gossip_nodes=1),
        episodes=[Episode("lie", [2], 0)],
        is_lossy=False,
    )
    assert [*NoFalseDeath().violations(slow)] == []


def test_an_eighth_who_lie_is_an_excuse_where_others_are_slow() -> None:
    """Of 16 two, with two more who pass nothing on in time; crashes and the like do not count."""
    world = cast("World", SimpleNamespace(hosts=range(16), mistakes=[(SECOND, 0, 1)]))

    def is_mistake(*episodes: Episode) -> bool:
        story = Story(world=world, protocol=ProtocolConfig(), episodes=episodes, is_lossy=False)
        return any(NoFalseDeath().violations(story))

    lies = Episode("lie", [2, 4], 0)
    assert is_mistake(lies)
    assert is_mistake(lies, Episode("crash", [5, 6], 0))
    assert is_mistake(Episode("lie", [2], 0), Episode("starve", [4, 5, 6], 0))
    assert is_mistake(lies, Episode("starve", [2, 5], 0))
    assert not is_mistake(lies, Episode("starve", [5, 6], 0))


def test_a_crash_that_somebody_missed_is_noticed(world: World) -> None:
    """Also when all others saw it."""
    dead = world.hosts[3].crypto.node_id
    world.changes = [row for row in world.changes if row[1] != 0 or row[2].node != dead]
    assert _violated(world) == ["crash_seen"]


def test_a_number_that_falls_is_noticed(world: World) -> None:
    """An incarnation never does."""
    _seen(world, 1, State.ALIVE, 7)
    _seen(world, 1, State.SUSPECT, 6)
    assert _violated(world) == ["numbers_rise"]


def test_two_lives_in_one_moment_are_told_apart(world: World) -> None:
    """A host that restarts, and at once again from an older disk: no number fell."""
    for is_lost in (False, True):
        world.crash(2)
        if is_lost:
            world.hosts[2].lose_disk()
        world.start(2)
    assert world.run_until(world.is_agreed, 60 * SECOND)
    assert "numbers_rise" not in _violated(world)


def test_an_end_and_a_beginning_in_one_moment_are_told_apart(world: World) -> None:
    """A host that says goodbye, and is started in the same nanosecond without its disk, is new."""
    world.leave(2)
    world.crash(2)
    world.hosts[2].lose_disk()
    world.start(2, 0)
    world.run(30 * SECOND)
    assert "numbers_rise" not in _violated(world)


def test_a_ghost_is_noticed(world: World) -> None:
    """Under its old number at once; under a new one when its end is long ago."""
    _seen(world, 3, State.ALIVE, 1, previous=State.DEAD)
    assert set(_violated(world)) == {"numbers_rise", "no_ghost"}
    world.changes.pop()
    _seen(world, 3, State.ALIVE, 9, previous=State.DEAD)
    assert _violated(world) == ["no_ghost"]


def test_a_goodbye_that_was_taken_for_a_death_is_noticed(world: World) -> None:
    """Unless the observer was cut off."""
    _seen(world, 4, State.DEAD, 9)
    assert _violated(world) == ["left_is_not_dead"]
    assert _violated(world, Episode("cut", [0], 0)) == []


def test_what_is_too_large_is_noticed(world: World) -> None:
    """Datagrams and stream messages."""
    world.largest_datagram = 1_201
    world.largest_message = 2**30
    assert _violated(world) == ["limits", "limits"]


def test_amplification_is_noticed(world: World) -> None:
    """One byte more than came."""
    world.spoofed[Address("203.0.113.1", 1)] = [100, 100, 0]
    assert _violated(world) == []
    world.spoofed[Address("203.0.113.1", 1)] = [100, 101, 0]
    assert _violated(world) == ["no_amplification"]
    world.spoofed[Address("203.0.113.1", 1)] = [100, 60, 10]
    assert _violated(world) == ["no_amplification"]


def test_a_mesh_that_does_not_agree_is_noticed(world: World) -> None:
    """Each wrong view a line; one that agrees has none, and no time is spent on it."""
    config = dataclasses.replace(ProtocolConfig(), reconnect_interval_ns=10**15)
    assert list(liveness.violations(world, config)) == []
    world.network.cut({0: 1})
    world.run(60 * SECOND)
    found = list(liveness.violations(world, ProtocolConfig()))
    assert len(found) == 4
    assert "node 0 says dead of 1" in found[0]


def test_healing_ends_everything() -> None:
    """Whatever still went on, and no act begins any more."""

    acts = [
        {"at_s": 0, "do": "cut", "count": 1},
        {"at_s": 0, "do": "pause", "count": 2, "for_s": 500},
        {"at_s": 0, "do": "starve", "count": 2, "for_s": 500},
        {"at_s": 0, "do": "flap", "count": 2},
        {"at_s": 0, "do": "replay", "count": 1},
        {"at_s": 50, "do": "crash", "count": 2},
    ]
    assert {act["do"] for act in acts} <= READERS.keys()
    content = {"nodes": SIZE, "duration_s": 60, "act": acts}
    scenario = scenario_from(content, pathlib.Path("t.toml"))
    world = World(SIZE, 1, make_crypto=PretendCrypto)
    director = Director(world, scenario, world._rng)
    for index in range(SIZE):
        world.start(index, *[0][:index])
    director.schedule()
    world.run(20 * SECOND)
    liveness.heal(world, director)
    assert list(liveness.violations(world, ProtocolConfig())) == []
    assert len(world.running()) == SIZE
    assert all(episode.end_ns is not None for episode in director.episodes)
