"""Asking one member: how many at a time are being connected to it."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from meshd.asking import CONNECTING_MAX, SHORT_BYTES, TURN_S, Asking, AttemptFailed
from meshd.frames import FrameStream
from meshd.peers import Kind, Peers, PeerUnreachable
from meshd.view import View
from meshd.watchdogs import CONTACT_S
from protocol.events import Event
from protocol.exchange import Ask, Refuse, encode_frame
from protocol.identity import Address, NodeId
from protocol.messages import Load
from tests.helpers.nodes import Mesh
from tests.meshd.members import at_once

ONE, TWO = NodeId(b"1" * 32), NodeId(b"2" * 32)


class SlowPeers:
    """Nobody is ever connected; those who try are counted."""

    def __init__(self) -> None:
        self.connecting: dict[NodeId, int] = {ONE: 0, TWO: 0}
        self.first: list[bytes] = []
        """What shall leave with an opening."""
        self.refuse = trio.Event()

    @contextlib.asynccontextmanager
    async def exchange(
        self, peer: NodeId, addresses: Sequence[Address], kind: Kind, *first: bytes
    ) -> AsyncIterator[Any]:
        self.connecting[peer] += 1
        self.first += first
        try:
            await self.refuse.wait()
        finally:
            self.connecting[peer] -= 1
        raise PeerUnreachable("refused")
        yield


def _asking(peers: SlowPeers) -> Asking:
    view = View(Mesh(1).start_all()[0])
    return Asking(view, cast("Peers", peers), lambda node: (), at_once, lambda event: None)


async def _ask(asking: Asking, node: NodeId, failures: list[str], body: bytes = b"") -> None:
    try:
        async for _ in asking.ask(node, Kind.REQUEST, Ask("ab", 1_000, body), ()):
            pass
    except AttemptFailed as failure:
        failures.append(failure.message)


def test_only_so_many_are_being_connected_to_one_member() -> None:
    """The others have their turn when those have come to something; another member is not waited
    for, and nothing is remembered in the end.
    """
    failures: list[str] = []

    async def main() -> None:
        peers = SlowPeers()
        asking = _asking(peers)
        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTING_MAX + 5):
                nursery.start_soon(_ask, asking, ONE, failures)
            nursery.start_soon(_ask, asking, TWO, failures)
            await wait_all_tasks_blocked()
            assert peers.connecting == {ONE: CONNECTING_MAX, TWO: 1}
            nursery.cancel_scope.cancel()
        assert peers.connecting == {ONE: 0, TWO: 0}
        assert not asking._turns

    trio.run(main)
    assert not failures


def test_who_waits_for_a_turn_need_not_find_out_for_himself() -> None:
    """A member that answers nobody holds nobody up for longer than one attempt may take; whoever
    comes later tries anew.
    """
    failures: list[str] = []

    async def main() -> None:
        peers = SlowPeers()
        asking = _asking(peers)
        async with trio.open_nursery() as nursery:
            for _ in range(3 * CONNECTING_MAX):
                nursery.start_soon(_ask, asking, ONE, failures)
        assert trio.current_time() < CONTACT_S + 0.1
        peers.refuse.set()
        await _ask(asking, ONE, failures)
        assert not asking._turns

    trio.run(main, clock=MockClock(autojump_threshold=0))
    waited = "it cannot be reached (others could not reach it just now)"
    assert Counter(failures) == {
        "it cannot be reached (no answer)": CONNECTING_MAX,
        waited: 2 * CONNECTING_MAX,
        "it cannot be reached (refused)": 1,
    }


class ReluctantPeers(SlowPeers):
    """Everybody is connected in the end, and refused."""

    def __init__(self, handshake_s: float) -> None:
        super().__init__()
        self._handshake_s = handshake_s

    @contextlib.asynccontextmanager
    async def exchange(
        self, peer: NodeId, addresses: Sequence[Address], kind: Kind, *first: bytes
    ) -> AsyncIterator[Any]:
        await trio.sleep(self._handshake_s)
        ours, theirs = memory_stream_pair()
        refusal = Refuse("queue_full", "full", 1_000, Load(0, 1, 1))
        await FrameStream(theirs).send(encode_frame(refusal))
        yield FrameStream(ours)


@pytest.mark.parametrize(("handshake_s", "asked"), [(0.05, 128), (2.9, 32)])
def test_nobody_waits_for_ever_for_a_turn(handshake_s: float, asked: int) -> None:
    """Where each handshake takes long, the last ones go elsewhere; the node was heard of, so it is
    not called lost. All streams of a lost node that move at once have their turns.
    """
    events: list[Event] = []
    failures: list[AttemptFailed] = []

    async def main() -> None:
        peers = ReluctantPeers(handshake_s)
        view = View(Mesh(1).start_all()[0])
        asking = Asking(view, cast("Peers", peers), lambda node: (), at_once, events.append)

        async def ask() -> None:
            with pytest.raises(AttemptFailed) as caught:
                async for _ in asking.ask(
                    ONE, Kind.REQUEST, Ask("ab", 1_000, b""), ("queue_full",)
                ):
                    pass
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(128):
                nursery.start_soon(ask)
        assert trio.current_time() < TURN_S + CONTACT_S
        assert not asking._turns

    trio.run(main, clock=MockClock(autojump_threshold=0))
    codes = Counter(failure.code for failure in failures)
    assert codes == Counter({"queue_full": asked, "unavailable": 128 - asked})
    assert not events
    assert not any(failure.is_lost for failure in failures)


def test_what_takes_time_to_hand_over_keeps_nobody_from_being_connected() -> None:
    """A short request leaves with the opening of its exchange, a long one behind it."""
    peers = SlowPeers()
    peers.refuse.set()

    async def main() -> None:
        await _ask(_asking(peers), ONE, [], b"short")
        await _ask(_asking(peers), ONE, [], bytes(SHORT_BYTES))

    trio.run(main)
    assert peers.first == [encode_frame(Ask("ab", 1_000, b"short"))]
