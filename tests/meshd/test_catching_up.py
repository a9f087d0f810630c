"""Requests that come while this node does not know yet what was decided while it was away."""

import contextlib
import itertools
import pathlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from meshd import catching_up
from meshd.admitting import Admitting
from meshd.asking import Asking, AttemptFailed
from meshd.catching_up import CatchingUp
from meshd.frames import FrameStream
from meshd.local_models import LocalModels
from meshd.payloads import pack_request
from meshd.peers import Handler, Kind, Peers
from meshd.serving import Serving
from meshd.tasks.payloads import pack_call
from meshd.tasks.serving import TaskServing
from meshd.view import View
from meshd.watchdogs import HEARTBEAT_S
from protocol.catch_up import CATCH_UP_NS
from protocol.config import SECOND
from protocol.exchange import Ask, Heartbeat
from protocol.identity import Address, NodeId
from protocol.messages import Load
from runtimes.base import GenerateRequest
from runtimes.functions.call import FunctionCall
from runtimes.functions.runner import FunctionRunner
from tests.helpers.nodes import Mesh
from tests.meshd.members import at_once
from tests.meshd.played_runtime import PlayedRuntime

BODIES = {
    Kind.REQUEST: pack_request(GenerateRequest(model="m", prompt="hello")),
    Kind.TASK: pack_call(FunctionCall(function="f", arguments=b"{}")),
}


class PlayedPeers:
    """One member, asked without a network."""

    def __init__(self, handler: Handler, asker: NodeId, nursery: trio.Nursery) -> None:
        self._handler = handler
        self._asker = asker
        self._nursery = nursery

    @contextlib.asynccontextmanager
    async def exchange(
        self, peer: NodeId, addresses: Sequence[Address], kind: Kind, *first: bytes
    ) -> AsyncIterator[FrameStream]:
        ours, theirs = map(FrameStream, memory_stream_pair())
        self._nursery.start_soon(self._handler, self._asker, theirs)
        await ours.send(*first)
        yield ours


class House:
    """Member 0 has come back and still catches up; member 1 asks it."""

    def __init__(self) -> None:
        self.mesh = Mesh(2).start_all()
        self.mesh.crash(0)
        self.mesh.start(0)
        assert not self.mesh[0].is_caught_up
        self.catching_up = CatchingUp(self.mesh[0])
        self.runtime = PlayedRuntime()
        admitting = Admitting(LocalModels([self.runtime]), lambda node: False)
        functions = FunctionRunner({}, pathlib.Path("unused"))
        admit = self.catching_up.admit
        self.handlers: dict[Kind, Handler] = {
            Kind.REQUEST: Serving(admitting, admit).serve_stream,
            Kind.TASK: TaskServing(functions, admit, lambda: Load(0, 0, 1)).serve_stream,
        }
        self.ids = map(str, itertools.count())
        self.frames: list[str] = []
        self.refusals: list[str] = []

    async def ask(self, kind: Kind) -> None:
        """One request, up to its end."""
        async with trio.open_nursery() as nursery:
            peers = cast("Peers", PlayedPeers(self.handlers[kind], self.mesh.id(1), nursery))
            view = View(self.mesh[1])
            asking = Asking(view, peers, lambda node: (), at_once, lambda event: None)
            ask = Ask(next(self.ids), 60_000, BODIES[kind], int(HEARTBEAT_S * 1000))
            source = asking.ask(self.mesh.id(0), kind, ask, ("unavailable", "queue_full"))
            try:
                async with aclosing(source) as frames:
                    async for frame in frames:
                        self.frames.append(type(frame).__name__)
            except AttemptFailed as failure:
                self.refusals.append(failure.message)

    async def catch_up(self) -> None:
        """The longest that it may take."""
        await trio.sleep(CATCH_UP_NS / SECOND)
        assert not self.runtime.requests
        self.catching_up.end()


def _run(house: House, *kinds: Kind) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for kind in kinds:
                nursery.start_soon(house.ask, kind)
            nursery.start_soon(house.catch_up)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_who_asks_hears_that_the_node_lives_while_it_catches_up() -> None:
    """It is not given up as silent: it is answered as soon as that is over."""
    house = House()
    _run(house, Kind.REQUEST)
    assert house.refusals == []
    beats, rest = house.frames[:-4], house.frames[-4:]
    assert rest == ["Accept", "Data", "Data", "End"]
    assert set(beats) == {Heartbeat.__name__}


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.TASK])
def test_who_was_revoked_meanwhile_is_served_nothing(kind: Kind) -> None:
    """It asked before this node knew."""
    house = House()
    house.mesh[0].authority.load([house.mesh.authorities.revoke(house.mesh.id(1)).wire])
    _run(house, kind)
    assert house.refusals == ["who asks is no member (any more)"]
    assert not house.runtime.requests


def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, so that it goes elsewhere; the others are answered."""
    monkeypatch.setattr(catching_up, "WAITING_MAX", 2)
    house = House()
    _run(house, Kind.REQUEST, Kind.REQUEST, Kind.REQUEST)
    assert house.refusals == ["2 requests wait until it knows what it missed"]
    assert house.frames.count("End") == 2
