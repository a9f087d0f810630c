"""Hosts that share processors wait for each other, keep the order, and are repeatable."""

import functools

import pytest

from protocol.config import MILLISECOND, SECOND
from protocol.effects import Effect
from protocol.events import Event
from protocol.node import Node
from simulations.pretend_crypto import PretendCrypto
from simulations.processors import BusyWorld, Processors


def _busy(cores: int, *, size: int = 4, seed: int = 1, **costs: int) -> BusyWorld:
    return BusyWorld(size, seed, Processors(cores=cores, **costs), make_crypto=PretendCrypto)


@pytest.mark.parametrize(("cores", "ends_ms"), [(1, [10, 20, 30, 40]), (2, [10, 10, 20, 20])])
def test_who_finds_no_core_waits_for_one(cores: int, ends_ms: list[int]) -> None:
    """Work of four processes takes as many rounds as the cores need."""
    world = _busy(cores)
    ends: list[tuple[int, int]] = []

    def end(index: int) -> None:
        ends.append((world.now, index))

    for index in range(4):
        world.work(index, 10 * MILLISECOND, functools.partial(end, index))
    world.run(SECOND)
    assert ends == [(ms * MILLISECOND, index) for index, ms in enumerate(ends_ms)]


def test_one_process_has_one_core() -> None:
    """However many cores there are, a process does its work one after the other."""
    world = _busy(4)
    ends: list[int] = []
    for _ in range(3):
        world.work(0, 10 * MILLISECOND, lambda: ends.append(world.now))
    world.run(SECOND)
    assert ends[-1] == 30 * MILLISECOND == world.busy_ns[0]


def test_a_turn_is_paid_once_for_all_that_waits() -> None:
    """What waits while a process works is done in one turn."""
    world = _busy(1, size=2, turn_ns=MILLISECOND)
    done: list[int] = []
    for _ in range(5):
        world.work(0, MILLISECOND, lambda: done.append(world.now))
    world.run(SECOND)
    assert done == [2 * MILLISECOND, *[7 * MILLISECOND] * 4]


def test_work_of_a_process_that_ended_is_dropped() -> None:
    """A crash takes with it what waited and what was being done."""
    world = _busy(1)
    world.start(0)
    done: list[int] = []
    for _ in range(2):
        world.work(0, SECOND, lambda: done.append(world.now))
    world.crash(0)
    world.run(5 * SECOND)
    assert not done


@pytest.mark.parametrize("cost", [0, MILLISECOND])
def test_a_mesh_on_shared_cores_becomes_whole(cost: int) -> None:
    """Waiting delays a mesh and changes nothing else; the same seed gives the same trace."""
    assert _whole_trace(cost) == _whole_trace(cost)


def _whole_trace(cost: int) -> str:
    world = _busy(2, size=8, turn_ns=cost, event_ns=cost, stream_ns=cost, change_ns=cost)
    for index in range(8):
        world.start(index, *[0][:index])
    assert world.run_until(world.is_converged, 60 * SECOND)
    world.run(5 * SECOND)
    assert world.is_agreed()
    assert not world.mistakes
    return world.trace_hash


def test_a_machine_that_does_not_keep_up_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is woken late says so to its node."""
    world = _busy(1, size=3)
    for index in range(3):
        world.start(index, *[0][:index])
    world.run(5 * SECOND)
    heard: list[str] = []
    handle = Node.handle

    def listen(node: Node, event: Event, now: int) -> list[Effect]:
        heard.append(type(event).__name__)
        return handle(node, event, now)

    monkeypatch.setattr(Node, "handle", listen)
    world.run(3 * SECOND)
    assert "Delayed" not in heard
    world.work(1, 1_900 * MILLISECOND, lambda: None)
    world.run(2 * SECOND)
    assert "Delayed" in heard


def test_a_machine_has_a_core() -> None:
    """Without one nothing would ever happen."""
    with pytest.raises(ValueError, match="at least one core"):
        _busy(0)
