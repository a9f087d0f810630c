"""Garbage, silence, strangers and lying members on a real daemon's TCP port."""

import contextlib
import pathlib
import random
import socket
import ssl
from collections.abc import Iterator

import psutil
import pytest

from meshd.inbound import GUESTS_MAX, PEER_MAX
from meshd.peers import STREAM_VERSION, Kind
from protocol.codec import STREAM_BYTES_MAX, encode_stream
from protocol.exchange import Ask, encode_frame
from protocol.fields import pack
from protocol.messages import PushPull
from tests.helpers.daemons import Daemon, Daemons, until, wait_state
from tests.helpers.insider import Insider, PeerStream, outsider_context
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

GROWTH_BYTES_MAX = 10 * 1024 * 1024
HALF_OPEN = 2_000
"""`tests/benchmarks/trust_cost.py` takes 10,000."""
HANDSHAKE_S = 5.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """The daemon under attack, with a model, and another member."""
    with Daemons(tmp_path_factory.mktemp("streams")) as daemons:
        yield daemons.mesh({"anna": WORDS, "bert": "none"})
        daemons.check_logs()


@pytest.fixture(scope="module")
def insider(pair: list[Daemon], tmp_path_factory: pytest.TempPathFactory) -> Insider:
    """A member that lies."""
    return Insider(tmp_path_factory.mktemp("insider"), pair[0].invite())


@pytest.fixture(autouse=True)
def serves_on(pair: list[Daemon]) -> Iterator[None]:
    """After each test the daemon has not grown, and serves its own and its peer's apps."""
    anna, bert = pair
    process = psutil.Process(anna.process.pid)
    before = process.memory_info().rss
    yield
    assert process.memory_info().rss - before < GROWTH_BYTES_MAX
    for name in ("anna", "bert"):
        wait_state(pair, name, "alive", 10.0)
    assert bert.chat("words", max_tokens=2).status == 200


def refusals(daemon: Daemon, reason: str) -> int:
    """How often it turned somebody away for that reason."""
    return int(daemon.status()["refusals"].get(reason, 0))


def connect(daemon: Daemon) -> socket.socket:
    """A bare TCP connection."""
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=10)


def test_garbage(pair: list[Daemon]) -> None:
    """What is no TLS is closed, and counted."""
    anna = pair[0]
    rng = random.Random(9)
    before = refusals(anna, "handshake")
    for number in range(100):
        with connect(anna) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(rng.randbytes(rng.choice((1, 5, 300, 20_000))))
            connection.shutdown(socket.SHUT_WR)
            if number % 2:
                while connection.recv(4_096):
                    pass
    until("all are counted", lambda: refusals(anna, "handshake") - before == 100, 10.0)


def greet(insider: Insider, daemon: Daemon) -> bytes:
    """A whole exchange of a member over a connection of its own; the answer."""
    with PeerStream(insider.dialing, daemon.port) as stream:
        stream.send_frame(pack((STREAM_VERSION, Kind.GOSSIP)))
        stream.send_frame(encode_stream(PushPull(False, (), ())))
        return stream.receive_frame()


def test_half_open_connections(pair: list[Daemon], insider: Insider) -> None:
    """Those that say nothing are closed, the oldest first, and block nobody: members are served
    over the connections that they have, and over new ones.
    """
    anna, bert = pair
    before = refusals(anna, "too_many_guests")
    silent: list[socket.socket] = []
    try:
        for _ in range(HALF_OPEN):
            silent.append(connect(anna))
        assert bert.chat("words", max_tokens=2).status == 200
        assert greet(insider, anna)
        assert refusals(anna, "too_many_guests") - before >= HALF_OPEN - GUESTS_MAX
        for connection in silent:
            connection.settimeout(HANDSHAKE_S + 3)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b""
    finally:
        for connection in silent:
            connection.close()


def test_another_mesh(pair: list[Daemon], daemons: Daemons) -> None:
    """Who holds another mesh's secret does not get through the handshake."""
    anna = pair[0]
    carl = daemons.add("carl")
    carl.launch().ready()
    context = outsider_context(daemons.folder, carl.invite())
    before = refusals(anna, "handshake")
    with pytest.raises(ssl.SSLError):
        PeerStream(context, anna.port)
    until("it is counted", lambda: refusals(anna, "handshake") > before, 5.0)
    context.verify_mode = ssl.CERT_NONE  # a client that does not mind whom it speaks to
    with PeerStream(context, anna.port) as stream, _may_be_cut_off():
        stream.send_frame(pack((STREAM_VERSION, Kind.GOSSIP)))
        assert stream.receive() == b""
    until("it is counted", lambda: refusals(anna, "handshake") > before + 1, 5.0)


@pytest.mark.parametrize("kind", [*(kind for kind in Kind if kind != Kind.GOSSIP), 99])
def test_a_key_that_is_not_admitted(pair: list[Daemon], tmp_path: pathlib.Path, kind: int) -> None:
    """Who knows the mesh's secret but never joined may ask for nothing, of whatever kind."""
    anna = pair[0]
    context = outsider_context(tmp_path, anna.invite())
    reasons = ("not_admitted", "unknown_kind")
    before = sum(refusals(anna, reason) for reason in reasons)
    with PeerStream(context, anna.port) as stream:
        stream.send_frame(pack((STREAM_VERSION, kind)))
        assert stream.receive() == b""
    assert sum(refusals(anna, reason) for reason in reasons) == before + 1


def test_gossip_of_a_key_that_is_not_admitted(pair: list[Daemon], tmp_path: pathlib.Path) -> None:
    """It learns nothing, and a long message of it is not even read."""
    anna = pair[0]
    context = outsider_context(tmp_path, anna.invite())
    with PeerStream(context, anna.port) as stream:
        stream.send_frame(pack((STREAM_VERSION, Kind.GOSSIP)))
        stream.send_frame(encode_stream(PushPull(False, (), ())))
        assert stream.receive() == b""
    assert anna.status()["drops"]["not_admitted"] >= 1
    with PeerStream(context, anna.port) as stream:
        stream.send_frame(pack((STREAM_VERSION, Kind.GOSSIP)))
        stream.send((STREAM_BYTES_MAX // 2).to_bytes(4, "big"))
        assert stream.receive() == b""


@pytest.mark.parametrize("kind", [Kind.GOSSIP, Kind.REQUEST])
@pytest.mark.parametrize(
    "bad",
    [
        (2**32 - 1).to_bytes(4, "big") + b"x" * 1_000,
        (100 * 2**20).to_bytes(4, "big"),
        (50).to_bytes(4, "big") + b"truncated",
        (0).to_bytes(4, "big"),
        (4).to_bytes(4, "big") + b"\xc1\xff\x00\x91",
        (6).to_bytes(4, "big") + b"\xdd\xff\xff\xff\xff\x01",
        b"\0\0",
    ],
    ids=["endless", "too large", "truncated", "empty", "no msgpack", "huge array", "half a length"],
)
def test_bad_frames_of_a_member(
    pair: list[Daemon], insider: Insider, kind: Kind, bad: bytes
) -> None:
    """A member's nonsense ends its own stream and nothing else."""
    with PeerStream(insider.dialing, pair[0].port) as stream:
        stream.send_frame(pack((STREAM_VERSION, kind)))
        stream.send(bad)
        stream.end()
        stream.receive()


def test_random_frames_of_a_member(pair: list[Daemon], insider: Insider) -> None:
    """Openings, push/pulls and requests of random bytes, and of half-random structures."""
    rng = random.Random(10)
    for number in range(120):
        with PeerStream(insider.dialing, pair[0].port) as stream, _may_be_cut_off():
            if number % 4:
                stream.send_frame(pack((STREAM_VERSION, 1 + number % 2)))
            values = (rng.randrange(9), rng.randbytes(9), (rng.randbytes(rng.randrange(400)),) * 3)
            junk = rng.randbytes(rng.randrange(2_000))
            stream.send_frame(junk if number % 3 else pack((*rng.sample(values, 3), *values)))
            stream.end()
            stream.receive()


def test_a_member_that_asks_nonsense(pair: list[Daemon], insider: Insider) -> None:
    """Requests that are well framed and wrong inside are refused, one by one."""
    bodies = [b"", b"\xc0", pack({}), pack({"model": 7}), pack({"model": "words"}), pack([])]
    bodies += [pack({"model": "words", "messages": [["user"]], "max_tokens": -1})]
    for body in bodies:
        with PeerStream(insider.dialing, pair[0].port) as stream, _may_be_cut_off():
            stream.send_frame(pack((STREAM_VERSION, Kind.REQUEST)))
            stream.send_frame(encode_frame(Ask("f" * 16, 1_000, body)))
            assert b"bad_request" in stream.receive_frame()


def test_one_member_that_takes_every_place(pair: list[Daemon], insider: Insider) -> None:
    """It gets a share; what it opens beyond that costs it its own connections."""
    anna, bert = pair
    before = refusals(anna, "too_many_of_one")
    with contextlib.ExitStack() as stack:
        for _ in range(PEER_MAX + 50):
            stack.enter_context(PeerStream(insider.dialing, anna.port))
        until(
            "its share is all that it has",
            lambda: refusals(anna, "too_many_of_one") - before >= 50,
            10.0,
        )
        assert bert.chat("words", max_tokens=2).status == 200
        assert greet(insider, anna)


def test_long_frames_that_never_end(pair: list[Daemon], insider: Insider) -> None:
    """Their memory is bounded (see `serves_on`), and nobody else waits for them."""
    anna, bert = pair
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            stream = stack.enter_context(PeerStream(insider.dialing, anna.port))
            stream.send_frame(pack((STREAM_VERSION, Kind.REQUEST)))
            stream.send((15 * 2**20).to_bytes(4, "big") + bytes(100_000))
        assert bert.chat("words", max_tokens=2).status == 200
        assert greet(insider, anna)


def test_a_request_of_millions_of_values(pair: list[Daemon], insider: Insider) -> None:
    """It is refused before they are built: the daemon neither stands still nor grows."""
    anna = pair[0]
    before = refusals(anna, "malformed")
    for junk in (b"\xdd\x00\xf0\x00\x00" + b"\x01" * 0xF00000, b"\x91" * 2**20 + b"\x90"):
        with PeerStream(insider.dialing, anna.port) as stream, _may_be_cut_off():
            stream.send_frame(pack((STREAM_VERSION, Kind.REQUEST)))
            stream.send_frame(junk)
            assert stream.receive() == b""
    until("both are counted", lambda: refusals(anna, "malformed") == before + 2, 10.0)


@contextlib.contextmanager
def _may_be_cut_off() -> Iterator[None]:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        yield
