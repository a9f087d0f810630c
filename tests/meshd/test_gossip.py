"""The driver of the node: datagrams and time in, effects out, and what it survives."""

import pathlib
import socket
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from meshd import clock
from meshd.gossip import INBOX_EVENTS, LAG_NS
from meshd.recording import Recording
from protocol.config import SECOND
from protocol.effects import (
    Admitted,
    DatagramDropped,
    Effect,
    Persist,
    SendDatagram,
)
from protocol.errors import DropReason
from protocol.events import (
    AddressFound,
    DatagramReceived,
    Event,
    LeaveRequested,
    Resumed,
)
from protocol.identity import Address
from tests.helpers.recordings import recorded_node
from tests.meshd.members import until
from tests.meshd.played_node import PEER, Driven, PlayedNode, bound, driven_by, run


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a moment is another test's subject."""
    monkeypatch.setattr("meshd.gossip.LAG_NS", 3600 * SECOND)
    monkeypatch.setattr("meshd.gossip.GAP_NS", 3600 * SECOND)


# ---- datagrams ----


def test_datagrams_come_in_with_their_source() -> None:
    """Bytes as they are, also none and too many; the address is what one would answer to."""

    async def test() -> None:
        async with driven_by(PlayedNode()) as driven:
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

    run(test)


def test_ipv4_on_a_dual_socket_looks_like_ipv4() -> None:
    """Sources come in as plain IPv4, and answers to them go out."""

    async def test() -> None:
        try:
            probe = bound("::")
            async with probe:
                pass
        except OSError:
            pytest.skip("needs IPv6")
        node = PlayedNode()
        async with driven_by(node, host="::") as driven:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("127.0.0.1", 0))
                sender.settimeout(5)
                source = Address(*sender.getsockname())
                node.effects = {"DatagramReceived": [SendDatagram(b"answer", source)]}
                sender.sendto(b"hello", ("127.0.0.1", driven.address.port))
                assert await trio.to_thread.run_sync(sender.recv, 100) == b"answer"
            assert node.events == [DatagramReceived(b"hello", source)]

    run(test)


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
        async with driven_by(node) as driven:
            for _ in range(3):
                driven.gossip.give(LeaveRequested())
            await driven.seen("LeaveRequested", 3)
            await until(lambda: driven.gossip.drops[counted] >= 3)
            assert driven.gossip.drops == {counted: 3}

    run(test)


def test_an_icmp_error_does_not_end_the_receiving() -> None:
    """A port that nobody listens on answers; it is counted at most, and datagrams still come."""

    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            nobody = Address(*probe.getsockname())
        node = PlayedNode(LeaveRequested=[SendDatagram(b"x", nobody)])
        async with driven_by(node) as driven:
            # A connected socket is the one that gets to hear of ICMP errors on every system.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("127.0.0.1", 0))
                driven.gossip.give(LeaveRequested())
                await driven.seen("LeaveRequested")
                sender.sendto(b"hello", driven.address)
                await driven.seen("DatagramReceived")

    run(test)


def test_errors_of_receiving_are_counted_and_survived() -> None:
    """By their name; what comes after them arrives."""

    async def test() -> None:
        async with bound() as udp:
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

    run(test)


# ---- the inbox and time ----


def test_a_full_inbox_refuses_and_counts() -> None:
    """The giver is told, and nothing waits."""

    async def test() -> None:
        async with bound() as udp:
            gossip = Driven(PlayedNode(), udp).gossip
            given = [gossip.give(LeaveRequested()) for _ in range(INBOX_EVENTS + 10)]
            assert given == [True] * INBOX_EVENTS + [False] * 10
            assert gossip.drops == {"inbox_full": 10}

    run(test)


def test_events_are_handled_in_order() -> None:
    """By one task, each with a time that never goes back."""

    async def test() -> None:
        node = PlayedNode()
        async with driven_by(node) as driven:
            events = [AddressFound(PEER, Address("h", number)) for number in range(1, 200)]
            assert all(driven.gossip.give(event) for event in events)
            await driven.seen("AddressFound", 199)
            assert node.events == events
            assert node.times == sorted(node.times)

    run(test)


def test_what_comes_together_is_written_once() -> None:
    """The numbers of the last of them, before anything of any of them is sent."""

    async def test() -> None:
        node = PlayedNode()
        numbers = iter(range(1, 100))

        def play(event: Event) -> None:
            node.effects["AddressFound"] = [Persist(next(numbers), 0), Admitted(PEER)]

        node.on_event = play
        async with bound() as udp:
            driven = Driven(node, udp)
            for port in range(1, 9):
                assert driven.gossip.give(AddressFound(PEER, Address("h", port)))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driven.gossip.run)
                await until(lambda: len(driven.effects) == 16)
                nursery.cancel_scope.cancel()
            assert driven.persisted == [Persist(8, 0), Admitted(PEER)]

    run(test)


def test_the_deadline_is_met(patient: None) -> None:
    """Not early, and once for each."""

    async def test() -> None:
        node = PlayedNode()
        due = clock.now_ns() + SECOND // 20
        node.deadline = due
        async with driven_by(node) as driven:
            await driven.seen("DeadlineReached")
            assert due <= node.times[0]
            assert node.kinds() == ["DeadlineReached"]

    run(test)


def test_a_deadline_that_an_event_brings_nearer_is_met(patient: None) -> None:
    """A node that slept for ever wakes up by itself afterwards."""

    async def test() -> None:
        node = PlayedNode()

        def nearer(event: Event) -> None:
            if isinstance(event, LeaveRequested):
                node.deadline = clock.now_ns() + SECOND // 50

        node.on_event = nearer
        async with driven_by(node) as driven:
            driven.gossip.give(LeaveRequested())
            await driven.seen("DeadlineReached")
            assert node.kinds() == ["LeaveRequested", "DeadlineReached"]

    run(test)


def test_what_waits_comes_before_the_deadline(patient: None) -> None:
    """An ack that has arrived must not lose to its time-out, however late we are."""

    async def test() -> None:
        node = PlayedNode()
        async with bound() as udp:
            driven = Driven(node, udp)
            node.deadline = clock.now_ns() - 1
            for _ in range(5):
                driven.gossip.give(LeaveRequested())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driven.gossip.run)
                await driven.seen("DeadlineReached")
                nursery.cancel_scope.cancel()
        assert node.kinds() == ["LeaveRequested"] * 5 + ["DeadlineReached"]

    run(test)


def test_what_waits_in_the_socket_comes_before_the_deadline(patient: None) -> None:
    """All of it: a process that stood still has many acks there, and must read them first."""

    async def test() -> None:
        node = PlayedNode()
        async with bound() as udp:
            driven = Driven(node, udp)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for number in range(60):
                    sender.sendto(b"%d" % number, driven.address)
            node.deadline = clock.now_ns() - 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driven.gossip.run)
                await driven.seen("DeadlineReached")
                nursery.cancel_scope.cancel()
        assert node.kinds() == ["DatagramReceived"] * 60 + ["DeadlineReached"]

    run(test)


def test_a_flood_does_not_starve_the_deadline() -> None:
    """However many events come, the node's own clock goes on."""

    async def test() -> None:
        node = PlayedNode()
        async with driven_by(node) as driven:
            node.deadline = clock.now_ns() + SECOND // 20
            while "DeadlineReached" not in node.kinds():
                driven.gossip.give(LeaveRequested())
                driven.gossip.give(LeaveRequested())
                await trio.lowlevel.checkpoint()

    run(test)


def test_a_gap_is_noticed_before_anything_else() -> None:
    """After a sleep the node hears first that it slept, and how long; then what waited."""

    async def test() -> None:
        node = PlayedNode()
        async with bound() as udp:
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

    run(test)


def test_being_a_little_late_is_no_gap() -> None:
    """A busy machine is not a sleeping one; but it is told that it is not well."""

    async def test() -> None:
        node = PlayedNode()
        node.deadline = clock.now_ns() - LAG_NS - SECOND // 10
        async with driven_by(node) as driven:
            await driven.seen("DeadlineReached")
            assert node.kinds() == ["Delayed", "DeadlineReached"]

    run(test)


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
            async with driven_by(node) as driven:
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

    run(test)


async def _broken_by(node: PlayedNode, recording: Recording | None = None) -> None:
    """Give an event to a node that fails over it."""
    async with driven_by(node, recording=recording) as driven:
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

    run(test)


def test_everything_is_recorded_before_it_is_handled(tmp_path: pathlib.Path) -> None:
    """So that a replay has the event that a crash was about."""

    async def test() -> None:
        recording = Recording(tmp_path / "record")
        recorded_node(recording)
        node = PlayedNode()

        def fail(event: Event) -> None:
            raise LookupError("a bug")

        node.on_event = fail
        with pytest.raises(ExceptionGroup) as caught:
            await _broken_by(node, recording)
        assert caught.group_contains(LookupError)
        recording.close()
        assert '"event":"LeaveRequested"' in (tmp_path / "record").read_text()

    run(test)
