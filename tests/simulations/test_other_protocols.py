"""Nodes of other protocols: found by name, watched, and each fault of theirs one clear line."""

import pathlib
from collections.abc import Callable

import pytest

from protocol.config import SECOND
from protocol.deadlines import NEVER
from protocol.effects import Effect, MembershipChanged, OpenStream
from protocol.events import DeadlineReached, Event, Started
from protocol.identity import NodeId
from protocol.members import State
from simulations.guard import Guard
from simulations.other_protocols import find_node
from simulations.participant import Birth
from simulations.plain_swim import PlainSwim
from simulations.pretend_crypto import PretendCrypto
from simulations.section import ScenarioError
from simulations.world import World

STRANGER = NodeId(bytes(32))
MODULE = """
import nowhere_at_all
"""
FAULTY = """
class NoHandle:
    deadline = 0
    def __init__(self, birth): pass
class NoDeadline:
    def __init__(self, birth): pass
    def handle(self, event, now): return []
class Picky:
    def __init__(self): pass
    def handle(self, event, now): return []
class Fine:
    deadline = 1
    def __init__(self, birth): pass
    def handle(self, event, now): return []
"""


class Scripted:
    """Does with each event what a test says."""

    def __init__(self, birth: Birth, act: Callable[[Event], list[Effect]]) -> None:
        self.birth = birth
        self.deadline: int | float = NEVER
        self.act = act

    def handle(self, event: Event, now: int) -> list[Effect]:
        """As told; due at once, ever again."""
        self.deadline = now
        return self.act(event)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("simulations.plain_swim", "must be module:Class"),
        (":PlainSwim", "must be module:Class"),
        ("nowhere:Node", "no module 'nowhere', here or installed"),
        ("simulations.nowhere:Node", "no module 'simulations.nowhere'"),
        ("simulations.plain_swim:PlainSwin", "did you mean 'PlainSwim'?"),
        ("simulations.plain_swim:ceil_ln", "has no class 'ceil_ln'"),
        ("faulty:NoHandle", "has no method handle(event, now)"),
        ("faulty:NoDeadline", "has no deadline in whole nanoseconds"),
        ("faulty:Picky", "cannot be made of a Birth: TypeError"),
        ("needy:Node", "needy cannot be imported: ModuleNotFoundError"),
        ("raising:Node", "raising cannot be imported: ValueError: first"),
        ("ending:Node", "ending cannot be imported: SystemExit"),
        ("broken:Node", "broken cannot be imported: SyntaxError"),
    ],
)
def test_what_is_no_node_is_one_line(
    named: str, said: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a module does when it is imported."""
    files = {
        "faulty": FAULTY,
        "needy": MODULE,
        "raising": "raise ValueError('first\\nsecond')",
        "ending": "raise SystemExit(3)",
        "broken": "def",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    with pytest.raises(ScenarioError) as raised:
        find_node(named)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_class_of_the_working_directory_is_found(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a researcher's own file is, who installed meshd as a package."""
    (tmp_path / "of_mine.py").write_text(FAULTY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    assert find_node("of_mine:Fine").__name__ == "Fine"
    assert find_node("simulations.plain_swim:PlainSwim") is PlainSwim


def _raise(event: Event) -> list[Effect]:
    if isinstance(event, Started):
        raise KeyError("first\nsecond")
    return []


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (_raise, "Scripted n0 at 0.000 s failed at Started: KeyError: "),
        (lambda _: [OpenStream(STRANGER, (), b"")], "OpenStream of nobody"),
        (lambda _: [MembershipChanged(STRANGER, "", State.ALIVE, 1, None)], "Changed of nobody"),
        (lambda _: None, "failed at Started: TypeError"),
        (lambda _: [], "its deadline never moves on"),
    ],
)
def test_its_faults_say_who_when_and_where(act: Callable[[Event], list[Effect]], said: str) -> None:
    """None ends in a traceback or never."""
    world = World(2, 1, make_crypto=PretendCrypto, make_node=lambda birth: Scripted(birth, act))  # type: ignore[arg-type, return-value]
    world.at(0, lambda: world.start(0))
    with pytest.raises(ScenarioError) as raised:
        world.run(SECOND)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_deadline_is_a_whole_number() -> None:
    """Else two machines may differ in a nanosecond."""
    inner = Scripted(Birth(node=STRANGER, rng=None, protocol=None), lambda _: [])  # type: ignore[arg-type]
    inner.deadline = 1.5
    with pytest.raises(ScenarioError, match="no whole nanoseconds"):
        _ = Guard(inner, 0, ()).deadline


def test_many_deadlines_at_different_moments_are_fine() -> None:
    """Only standing still is a fault."""
    guard = Guard(Scripted(Birth(node=STRANGER, rng=None, protocol=None), lambda _: []), 0, ())  # type: ignore[arg-type]
    for now in range(3_000):
        assert guard.handle(DeadlineReached(), now) == []


def test_a_life_finds_what_the_last_one_kept() -> None:
    """Its memory, and the number of its last Persist."""
    world = World(3, 1, make_crypto=PretendCrypto, make_node=PlainSwim)
    for index in range(3):
        world.start(index, *[0][:index])
    world.run(5 * SECOND)
    before = world.hosts[0].incarnation
    world.crash(0)
    world.run(SECOND)
    world.start(0)
    world.run(10 * SECOND)
    assert world.is_converged()
    assert world.hosts[0].incarnation > before
