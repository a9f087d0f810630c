"""Random bytes on every port of a real daemon: it serves on, and no answer says anything of it."""

import pathlib
import random
import socket
from collections.abc import Iterator

import pytest

from meshd.home import Home
from meshd.trust.mesh import read_mesh
from tests.helpers.daemons import Daemon, Daemons, wait_whole
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

TRIES = 200
TLS_ALERT = 0x15
SIZES = (1, 2, 5, 38, 54, 300, 1_200, 5_000)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """The daemon under attack, with a model, and another member."""
    with Daemons(tmp_path_factory.mktemp("random")) as daemons:
        yield daemons.mesh({"anna": WORDS, "bert": "none"})
        daemons.check_logs()


@pytest.fixture(autouse=True)
def serves_on(pair: list[Daemon]) -> Iterator[None]:
    """After each test both see each other, and an app gets its answer through both."""
    yield
    wait_whole(pair)
    assert pair[1].chat("words", max_tokens=2).status == 200


def secrets_of(home: Home) -> list[bytes]:
    """What no answer may contain, in every form in which it could."""
    mesh = read_mesh(home)
    assert mesh is not None
    raw = [mesh.mesh_secret, *mesh.records, home.node_key.read_bytes()]
    texts = [str(home.path), "Traceback", "Error:", "site-packages", ".py"]
    return [*raw, *(secret.hex().encode() for secret in raw), *(text.encode() for text in texts)]


def check(answer: bytes, secrets: list[bytes]) -> None:
    """Nothing of the daemon is in it."""
    assert not [secret for secret in secrets if secret in answer], answer


def noise(rng: random.Random, *beginnings: bytes) -> bytes:
    """Random bytes, some of which begin as what belongs there."""
    return rng.choice((b"", *beginnings)) + rng.randbytes(rng.choice(SIZES))


def answer_to(port: int, data: bytes) -> bytes:
    """All that comes back over TCP until the daemon closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionError:
            pass
    return received


def test_the_port_of_peers(pair: list[Daemon]) -> None:
    """TLS answers with an alert at most."""
    anna, secrets = pair[0], secrets_of(pair[0].home)
    rng = random.Random("peers")
    for _ in range(TRIES):
        answer = answer_to(
            anna.port, noise(rng, b"\x16\x03\x01", b"\x16\x03\x01\x00\x05\x01", b"GET ")
        )
        assert not answer or (answer[0] == TLS_ALERT and len(answer) < 16), answer
        check(answer, secrets)


def test_the_port_of_apps(pair: list[Daemon]) -> None:
    """An error in HTTP or nothing."""
    anna, secrets = pair[0], secrets_of(pair[0].home)
    port = int(anna.url.rpartition(":")[2])
    rng = random.Random("apps")
    chat = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 300\r\n\r\n"
    beginnings = (
        b"GET / HTTP/1.1\r\n",
        b"GET /\x00",
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\n",
        chat,
    )
    for _ in range(TRIES):
        answer = answer_to(port, noise(rng, *beginnings))
        assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
        check(answer, secrets)


def test_the_port_of_datagrams(pair: list[Daemon], tmp_path: pathlib.Path) -> None:
    """Nobody is answered who does not know a member; nothing is longer than its cause."""
    anna, secrets = pair[0], secrets_of(pair[0].home)
    rng = random.Random("datagrams")
    before = sum(anna.status()["drops"].values())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        attacker.connect(("127.0.0.1", anna.port))
        attacker.setblocking(False)
        for _ in range(10 * TRIES):
            data = noise(rng, b"\x01", b"\x01\x00", b"\x01\x01")[:1_400]
            attacker.send(data)
            try:
                answer = attacker.recv(2_048)
            except BlockingIOError:
                continue
            assert len(answer) <= len(data)
            check(answer, secrets)
    assert sum(anna.status()["drops"].values()) > before
