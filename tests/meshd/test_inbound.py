"""Who may stay when too many come: one host, one member, all members, over real sockets."""

import gc
import pathlib
from collections.abc import Iterator

import pytest
import trio

from meshd import inbound as under_test
from meshd.connection import Connection
from meshd.frames import FrameStream, StreamBroken
from meshd.inbound import host_of
from meshd.peers import STREAM_VERSION, Kind
from protocol.fields import pack
from protocol.identity import Address, NodeId
from tests.meshd.asked_peers import OPENING, Echo, run
from tests.meshd.members import Member, until, workers


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


class Held:
    """A handler whose exchanges go on until the peer ends them."""

    def __init__(self) -> None:
        self.by: list[NodeId] = []

    async def __call__(self, peer: NodeId, frames: FrameStream) -> None:
        self.by.append(peer)
        try:
            await frames.send(b"begun")
            if await frames.receive(100) is None:
                raise StreamBroken("closed")
            await frames.send(b"ended")
        finally:
            self.by.remove(peer)


async def _begin(member: Member, peer: NodeId, address: Address) -> Connection:
    """A connection with an exchange going on."""
    connection = await member.peers.dial(peer, [address])
    await connection.frames.send(OPENING)
    assert await connection.frames.receive(100) == b"begun"
    return connection


async def _idle(member: Member, peer: NodeId, address: Address) -> Connection:
    """A connection whose first exchange is over."""
    connection = await _begin(member, peer, address)
    await connection.frames.send(b"end")
    assert await connection.frames.receive(100) == b"ended"
    return connection


async def _is_closed(connection: Connection) -> bool:
    try:
        return await connection.frames.receive(100) is None
    except StreamBroken:
        return True


def _three(folder: pathlib.Path) -> tuple[Member, Member, Member]:
    roles = workers(0, 1, 2)
    anna, bert, carl = (Member(folder, index, roles) for index in range(3))
    return anna, bert, carl


def test_one_member_has_a_share_and_no_more(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it the new one goes, if all of its own are in use; others come in as before."""
    monkeypatch.setattr(under_test, "PEER_MAX", 3)
    anna, bert, carl = _three(tmp_path)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Held()}) as address:
            used = [await _begin(anna, bert.id, address) for _ in range(3)]
            extra = await anna.peers.dial(bert.id, [address])
            assert await _is_closed(extra)
            assert bert.peers.refusals == {"too_many_of_one": 1}
            used.append(await _begin(carl, bert.id, address))
            assert all(connection.is_usable() for connection in used)
            for connection in (*used, extra):
                connection.close()

    run(test)


def test_what_a_member_does_not_use_makes_room_for_its_next(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a machine that vanished with many connections open comes back at once."""
    monkeypatch.setattr(under_test, "PEER_MAX", 3)
    anna, bert, _ = _three(tmp_path)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Held()}) as address:
            first = await _begin(anna, bert.id, address)
            idle = [await _idle(anna, bert.id, address) for _ in range(2)]
            last = await _begin(anna, bert.id, address)
            assert await _is_closed(idle[0])
            assert [c.is_usable() for c in (first, idle[1], last)] == [True] * 3
            for connection in (first, *idle, last):
                connection.close()

    run(test)


def test_who_has_most_makes_room_in_a_full_house(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member that takes every place loses the newest, also one in use, until shares are fair;
    then whoever comes is turned away.
    """
    monkeypatch.setattr(under_test, "MEMBERS_MAX", 4)
    anna, bert, carl = _three(tmp_path)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Held()}) as address:
            hers = [await _begin(anna, bert.id, address) for _ in range(4)]
            his = [await _begin(carl, bert.id, address) for _ in range(2)]
            assert [await _is_closed(hers[3]), await _is_closed(hers[2])] == [True, True]
            assert all(connection.is_usable() for connection in (*hers[:2], *his))
            assert bert.peers.refusals == {"too_many_members": 2}
            for member in (anna, carl):
                extra = await member.peers.dial(bert.id, [address])
                assert await _is_closed(extra)
                extra.close()
            assert all(connection.is_usable() for connection in (*hers[:2], *his))
            for connection in (*hers, *his):
                connection.close()

    run(test)


def test_among_equals_the_longest_idle_makes_room(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mesh with more members than places works, for most connections only wait."""
    monkeypatch.setattr(under_test, "MEMBERS_MAX", 2)
    anna, bert, carl = _three(tmp_path)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Held()}) as address:
            older = await _idle(carl, bert.id, address)
            newer = await _idle(anna, bert.id, address)
            third = await _begin(anna, bert.id, address)
            assert await _is_closed(older)
            assert newer.is_usable()
            for connection in (older, newer, third):
                connection.close()

    run(test)


def test_a_crowd_from_one_host_keeps_no_other_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of too many guests the oldest of the busiest host goes, though another's is older."""
    monkeypatch.setattr(under_test, "GUESTS_MAX", 4)
    anna, bert, _ = _three(tmp_path)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            first = await trio.open_tcp_stream(*address)
            await until(lambda: bert.peers._inbound.guests == 1)
            try:
                crowd = [
                    await trio.open_tcp_stream(*address, local_address="127.0.0.2")
                    for _ in range(20)
                ]
            except OSError:
                await first.aclose()
                pytest.skip("this system has one loopback address")
            await until(lambda: bert.peers.refusals["too_many_guests"] == 17)
            tls = trio.SSLStream(first, anna.peers._dialing, https_compatible=True)
            frames = FrameStream(tls)
            await frames.send(pack((STREAM_VERSION, Kind.GOSSIP)))
            await frames.send(b"hello")
            assert await frames.receive(100) == anna.id[:4] + b"hello"
            for stream in (*crowd, first):
                await trio.aclose_forcefully(stream)

    run(test)


def test_a_place_is_free_again_when_its_connection_ends(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ended it, and however often."""
    monkeypatch.setattr(under_test, "MEMBERS_MAX", 1)
    anna, bert, carl = _three(tmp_path)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Held()}) as address:
            for member in (anna, carl, anna):
                connection = await _begin(member, bert.id, address)
                connection.close()
                await until(lambda: bert.peers._inbound.count == 0)
            assert not bert.peers.refusals

    run(test)


@pytest.mark.parametrize(
    ("bound", "dialed", "host"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::/64"),
        ("::", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_host_is_an_address_or_a_network(bound: str, dialed: str, host: str) -> None:
    """IPv4 by address, also through a dual-stack socket; IPv6 by what one customer is given."""

    async def test() -> None:
        listening = trio.socket.socket(
            trio.socket.AF_INET6 if ":" in bound else trio.socket.AF_INET
        )
        with listening:
            if bound == "::":
                listening.setsockopt(trio.socket.IPPROTO_IPV6, trio.socket.IPV6_V6ONLY, 0)
            try:
                await listening.bind((bound, 0))
            except OSError:
                pytest.skip("this system has no IPv6")
            listening.listen(1)
            async with await trio.open_tcp_stream(dialed, listening.getsockname()[1]):
                accepted, _ = await listening.accept()
                stream = trio.SocketStream(accepted)
                assert host_of(stream) == host
                await stream.aclose()
                assert host_of(stream) == ""

    run(test)
