"""The driver of the node: what goes in, what comes out, and what it survives."""

import pathlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from trio.testing import memory_stream_pair

from meshd import clock
from meshd import gossip as under_test
from meshd.frames import FrameStream, StreamBroken
from meshd.gossip import GAP_NS, INBOX_EVENTS, Gossip
from meshd.peers import Kind, Peers
from meshd.recording import Recording
from protocol.config import SECOND
from protocol.deadlines import NEVER
from protocol.effects import (
    Admitted,
    AnswerStream,
    DatagramDropped,
    Effect,
    OpenStream,
    Persist,
    SendDatagram,
)
from protocol.errors import DropReason
from protocol.events import (
    AddressFound,
    DatagramReceived,
    DeadlineReached,
    Event,
    LeaveRequested,
    Resumed,
    Started,
    StreamFailed,
    StreamReceived,
)
from protocol.identity import Address, NodeId
from protocol.members import State
from protocol.node import Node, NodeConfig
from protocol.snapshot import Snapshot
from tests.helpers.nodes import Mesh, seed_of
from tests.meshd.members import TIMEOUT_S, Member, until, workers

PEER = NodeId(b"p" * 32)


class PlayedNode:
    """Notes its events and answers each with what the test wrote down for its type."""

    def __init__(self, **effects: Sequence[Effect]) -> None:
        self.effects = effects
        self.events: list[Event] = []
        self.times: list[int] = []
        self.deadline = NEVER
        self.after_deadline = NEVER
        self.on_event: Callable[[Event], None] = lambda event: None
        self.is_member = True
        self.authority = SimpleNamespace(
            admission=lambda node: object() if self.is_member else None
        )

    def handle(self, event: Event, now: int) -> list[Effect]:
        self.events.append(event)
        self.times.append(now)
        if isinstance(event, DeadlineReached):
            self.deadline = self.after_deadline
        self.on_event(event)
        return list(self.effects.get(type(event).__name__, ()))

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


class Driven:
    """A Gossip around a played node, on loopback."""

    def __init__(
        self,
        node: PlayedNode,
        udp: trio.socket.SocketType,
        peers: Peers | None = None,
        recording: Recording | None = None,
    ) -> None:
        self.node = node
        self.udp = udp
        self.persisted: list[Effect] = []
        self.effects: list[Effect] = []
        self.gossip = Gossip(
            cast("Node", node),
            udp,
            cast("Peers", peers),
            persist=self._persist,
            on_effect=self.effects.append,
            recording=recording,
        )
        host, port = udp.getsockname()[:2]
        self.address = Address(host, port)

    async def _persist(self, effect: Persist | Admitted) -> None:
        await trio.lowlevel.checkpoint()
        self.persisted.append(effect)

    async def seen(self, kind: str, count: int = 1) -> list[Event]:
        """Waits until the node has had so many events of this kind."""
        await until(lambda: self.node.kinds().count(kind) >= count)
        return [event for event in self.node.events if type(event).__name__ == kind]


@asynccontextmanager
async def _bound(host: str = "127.0.0.1") -> AsyncIterator[trio.socket.SocketType]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as udp:
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        await udp.bind((host, 0))
        yield udp


@asynccontextmanager
async def _driven(
    node: PlayedNode,
    *,
    host: str = "127.0.0.1",
    peers: Peers | None = None,
    recording: Recording | None = None,
) -> AsyncIterator[Driven]:
    async with _bound(host) as udp, trio.open_nursery() as nursery:
        driven = Driven(node, udp, peers, recording)
        nursery.start_soon(driven.gossip.run)
        yield driven
        nursery.cancel_scope.cancel()


def _run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            await test()

    trio.run(main)


# ---- datagrams ----


def test_datagrams_come_in_with_their_source() -> None:
    """Bytes as they are, also none and too many; the address is what one would answer to."""

    async def test() -> None:
        async with _driven(PlayedNode()) as driven:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("127.0.0.1", 0))
                source = Address(*sender.getsockname())
                for data in (b"hello", b"", b"x" * 5_000):
                    sender.sendto(data, driven.address)
            events = await driven.seen("DatagramReceived", 3)
            assert events[0] == DatagramReceived(b"hello", source)
            assert events[1] == DatagramReceived(b"", source)
            assert isinstance(events[2], DatagramReceived)
            assert 1_200 < len(events[2].data) < 5_000, "cut, but seen to be too long"

    _run(test)


def test_ipv4_on_a_dual_socket_looks_like_ipv4() -> None:
    """Sources come in as plain IPv4, and answers to them go out."""

    async def test() -> None:
        try:
            probe = _bound("::")
            async with probe:
                pass
        except OSError:
            pytest.skip("needs IPv6")
        node = PlayedNode()
        async with _driven(node, host="::") as driven:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("127.0.0.1", 0))
                sender.settimeout(5)
                source = Address(*sender.getsockname())
                node.effects = {"DatagramReceived": [SendDatagram(b"answer", source)]}
                sender.sendto(b"hello", ("127.0.0.1", driven.address.port))
                assert await trio.to_thread.run_sync(sender.recv, 100) == b"answer"
            assert node.events == [DatagramReceived(b"hello", source)]

    _run(test)


@pytest.mark.parametrize(
    ("to", "counted"),
    [
        (Address("::1", 9), "send_failed"),
        (Address("255.255.255.255", 9), "send_failed"),
        (Address("127.0.0.1", 0), "send_failed"),
        (Address("fe80::1%" + "a" * 100, 9), "send_failed"),
        (Address("no-such-host.invalid", 9), "name_unresolved"),
    ],
)
def test_what_cannot_be_sent_is_counted(to: Address, counted: str) -> None:
    """Whatever address a member states, the node goes on."""

    async def test() -> None:
        node = PlayedNode(LeaveRequested=[SendDatagram(b"x", to)])
        async with _driven(node) as driven:
            for _ in range(3):
                driven.gossip.give(LeaveRequested())
            await driven.seen("LeaveRequested", 3)
            await until(lambda: driven.gossip.drops[counted] >= 3)
            assert driven.gossip.drops == {counted: 3}

    _run(test)


def test_an_icmp_error_does_not_end_the_receiving() -> None:
    """A port that nobody listens on answers; it is counted at most, and datagrams still come."""

    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            nobody = Address(*probe.getsockname())
        node = PlayedNode(LeaveRequested=[SendDatagram(b"x", nobody)])
        async with _driven(node) as driven:
            # A connected socket is the one that gets to hear of ICMP errors on every system.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("127.0.0.1", 0))
                driven.gossip.give(LeaveRequested())
                await driven.seen("LeaveRequested")
                sender.sendto(b"hello", driven.address)
                await driven.seen("DatagramReceived")

    _run(test)


def test_errors_of_receiving_are_counted_and_survived() -> None:
    """By their name; what comes after them arrives."""

    async def test() -> None:
        async with _bound() as udp:
            left: list[object] = [
                ConnectionRefusedError(111, "refused"),
                OSError(113, "no route"),
                (b"hello", ("127.0.0.1", 9)),
            ]

            async def recvfrom(size: int) -> object:
                if not left:
                    await trio.sleep_forever()
                item = left.pop(0)
                if isinstance(item, OSError):
                    raise item
                return item

            flaky = SimpleNamespace(
                family=udp.family, recvfrom=recvfrom, getsockname=udp.getsockname
            )
            node = PlayedNode()
            driven = Driven(node, cast("trio.socket.SocketType", flaky))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driven.gossip.run)
                await driven.seen("DatagramReceived")
                nursery.cancel_scope.cancel()
            assert driven.gossip.drops == {"receive_ECONNREFUSED": 1, "receive_EHOSTUNREACH": 1}

    _run(test)


# ---- the inbox and time ----


def test_a_full_inbox_refuses_and_counts() -> None:
    """The giver is told, and nothing waits."""

    async def test() -> None:
        async with _bound() as udp:
            gossip = Driven(PlayedNode(), udp).gossip
            given = [gossip.give(LeaveRequested()) for _ in range(INBOX_EVENTS + 10)]
            assert given == [True] * INBOX_EVENTS + [False] * 10
            assert gossip.drops == {"inbox_full": 10}

    _run(test)


def test_events_are_handled_in_order() -> None:
    """By one task, each with a time that never goes back."""

    async def test() -> None:
        node = PlayedNode()
        async with _driven(node) as driven:
            events = [AddressFound(PEER, Address("h", number)) for number in range(1, 200)]
            assert all(driven.gossip.give(event) for event in events)
            await driven.seen("AddressFound", 199)
            assert node.events == events
            assert node.times == sorted(node.times)

    _run(test)


def test_the_deadline_is_met() -> None:
    """Not early, and once for each."""

    async def test() -> None:
        node = PlayedNode()
        due = clock.now_ns() + SECOND // 20
        node.deadline = due
        async with _driven(node) as driven:
            await driven.seen("DeadlineReached")
            assert due <= node.times[0] < due + SECOND
            assert node.kinds() == ["DeadlineReached"]

    _run(test)


def test_a_deadline_that_an_event_brings_nearer_is_met() -> None:
    """A node that slept for ever wakes up by itself afterwards."""

    async def test() -> None:
        node = PlayedNode()

        def nearer(event: Event) -> None:
            if isinstance(event, LeaveRequested):
                node.deadline = clock.now_ns() + SECOND // 50

        node.on_event = nearer
        async with _driven(node) as driven:
            driven.gossip.give(LeaveRequested())
            await driven.seen("DeadlineReached")
            assert node.kinds() == ["LeaveRequested", "DeadlineReached"]

    _run(test)


def test_what_waits_comes_before_the_deadline() -> None:
    """An ack that has arrived must not lose to its time-out, however late we are."""

    async def test() -> None:
        node = PlayedNode()
        async with _bound() as udp:
            driven = Driven(node, udp)
            node.deadline = clock.now_ns() - 1
            for _ in range(5):
                driven.gossip.give(LeaveRequested())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driven.gossip.run)
                await driven.seen("DeadlineReached")
                nursery.cancel_scope.cancel()
        assert node.kinds() == ["LeaveRequested"] * 5 + ["DeadlineReached"]

    _run(test)


def test_a_flood_does_not_starve_the_deadline() -> None:
    """However many events come, the node's own clock goes on."""

    async def test() -> None:
        node = PlayedNode()
        async with _driven(node) as driven:
            node.deadline = clock.now_ns() + SECOND // 20
            while "DeadlineReached" not in node.kinds():
                driven.gossip.give(LeaveRequested())
                driven.gossip.give(LeaveRequested())
                await trio.lowlevel.checkpoint()

    _run(test)


def test_a_gap_is_noticed_before_anything_else() -> None:
    """After a sleep the node hears first that it slept, and how long; then what waited."""

    async def test() -> None:
        node = PlayedNode()
        async with _bound() as udp:
            driven = Driven(node, udp)
            node.deadline = clock.now_ns() - 60 * SECOND

            def catch_up(event: Event) -> None:
                if isinstance(event, Resumed):
                    node.deadline = clock.now_ns() + 3600 * SECOND

            node.on_event = catch_up
            driven.gossip.give(LeaveRequested())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driven.gossip.run)
                await driven.seen("LeaveRequested")
                nursery.cancel_scope.cancel()
        assert node.kinds() == ["Resumed", "LeaveRequested"]
        resumed = node.events[0]
        assert isinstance(resumed, Resumed)
        assert 60 * SECOND <= resumed.gap_ns < 70 * SECOND

    _run(test)


def test_being_a_little_late_is_no_gap() -> None:
    """A busy machine is not a sleeping one."""

    async def test() -> None:
        node = PlayedNode()
        node.deadline = clock.now_ns() - GAP_NS // 2
        async with _driven(node) as driven:
            await driven.seen("DeadlineReached")
            assert node.kinds() == ["DeadlineReached"]

    _run(test)


# ---- effects ----


def test_what_must_be_durable_is_before_what_follows() -> None:
    """A datagram that uses a number leaves after that number is on disk; everybody is told."""

    async def test() -> None:
        order: list[str] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            effects: list[Effect] = [
                Persist(7, 8),
                Admitted(PEER),
                SendDatagram(b"x", Address(*receiver.getsockname())),
                DatagramDropped(DropReason.REPLAYED, PEER),
            ]
            node = PlayedNode(LeaveRequested=effects)
            async with _driven(node) as driven:
                send = driven.gossip._send

                async def noting(effect: SendDatagram) -> None:
                    order.append(f"sent after {len(driven.persisted)}")
                    await send(effect)

                driven.gossip._send = noting  # type: ignore[method-assign]  # to see the order
                driven.gossip.give(LeaveRequested())
                await until(lambda: len(driven.effects) >= 4)
                assert driven.effects == effects
                assert driven.persisted == effects[:2]
                assert order == ["sent after 2"]
                assert driven.gossip.drops == {"replayed": 1}

    _run(test)


async def _broken_by(node: PlayedNode, recording: Recording | None = None) -> None:
    """Give an event to a node that fails over it."""
    async with _driven(node, recording=recording) as driven:
        driven.gossip.give(LeaveRequested())
        await trio.sleep_forever()


def test_a_bug_in_the_node_is_loud() -> None:
    """It ends the driver with the bug's own exception, rather than going on half alive."""

    async def test() -> None:
        node = PlayedNode()

        def fail(event: Event) -> None:
            raise LookupError("a bug")

        node.on_event = fail
        with pytest.raises(ExceptionGroup) as caught:
            await _broken_by(node)
        assert caught.group_contains(LookupError)

    _run(test)


def test_everything_is_recorded_before_it_is_handled(tmp_path: pathlib.Path) -> None:
    """So that a replay has the event that a crash was about."""

    async def test() -> None:
        recording = Recording(tmp_path / "record")
        node = PlayedNode()

        def fail(event: Event) -> None:
            raise LookupError("a bug")

        node.on_event = fail
        with pytest.raises(ExceptionGroup):
            await _broken_by(node, recording)
        recording.close()
        assert '"event":"LeaveRequested"' in (tmp_path / "record").read_text()

    _run(test)


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
        async with _driven(node) as driven:
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

    _run(test)


def test_a_stream_that_the_node_does_not_answer_ends_at_once() -> None:
    """The peer need not wait for a time-out to know."""

    async def test() -> None:
        failures: list[str] = []
        async with _driven(PlayedNode()) as driven:
            left, right = memory_stream_pair()
            await FrameStream(left).send(b"nonsense")
            with trio.fail_after(2):
                await _serve(driven, FrameStream(right), failures)
            assert failures == ["there is nothing to answer"]
            assert not driven.gossip._answers

    _run(test)


def test_a_stream_without_a_message_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed, silent, or one that comes when the inbox is full."""
    monkeypatch.setattr(under_test, "EXCHANGE_S", 0.05)

    async def test() -> None:
        failures: list[str] = []
        async with _bound() as udp:
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

    _run(test)


def test_a_node_that_answers_nothing_in_time_frees_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stuck node does not collect streams."""
    monkeypatch.setattr(under_test, "EXCHANGE_S", 0.05)

    async def test() -> None:
        failures: list[str] = []
        async with _bound() as udp:
            driven = Driven(PlayedNode(), udp)
            left, right = memory_stream_pair()
            await FrameStream(left).send(b"x")
            await _serve(driven, FrameStream(right), failures)
            assert failures == ["there is nothing to answer"]
            assert not driven.gossip._answers

    _run(test)


@pytest.mark.parametrize(("is_member", "allowed"), [(True, 8 * 2**20), (False, 2 * 2**20)])
def test_who_is_not_admitted_may_say_less(is_member: bool, allowed: int) -> None:
    """A join is small; only members send everything that they know."""

    async def test() -> None:
        failures: list[str] = []
        node = PlayedNode()
        node.is_member = is_member
        async with _driven(node) as driven:
            left, right = memory_stream_pair()
            await left.send_all((allowed + 1).to_bytes(4, "big"))
            await _serve(driven, FrameStream(right), failures)
            assert failures == [f"a frame of {allowed + 1} bytes, over the limit of {allowed}"]

    _run(test)


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
                async with _driven(node, peers=anna.peers) as driven:
                    driven.gossip.give(LeaveRequested())
                    if handler is answering and there:
                        [event] = await driven.seen("StreamReceived")
                        assert isinstance(event, StreamReceived)
                        assert (event.stream, event.peer) == (0, bert.id)
                        assert event.data == b"to hello"
                    else:
                        assert await driven.seen("StreamFailed") == [StreamFailed(bert.id)]
                    assert driven.gossip._open_streams == 0
                anna.peers.drop_idle(everything=True)

    _run(test)


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
            async with _driven(node, peers=anna.peers) as driven:
                driven.gossip.give(LeaveRequested())
                assert len(await driven.seen("StreamFailed", 3)) == 3
                assert driven.gossip.drops == {"streams_full": 2}
                assert driven.gossip._open_streams == 0

    _run(test)


# ---- real nodes ----


def test_two_real_nodes_become_one_mesh(tmp_path: pathlib.Path) -> None:
    """Sockets, TLS and clock are real; one hint of an address is enough for both."""
    mesh = Mesh(2)
    roles = workers(0, 1)
    members = [Member(tmp_path, index, roles) for index in range(2)]

    async def nothing(effect: Effect) -> None:
        await trio.lowlevel.checkpoint()

    async def test() -> None:
        async with trio.open_nursery() as nursery, _bound() as one, _bound() as other:
            nodes: list[Node] = []
            gossips: list[Gossip] = []
            addresses: list[Address] = []
            for member, udp in zip(members, (one, other), strict=True):
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
                    node, udp, member.peers, persist=nothing, on_effect=lambda effect: None
                )
                port = udp.getsockname()[1]
                [listener] = await trio.open_tcp_listeners(port, host="127.0.0.1")
                handlers = {Kind.GOSSIP: gossip.serve_stream}
                nursery.start_soon(member.peers.serve, [listener], handlers)
                nursery.start_soon(gossip.run)
                gossip.give(Started((Address("127.0.0.1", port),)))
                nodes.append(node)
                gossips.append(gossip)
                addresses.append(Address("127.0.0.1", port))
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

    _run(test)
