"""Who is turned away from the streams between members, and how long an outsider can stay."""

import contextlib
import gc
import pathlib
import ssl
from collections.abc import Iterator

import pytest
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshd import connection, inbound
from meshd import peers as under_test
from meshd.frames import FrameStream, StreamBroken
from meshd.peers import STREAM_VERSION, Handler, Kind, PeerUnreachable
from protocol.fields import pack
from protocol.identity import Address, NodeId, key_text
from protocol.records import Role
from tests.meshd.asked_peers import OPENING, Echo, ask, is_turned_away, run
from tests.meshd.members import Member, until, workers
from tests.meshd.trust.test_certificates import _crafted


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


# ---- who is turned away ----


def test_another_mesh_is_turned_away_in_words(tmp_path: pathlib.Path) -> None:
    """Neither end takes the other's certificate; both say so."""
    roles = workers(0, 1)
    anna = Member(tmp_path, 0, roles)
    stranger = Member(tmp_path, 1, roles, secret=b"another mesh's secret".ljust(32))

    async def test() -> None:
        async with stranger.serving({Kind.GOSSIP: Echo()}) as address:
            with pytest.raises(PeerUnreachable, match="it belongs to another mesh"):
                await ask(anna, stranger.id, address)
            await until(lambda: stranger.peers.refusals["handshake"] == 1)

    run(test)


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
            await until(lambda: bert.peers._inbound.count == 0)
            await trio.aclose_forcefully(tls)
            assert bert.peers.refusals == {"bad_certificate": 1}

    run(test)


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

    run(test)


def test_a_key_that_is_not_admitted_may_only_gossip(tmp_path: pathlib.Path) -> None:
    """Until the records say that it is a member; then at once."""
    roles: dict[NodeId, Role] = {}
    anna, bert = Member(tmp_path, 0, workers(0, 1)), Member(tmp_path, 1, roles)
    handlers: dict[Kind, Handler] = dict.fromkeys(Kind, Echo())

    async def test() -> None:
        async with bert.serving(handlers) as address:
            assert await ask(anna, bert.id, address) == anna.id[:4] + b"hello"
            for kind in (Kind.REQUEST, Kind.TASK, Kind.BLOB, Kind.TUNNEL):
                assert await is_turned_away(anna, bert.id, address, kind)
            assert bert.peers.refusals == {"not_admitted": 4}
            roles[anna.id] = Role.OBSERVER
            assert await is_turned_away(anna, bert.id, address, Kind.REQUEST)
            assert bert.peers.refusals["role"] == 1
            roles[anna.id] = Role.CLIENT
            assert await ask(anna, bert.id, address, kind=Kind.REQUEST) is not None
            anna.peers.drop_idle(everything=True)

    run(test)


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
        (b"x" * 65, "frame_too_long"),
    ],
)
def test_an_opening_that_makes_no_sense_ends_the_stream(
    tmp_path: pathlib.Path, opening: bytes, reason: str
) -> None:
    """Closed and counted; too long a one is not even read."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            dialed = await anna.peers.dial(bert.id, [address])
            await dialed.frames.send(opening)
            with contextlib.suppress(StreamBroken):
                assert await dialed.frames.receive(100) is None
            dialed.close()
            await until(lambda: dict(bert.peers.refusals) == {reason: 1})

    run(test)


def test_a_handler_with_a_bug_ends_one_stream_only(tmp_path: pathlib.Path) -> None:
    """No peer can end the daemon; the bug is counted."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def broken(peer: NodeId, frames: FrameStream) -> None:
        raise LookupError("a bug")

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: broken, Kind.REQUEST: Echo()}) as address:
            assert await is_turned_away(anna, bert.id, address)
            assert await ask(anna, bert.id, address, kind=Kind.REQUEST) is not None
            assert bert.peers.refusals == {"internal_error": 1}
            anna.peers.drop_idle(everything=True)

    run(test)


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
    monkeypatch.setattr(connection, "HANDSHAKE_S", 1.0)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            noise = (b"", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 999)
            streams = [await _knock(address, data) for data in noise]
            assert await ask(anna, bert.id, address) is not None
            for stream in streams:
                assert await _is_closed(stream)
            assert bert.peers.refusals == {"handshake": len(noise)}
            await until(lambda: bert.peers._inbound.count == 1)
            anna.peers.drop_idle(everything=True)
            await until(lambda: bert.peers._inbound.count == 0)

    run(test)


def test_outsiders_cannot_keep_members_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of too many connections that proved nothing, the oldest goes; a member's stays."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(inbound, "GUESTS_MAX", 4)
    echo = Echo()

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: echo}) as address:
            assert await ask(anna, bert.id, address) is not None
            streams = [await _knock(address) for _ in range(20)]
            await until(lambda: bert.peers.refusals["too_many_guests"] == 16)
            for stream in streams[:16]:
                assert await _is_closed(stream)
            assert await ask(anna, bert.id, address) is not None
            assert len(set(map(id, echo.streams))) == 1, "the pooled connection lived on"
            anna.peers.drop_idle(everything=True)
            assert await ask(anna, bert.id, address) is not None
            assert set(bert.peers.refusals) == {"too_many_guests"}
            anna.peers.drop_idle(everything=True)
            for stream in streams[16:]:
                await stream.aclose()

    run(test)


def test_whoever_only_has_the_secret_is_a_guest(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proven key that is not admitted may not sit idle as long as a member may."""
    anna, bert = Member(tmp_path, 0, {}), Member(tmp_path, 1, {})
    monkeypatch.setattr(under_test, "GUEST_IDLE_S", 0.5)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            dialed = await anna.peers.dial(bert.id, [address])
            assert bert.peers._inbound.guests == 1
            assert await dialed.frames.receive(100) is None
            dialed.close()
            await until(lambda: not bert.peers._inbound.guests)

    run(test)


def test_a_member_that_never_says_a_word_is_closed_sooner(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has dialed for something: until it says for what, it waits as a guest does."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(under_test, "GUEST_IDLE_S", 0.3)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            dialed = await anna.peers.dial(bert.id, [address])
            assert await dialed.frames.receive(100) is None
            dialed.close()
            await until(lambda: bert.peers.refusals == {"silent": 1})

    run(test)


def test_what_anybody_can_bring_about_does_not_fill_the_log(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal is counted; of many of one kind a few are logged."""
    # One that has been used keeps the processors that were set up then, by another test.
    monkeypatch.setattr("meshd.peers.log", structlog.get_logger())
    bert = Member(tmp_path, 1, {})

    with structlog.testing.capture_logs() as logged:
        for _ in range(1_000):
            bert.peers._refuse("handshake", None, "127.0.0.1")
    assert bert.peers.refusals == {"handshake": 1_000}
    told = [entry["count"] for entry in logged if entry["log_level"] == "info"]
    assert told == [*range(1, 17), 32, 64, 128, 256, 512]


def test_idle_members_are_closed_in_the_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that vanished without a word does not hold its connection for ever."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(under_test, "SERVER_IDLE_S", 0.05)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            dialed = await anna.peers.dial(bert.id, [address])
            await dialed.frames.send(OPENING)
            await dialed.frames.send(b"hello")
            assert await dialed.frames.receive(100) is not None
            assert await dialed.frames.receive(100) is None
            dialed.close()
            await until(lambda: bert.peers.refusals == {"silent": 1})

    run(test)
