"""The streams of gossip: answers to peers, exchanges of our own, and two real nodes."""

import contextlib
import pathlib
import random

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from meshd import clock
from meshd import gossip as under_test
from meshd.frames import FrameStream, StreamBroken
from meshd.gossip import Gossip
from meshd.peers import Kind
from meshd.sockets import bind_node
from protocol.assembly import NodeConfig
from protocol.effects import (
    AnswerStream,
    Effect,
    OpenStream,
)
from protocol.events import (
    AddressFound,
    Event,
    LeaveRequested,
    Started,
    StreamFailed,
    StreamFailure,
    StreamReceived,
)
from protocol.identity import Address, NodeId
from protocol.members import State
from protocol.node import Node
from protocol.snapshot import Snapshot
from tests.helpers.nodes import Mesh, seed_of
from tests.meshd.members import Member, until, workers
from tests.meshd.played_node import PEER, Driven, PlayedNode, bound, driven_by, run

# ---- streams that peers begin ----


async def _serve(driven: Driven, frames: FrameStream, failures: list[str]) -> None:
    try:
        await driven.gossip.serve_stream(PEER, frames)
        failures.append("")
    except StreamBroken as error:
        failures.append(str(error))


def test_a_peers_message_gets_the_nodes_answer() -> None:
    """Its own, though two streams wait at the same time; wall time comes along."""

    async def test() -> None:
        node = PlayedNode()

        def answer(event: Event) -> None:
            if isinstance(event, StreamReceived):
                assert event.peer == PEER
                assert abs(event.wall_s - clock.wall_s()) <= 1
                data = b"to " + event.data
                node.effects = {"StreamReceived": [AnswerStream(event.stream, data)]}

        node.on_event = answer
        failures: list[str] = []
        async with driven_by(node) as driven:
            clients: list[FrameStream] = []
            async with trio.open_nursery() as nursery:
                for name in (b"anna", b"bert"):
                    left, right = memory_stream_pair()
                    nursery.start_soon(_serve, driven, FrameStream(right), failures)
                    clients.append(FrameStream(left))
                    await clients[-1].send(name)
                assert [await client.receive(100) for client in clients] == [b"to anna", b"to bert"]
            assert failures == ["", ""]
            assert not driven.gossip._answers

    run(test)


def test_a_stream_that_the_node_does_not_answer_ends_at_once() -> None:
    """The peer need not wait for a time-out to know."""

    async def test() -> None:
        failures: list[str] = []
        async with driven_by(PlayedNode()) as driven:
            left, right = memory_stream_pair()
            await FrameStream(left).send(b"nonsense")
            with trio.fail_after(2):
                await _serve(driven, FrameStream(right), failures)
            assert failures == ["there is nothing to answer"]
            assert not driven.gossip._answers

    run(test)


def test_a_stream_without_a_message_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed, silent, or one that comes when the inbox is full."""
    monkeypatch.setattr(under_test, "EXCHANGE_S", 0.05)

    async def test() -> None:
        failures: list[str] = []
        async with bound() as udp:
            driven = Driven(PlayedNode(), udp)
            for prepare in ("close", "silence", "full"):
                left, right = memory_stream_pair()
                if prepare == "close":
                    await left.aclose()
                if prepare == "full":
                    while driven.gossip.give(LeaveRequested()):
                        pass
                    await FrameStream(left).send(b"x")
                await _serve(driven, FrameStream(right), failures)
            assert failures == ["closed before its message", "too slow", "too busy"]
            assert not driven.gossip._answers

    run(test)


def test_a_node_that_answers_nothing_in_time_frees_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stuck node does not collect streams."""
    monkeypatch.setattr(under_test, "EXCHANGE_S", 0.05)

    async def test() -> None:
        failures: list[str] = []
        async with bound() as udp:
            driven = Driven(PlayedNode(), udp)
            left, right = memory_stream_pair()
            await FrameStream(left).send(b"x")
            await _serve(driven, FrameStream(right), failures)
            assert failures == ["there is nothing to answer"]
            assert not driven.gossip._answers

    run(test)


@pytest.mark.parametrize(("is_member", "allowed"), [(True, 8 * 2**20), (False, 2**20)])
def test_who_is_not_admitted_may_say_less(is_member: bool, allowed: int) -> None:
    """A join is small; only members send everything that they know."""

    async def test() -> None:
        failures: list[str] = []
        node = PlayedNode()
        node.is_member = is_member
        async with driven_by(node) as driven:
            left, right = memory_stream_pair()
            await left.send_all((allowed + 1).to_bytes(4, "big"))
            await _serve(driven, FrameStream(right), failures)
            assert failures == [f"a frame of {allowed + 1} bytes, over the limit of {allowed}"]

    run(test)


def test_slow_guests_hold_up_nobody() -> None:
    """However many are silent, the next guest and a member are read at once."""

    async def test() -> None:
        failures: list[str] = []
        node = PlayedNode()
        node.is_member = False
        async with driven_by(node) as driven, trio.open_nursery() as nursery:
            ends: list[trio.abc.Stream] = []
            for _ in range(16):
                left, right = memory_stream_pair()
                ends.append(left)
                nursery.start_soon(_serve, driven, FrameStream(right), failures)
            await wait_all_tasks_blocked()
            for said in (b"a guest", b"a member"):
                left, right = memory_stream_pair()
                await FrameStream(left).send(said)
                nursery.start_soon(_serve, driven, FrameStream(right), failures)
                await wait_all_tasks_blocked()
                node.is_member = True
            events = await driven.seen("StreamReceived", 2)
            heard = [event.data for event in events if isinstance(event, StreamReceived)]
            assert heard == [b"a guest", b"a member"]
            nursery.cancel_scope.cancel()

    run(test)


def test_one_peer_has_only_so_many_messages_answered_at_a_time() -> None:
    """Its next is refused, another peer's is not; when one is done there is room again."""

    async def test() -> None:
        failures: list[str] = []
        async with bound() as udp, trio.open_nursery() as nursery:
            driven = Driven(PlayedNode(), udp)  # nobody takes from the inbox: none is answered
            scopes: list[trio.CancelScope] = []

            async def serve(peer: NodeId, scope: trio.CancelScope) -> None:
                left, right = memory_stream_pair()
                await FrameStream(left).send(b"x")
                with scope:
                    try:
                        await driven.gossip.serve_stream(peer, FrameStream(right))
                    except StreamBroken as error:
                        failures.append(error.fault)

            async def begin(peer: NodeId) -> None:
                scopes.append(trio.CancelScope())
                nursery.start_soon(serve, peer, scopes[-1])
                await wait_all_tasks_blocked()

            for _ in range(under_test.PEER_ANSWERS_MAX):
                await begin(PEER)
            assert failures == []
            await begin(PEER)
            assert failures == ["too_many_of_one"]
            await begin(NodeId(bytes(32)))
            scopes[0].cancel()
            await wait_all_tasks_blocked()
            await begin(PEER)
            assert failures == ["too_many_of_one"]
            nursery.cancel_scope.cancel()
        assert not driven.gossip._answering

    run(test)


# ---- streams that the node begins ----


def test_an_exchange_brings_its_answer_or_its_failure(tmp_path: pathlib.Path) -> None:
    """Over real TLS; a member that is not there is reported, not retried."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def answering(peer: NodeId, frames: FrameStream) -> None:
        await frames.send(b"to " + (await frames.receive(100) or b""))

    async def closing(peer: NodeId, frames: FrameStream) -> None:
        await frames.receive(100)
        raise StreamBroken("no")

    async def test() -> None:
        for handler, there in ((answering, True), (closing, True), (answering, False)):
            async with bert.serving({Kind.GOSSIP: handler}) as address:
                if not there:
                    address = Address("127.0.0.1", 1)
                node = PlayedNode(LeaveRequested=[OpenStream(bert.id, (address,), b"hello")])
                async with driven_by(node, peers=anna.peers) as driven:
                    driven.gossip.give(LeaveRequested())
                    if handler is answering and there:
                        [event] = await driven.seen("StreamReceived")
                        assert isinstance(event, StreamReceived)
                        assert (event.stream, event.peer) == (0, bert.id)
                        assert event.data == b"to hello"
                    else:
                        reason = StreamFailure.OTHER if there else StreamFailure.REFUSED
                        assert await driven.seen("StreamFailed") == [StreamFailed(bert.id, reason)]
                    assert driven.gossip._open_streams == 0
                anna.peers.drop_idle(everything=True)

    run(test)


def test_exchanges_are_bounded_in_number_and_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit they are not begun, and counted; silence ends each."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(under_test, "STREAMS_MAX", 3)
    monkeypatch.setattr(under_test, "EXCHANGE_S", 0.5)

    async def silent(peer: NodeId, frames: FrameStream) -> None:
        await trio.sleep_forever()

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: silent}) as address:
            node = PlayedNode(LeaveRequested=[OpenStream(bert.id, (address,), b"x")] * 5)
            async with driven_by(node, peers=anna.peers) as driven:
                driven.gossip.give(LeaveRequested())
                assert len(await driven.seen("StreamFailed", 3)) == 3
                assert driven.gossip.drops == {"streams_full": 2}
                assert driven.gossip._open_streams == 0

    run(test)


# ---- real nodes ----


def test_two_real_nodes_become_one_mesh(tmp_path: pathlib.Path) -> None:
    """Sockets, TLS and clock are real; one hint of an address is enough for both."""
    mesh = Mesh(2)
    roles = workers(0, 1)
    members = [Member(tmp_path, index, roles) for index in range(2)]

    async def nothing(effect: Effect) -> None:
        await trio.lowlevel.checkpoint()

    async def test() -> None:
        async with contextlib.AsyncExitStack() as closing, trio.open_nursery() as nursery:
            nodes: list[Node] = []
            gossips: list[Gossip] = []
            addresses: list[Address] = []
            for member in members:
                sockets = await bind_node(member.home, "127.0.0.1", 0)
                closing.callback(sockets.close)
                node = Node(
                    NodeConfig(
                        name=f"n{member.index}",
                        software="test",
                        root=mesh.authorities.root,
                        boot=1 << 24,
                        boot_secret=seed_of("boot", member.index),
                        snapshot=Snapshot(records=mesh.records),
                    ),
                    member.crypto,
                    random.Random(member.index),
                )
                gossip = Gossip(
                    node, sockets.udp, member.peers, persist=nothing, on_effect=lambda effect: None
                )
                handlers = {Kind.GOSSIP: gossip.serve_stream}
                nursery.start_soon(member.peers.serve, [sockets.tcp], handlers)
                nursery.start_soon(gossip.run)
                address = Address("127.0.0.1", sockets.port)
                gossip.give(Started((address,)))
                nodes.append(node)
                gossips.append(gossip)
                addresses.append(address)
            gossips[0].give(AddressFound(members[1].id, addresses[1]))
            ids = [member.id for member in members]
            await until(lambda: nodes[0].members.state(ids[1]) is State.ALIVE)
            await until(lambda: nodes[1].members.state(ids[0]) is State.ALIVE)
            await until(lambda: nodes[0].round_trip_ns(members[1].id) is not None)
            gossips[0].give(LeaveRequested())
            await until(lambda: nodes[1].members.state(members[0].id) is State.LEFT)
            for member in members:
                member.peers.drop_idle(everything=True)
            nursery.cancel_scope.cancel()

    run(test)
