"""Streams between members: who gets in, with what, for how long, and what is left behind."""

import contextlib
import gc
import pathlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from trio.testing import wait_all_tasks_blocked

from meshd import peers as under_test
from meshd.frames import FrameStream, StreamBroken
from meshd.peers import STREAM_VERSION, Connection, Handler, Kind, PeerUnreachable
from protocol.fields import pack
from protocol.identity import Address, NodeId, key_text
from protocol.records import Role
from tests.meshd.members import TIMEOUT_S, Member, until, workers
from tests.meshd.trust.test_certificates import _crafted

Test = Callable[[], Awaitable[None]]
OPENING = pack((STREAM_VERSION, Kind.GOSSIP))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


def _run(test: Test) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            await test()

    trio.run(main)


class Echo:
    """A handler that answers one frame with who asked and what."""

    def __init__(self) -> None:
        self.streams: list[FrameStream] = []

    async def __call__(self, peer: NodeId, frames: FrameStream) -> None:
        self.streams.append(frames)
        data = await frames.receive(1_000)
        if data is None:
            raise StreamBroken("closed")
        await frames.send(peer[:4] + data)


async def _ask(
    member: Member, peer: NodeId, *addresses: Address, kind: Kind = Kind.GOSSIP
) -> bytes | None:
    async with member.peers.exchange(peer, addresses, kind) as frames:
        await frames.send(b"hello")
        return await frames.receive(1_000)


async def _is_turned_away(
    member: Member, peer: NodeId, address: Address, kind: Kind = Kind.GOSSIP
) -> bool:
    """Whether the exchange ends without an answer."""
    try:
        return await _ask(member, peer, address, kind=kind) is None
    except StreamBroken:
        return True


# ---- what works ----


def test_members_exchange_and_know_each_other(tmp_path: pathlib.Path) -> None:
    """The server learns the asker's key from TLS alone; connections are used again."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    echo = Echo()

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: echo, Kind.REQUEST: echo}) as address:
            for kind in (Kind.GOSSIP, Kind.REQUEST, Kind.REQUEST):
                assert await _ask(anna, bert.id, address, kind=kind) == anna.id[:4] + b"hello"
            assert len(set(map(id, echo.streams))) == 1
            anna.peers.drop_idle(everything=True)
            assert await _ask(anna, bert.id, address) is not None
            assert len(set(map(id, echo.streams))) == 2
            anna.peers.drop_idle(everything=True)
        assert not bert.peers.refusals

    _run(test)


def test_exchanges_at_the_same_time_have_their_own_connections(tmp_path: pathlib.Path) -> None:
    """And no more than so many are kept when they end."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    echo = Echo()
    count = under_test.POOL_PER_PEER + 3

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: echo}) as address:
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(_ask, anna, bert.id, address)
            assert len(set(map(id, echo.streams))) == count
            assert len(anna.peers._pool[bert.id]) == under_test.POOL_PER_PEER
            anna.peers.drop_idle(everything=True)
            assert not anna.peers._pool

    _run(test)


def test_idle_connections_end(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After their time they are neither used nor kept."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    echo = Echo()
    monkeypatch.setattr(under_test, "POOL_IDLE_S", 0.0)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: echo}) as address:
            await _ask(anna, bert.id, address)
            await _ask(anna, bert.id, address)
            assert len(set(map(id, echo.streams))) == 2
            anna.peers.drop_idle()
            assert not anna.peers._pool

    _run(test)


def test_a_restarted_peer_costs_no_request(tmp_path: pathlib.Path) -> None:
    """The pooled connection to its former life is replaced, unnoticed."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            await _ask(anna, bert.id, address)
        async with bert.serving({Kind.GOSSIP: Echo()}, port=address.port):
            assert await _ask(anna, bert.id, address) == anna.id[:4] + b"hello"
            anna.peers.drop_idle(everything=True)

    _run(test)


def test_a_pooled_connection_that_breaks_at_the_first_word_is_replaced(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked well, and was not: the request goes over a new one."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            await _ask(anna, bert.id, address)
            [pooled] = anna.peers._pool[bert.id]
            pooled.close()
            monkeypatch.setattr(Connection, "is_usable", lambda self: True)
            assert await _ask(anna, bert.id, address) == anna.id[:4] + b"hello"
            anna.peers.drop_idle(everything=True)

    _run(test)


def test_a_stream_with_something_unread_is_not_kept(tmp_path: pathlib.Path) -> None:
    """What a peer says after its answer must not be taken for the next one's."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def chatty(peer: NodeId, frames: FrameStream) -> None:
        await frames.receive(100)
        await frames.send(b"answer")
        await frames.send(b"and another thing")

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: chatty}) as address:
            async with anna.peers.exchange(bert.id, [address], Kind.GOSSIP) as frames:
                await frames.send(b"hello")
                assert await frames.receive(100) == b"answer"
                await until(lambda: not _is_silent(frames))
            assert not anna.peers._pool[bert.id]

    def _is_silent(frames: FrameStream) -> bool:
        connections = [c for c in made if c.frames is frames]
        return all(connection.is_usable() for connection in connections)

    made: list[Connection] = []
    dial = anna.peers.dial

    async def remembering(peer: NodeId | None, addresses: list[Address]) -> Connection:
        made.append(await dial(peer, addresses))
        return made[-1]

    anna.peers.dial = remembering  # type: ignore[method-assign,assignment]  # to look at it
    _run(test)


# ---- who is turned away ----


def test_another_mesh_is_turned_away_in_words(tmp_path: pathlib.Path) -> None:
    """Neither end takes the other's certificate; both say so."""
    roles = workers(0, 1)
    anna = Member(tmp_path, 0, roles)
    stranger = Member(tmp_path, 1, roles, secret=b"another mesh's secret".ljust(32))

    async def test() -> None:
        async with stranger.serving({Kind.GOSSIP: Echo()}) as address:
            with pytest.raises(PeerUnreachable, match="it belongs to another mesh"):
                await _ask(anna, stranger.id, address)
            await until(lambda: stranger.peers.refusals["handshake"] == 1)

    _run(test)


def _context(
    folder: pathlib.Path, crafted_key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey
) -> ssl.SSLContext:
    """For dialing, with a certificate of that key that the mesh's issuer signed."""
    pem = _crafted(crafted_key, key_text(b"v" * 32)).public_bytes(Encoding.PEM)
    key = crafted_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "crafted.pem").write_bytes(pem + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(folder / "crafted.pem")
    return context


async def _tls(address: Address, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    stream = await trio.open_tcp_stream(*address)
    tls = trio.SSLStream(stream, context, https_compatible=True)
    await tls.do_handshake()
    return tls


def test_a_key_of_another_kind_is_turned_away(tmp_path: pathlib.Path) -> None:
    """The mesh secret lets anybody make such a certificate; it names no node."""
    bert = Member(tmp_path, 1, {})
    context = _context(tmp_path, ec.generate_private_key(ec.SECP256R1()))

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            tls = await _tls(address, context)
            await until(lambda: bert.peers._inbound == 0)
            await trio.aclose_forcefully(tls)
            assert bert.peers.refusals == {"bad_certificate": 1}

    _run(test)


def test_a_crafted_certificate_speaks_for_its_own_key_only(tmp_path: pathlib.Path) -> None:
    """It names a member in its subject; what the handler hears is the key that was proven."""
    mallory = Ed25519PrivateKey.generate()
    bert = Member(tmp_path, 1, {NodeId(b"v" * 32): Role.ADMIN})
    context = _context(tmp_path, mallory)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo(), Kind.REQUEST: Echo()}) as address:
            tls = await _tls(address, context)
            frames = FrameStream(tls)
            await frames.send(OPENING)
            await frames.send(b"hello")
            answer = await frames.receive(100)
            assert answer == mallory.public_key().public_bytes_raw()[:4] + b"hello"
            await frames.send(pack((STREAM_VERSION, Kind.REQUEST)))
            assert await frames.receive(100) is None
            await trio.aclose_forcefully(tls)
            assert bert.peers.refusals == {"not_admitted": 1}

    _run(test)


def test_a_key_that_is_not_admitted_may_only_gossip(tmp_path: pathlib.Path) -> None:
    """Until the records say that it is a member; then at once."""
    roles: dict[NodeId, Role] = {}
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    handlers: dict[Kind, Handler] = dict.fromkeys(Kind, Echo())

    async def test() -> None:
        async with bert.serving(handlers) as address:
            assert await _ask(anna, bert.id, address) == anna.id[:4] + b"hello"
            for kind in (Kind.REQUEST, Kind.TASK, Kind.BLOB, Kind.TUNNEL):
                assert await _is_turned_away(anna, bert.id, address, kind)
            assert bert.peers.refusals == {"not_admitted": 4}
            roles[anna.id] = Role.OBSERVER
            assert await _is_turned_away(anna, bert.id, address, Kind.REQUEST)
            assert bert.peers.refusals["role"] == 1
            roles[anna.id] = Role.CLIENT
            assert await _ask(anna, bert.id, address, kind=Kind.REQUEST) is not None
            anna.peers.drop_idle(everything=True)

    _run(test)


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (pack((STREAM_VERSION, 99)), "unknown_kind"),
        (pack((STREAM_VERSION, Kind.TASK)), "unknown_kind"),
        (pack((STREAM_VERSION + 1, Kind.GOSSIP)), "unknown_kind"),
        (pack((STREAM_VERSION,)), "malformed"),
        (pack({"a": 1}), "malformed"),
        (b"", "malformed"),
        (b"\xc1", "malformed"),
        (b"x" * 65, None),
    ],
)
def test_an_opening_that_makes_no_sense_ends_the_stream(
    tmp_path: pathlib.Path, opening: bytes, reason: str | None
) -> None:
    """Closed and counted; too long a one is not even read."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            connection = await anna.peers.dial(bert.id, [address])
            await connection.frames.send(opening)
            with contextlib.suppress(StreamBroken):
                assert await connection.frames.receive(100) is None
            connection.close()
            assert dict(bert.peers.refusals) == ({reason: 1} if reason else {})

    _run(test)


def test_a_handler_with_a_bug_ends_one_stream_only(tmp_path: pathlib.Path) -> None:
    """No peer can end the daemon; the bug is counted."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def broken(peer: NodeId, frames: FrameStream) -> None:
        raise LookupError("a bug")

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: broken, Kind.REQUEST: Echo()}) as address:
            assert await _is_turned_away(anna, bert.id, address)
            assert await _ask(anna, bert.id, address, kind=Kind.REQUEST) is not None
            assert bert.peers.refusals == {"internal_error": 1}
            anna.peers.drop_idle(everything=True)

    _run(test)


# ---- outsiders that take their time ----


async def _knock(address: Address, data: bytes = b"") -> trio.SocketStream:
    stream = await trio.open_tcp_stream(*address)
    if data:
        await stream.send_all(data)
    return stream


async def _is_closed(stream: trio.SocketStream) -> bool:
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(4096):
            pass
    await stream.aclose()
    return True


def test_silence_and_noise_end_with_the_handshakes_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing, half a hello, or random bytes: closed, counted, and members come in as before."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(under_test, "HANDSHAKE_S", 0.2)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            noise = (b"", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 999)
            streams = [await _knock(address, data) for data in noise]
            assert await _ask(anna, bert.id, address) is not None
            for stream in streams:
                assert await _is_closed(stream)
            assert bert.peers.refusals == {"handshake": len(noise)}
            await until(lambda: bert.peers._inbound == 1)
            anna.peers.drop_idle(everything=True)
            await until(lambda: bert.peers._inbound == 0)

    _run(test)


def test_outsiders_cannot_keep_members_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of too many connections that proved nothing, the oldest goes; a member's stays."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(under_test, "GUESTS_MAX", 4)
    monkeypatch.setattr(under_test, "INBOUND_MAX", 6)
    echo = Echo()

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: echo}) as address:
            assert await _ask(anna, bert.id, address) is not None
            streams = [await _knock(address) for _ in range(20)]
            await until(lambda: bert.peers.refusals["too_many_guests"] == 16)
            for stream in streams[:16]:
                assert await _is_closed(stream)
            assert await _ask(anna, bert.id, address) is not None
            assert len(set(map(id, echo.streams))) == 1, "the pooled connection lived on"
            anna.peers.drop_idle(everything=True)
            assert await _ask(anna, bert.id, address) is not None
            assert not bert.peers.refusals["too_many_connections"]
            anna.peers.drop_idle(everything=True)
            for stream in streams[16:]:
                await stream.aclose()

    _run(test)


def test_whoever_only_has_the_secret_is_a_guest(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proven key that is not admitted may not sit idle as long as a member may."""
    anna, bert = Member(tmp_path, 0, {}), Member(tmp_path, 1, {})
    monkeypatch.setattr(under_test, "GUEST_IDLE_S", 0.05)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            connection = await anna.peers.dial(bert.id, [address])
            assert len(bert.peers._guests) == 1
            assert await connection.frames.receive(100) is None
            connection.close()
            await until(lambda: not bert.peers._guests)

    _run(test)


def test_idle_members_are_closed_in_the_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that vanished without a word does not hold its connection for ever."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(under_test, "SERVER_IDLE_S", 0.05)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            connection = await anna.peers.dial(bert.id, [address])
            assert await connection.frames.receive(100) is None
            connection.close()

    _run(test)


def test_there_is_a_limit_for_all_together(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it a connection is closed at once, before any handshake."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(under_test, "INBOUND_MAX", 2)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            held = [await anna.peers.dial(bert.id, [address]) for _ in range(2)]
            with pytest.raises(PeerUnreachable):
                await anna.peers.dial(bert.id, [address])
            assert bert.peers.refusals == {"too_many_connections": 1}
            for connection in held:
                connection.close()
            await until(lambda: bert.peers._inbound == 0)
            (await anna.peers.dial(bert.id, [address])).close()

    _run(test)


# ---- dialing ----


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_failures_of_dialing_have_words(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each address with its own reason."""
    roles = workers(0, 1, 2)
    anna, bert, carl = (Member(tmp_path, index, roles) for index in range(3))
    monkeypatch.setattr(under_test, "HANDSHAKE_S", 0.1)

    async def test() -> None:
        async with bert.serving({}) as address, anna.serving({}) as own:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                hole = Address("127.0.0.1", silent.getsockname()[1])
                nobody = Address("127.0.0.1", _unused_port())
                for where, words in (
                    ([], "no address is known"),
                    ([nobody], rf"{nobody}: connection refused"),
                    ([hole], rf"{hole}: no TLS answer"),
                    ([address], "another node answers there"),
                    ([own], "it is this very node"),
                    ([Address("fe80::1%" + "a" * 100, 1)], "no host can have that name"),
                    ([nobody, hole], "connection refused; .*no TLS answer"),
                ):
                    with pytest.raises(PeerUnreachable, match=words):
                        await anna.peers.dial(carl.id, where)

    _run(test)


def test_a_silent_address_does_not_hold_up_the_next(tmp_path: pathlib.Path) -> None:
    """The second is tried a moment later, wins, and the first is given up."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                hole = Address("127.0.0.1", silent.getsockname()[1])
                started = trio.current_time()
                connection = await anna.peers.dial(bert.id, [hole, address])
                assert under_test.STAGGER_S <= trio.current_time() - started < 2.0
                connection.close()

    _run(test)


def test_a_refusing_address_costs_no_wait(tmp_path: pathlib.Path) -> None:
    """The next is tried at once."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            refusing = [Address("127.0.0.1", _unused_port()) for _ in range(5)]
            with trio.fail_after(5 * under_test.STAGGER_S):
                (await anna.peers.dial(bert.id, [*refusing, address])).close()

    _run(test)


def test_cancelled_in_the_moment_of_success_nothing_is_left(tmp_path: pathlib.Path) -> None:
    """An attempt wins while the caller goes away: its connection is closed."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    made: list[Connection] = []
    dial_one = anna.peers._dial_one

    async def test() -> None:
        with trio.CancelScope() as scope:

            async def winning(peer: NodeId | None, address: Address) -> Connection:
                made.append(await dial_one(peer, address))
                scope.cancel()
                return made[-1]

            anna.peers._dial_one = winning  # type: ignore[method-assign]  # to cancel just then
            async with bert.serving({Kind.GOSSIP: Echo()}) as address:
                await anna.peers.dial(bert.id, [address])
        assert scope.cancelled_caught
        assert [connection.is_usable() for connection in made] == [False]

    _run(test)


@pytest.mark.parametrize("is_pooled", [False, True])
def test_a_cancelled_exchange_leaves_nothing(tmp_path: pathlib.Path, is_pooled: bool) -> None:
    """Whether its connection was new or from the pool, it is closed and not kept."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            if is_pooled:
                await _ask(anna, bert.id, address)
            with trio.CancelScope() as scope:
                scope.cancel()
                await _ask(anna, bert.id, address)
            assert not anna.peers._pool.get(bert.id)
            with trio.CancelScope() as scope:
                async with anna.peers.exchange(bert.id, [address], Kind.GOSSIP) as frames:
                    scope.cancel()
                    await frames.receive(100)
            assert not anna.peers._pool.get(bert.id)
            await wait_all_tasks_blocked()
            await until(lambda: bert.peers._inbound == 0)

    _run(test)


def test_a_failed_exchange_is_not_kept(tmp_path: pathlib.Path) -> None:
    """Only one that ended in order is of further use."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            with pytest.raises(LookupError):
                async with anna.peers.exchange(bert.id, [address], Kind.GOSSIP):
                    raise LookupError
            assert not anna.peers._pool

    _run(test)


def test_a_connection_without_a_socket_is_not_usable(tmp_path: pathlib.Path) -> None:
    """Asking a closed one is no error."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            connection = await anna.peers.dial(None, [address])
            assert connection.peer == bert.id
            assert connection.is_usable()
            connection.close()
            assert not connection.is_usable()
            connection.close()

    _run(test)
