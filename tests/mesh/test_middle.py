"""A man in the middle of two real daemons: with a member's certificate or a stranger's he gets
nothing of a request; while he only relays, he is a network like any other.
"""

import contextlib
import pathlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from meshd.home import Home
from meshd.trust.certificates import ensure_certificates, make_contexts
from meshd.trust.keys import node_seed
from tests.helpers.daemons import Daemons, until, wait_offered, wait_whole
from tests.helpers.insider import Insider
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

PIECE_BYTES = 65_536
PAUSE_S = 0.1


class Middle:
    """Relays one daemon's port number, UDP as it is; TCP as it is, or with TLS ended here."""

    def __init__(self) -> None:
        self.certificate: ssl.SSLContext | None = None
        """With which TLS is ended; None: bytes pass as they are."""
        self.heard = b""
        """What was said inside of TLS that ended here."""
        self.there: tuple[str, int] | None = None
        self._is_over = threading.Event()
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._tcp.settimeout(PAUSE_S)
        self._threads = [
            threading.Thread(target=self._accept),
            threading.Thread(target=self._relay),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def port(self) -> int:
        """Of both sockets."""
        return int(self._tcp.getsockname()[1])

    def close(self) -> None:
        """End all threads."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._tcp.close()
        self._udp.close()

    def _relay(self) -> None:
        """Datagrams, each sender by a socket of its own, so that answers find their way."""
        ways: dict[tuple[str, int], socket.socket] = {}
        with contextlib.ExitStack() as stack:
            while not self._is_over.is_set():
                ready, _, _ = select.select([self._udp, *ways.values()], [], [], PAUSE_S)
                for sock in ready:
                    with contextlib.suppress(OSError):
                        data, source = sock.recvfrom(2_048)
                        if sock is not self._udp:
                            back = next(who for who, way in ways.items() if way is sock)
                            self._udp.sendto(data, back)
                        elif self.there is not None:
                            if source not in ways:
                                way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                                ways[source] = stack.enter_context(way)
                            ways[source].sendto(data, self.there)

    def _accept(self) -> None:
        with contextlib.ExitStack() as stack:
            while not self._is_over.is_set():
                try:
                    near, _ = self._tcp.accept()
                except TimeoutError:
                    continue
                near.settimeout(PAUSE_S)
                thread = threading.Thread(target=self._serve, args=(near,))
                thread.start()
                stack.callback(thread.join)

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            if self.certificate is not None:
                self._listen_in(near, self.certificate)
            elif self.there is not None:
                with socket.create_connection(self.there) as far:
                    self._pass_on(near, far)

    def _listen_in(self, near: socket.socket, certificate: ssl.SSLContext) -> None:
        near.settimeout(5.0)
        with certificate.wrap_socket(near, server_side=True) as tls:
            while data := tls.recv(PIECE_BYTES):
                self.heard += data

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        while not self._is_over.is_set() and self.certificate is None:
            ready, _, _ = select.select([near, far], [], [], PAUSE_S)
            for sock in ready:
                data = sock.recv(PIECE_BYTES)
                if not data:
                    return
                (far if sock is near else near).sendall(data)


@pytest.fixture
def middles() -> Iterator[list[Middle]]:
    """One before each of two daemons: neither knows where the other truly is."""
    middles = [Middle(), Middle()]
    yield middles
    for middle in middles:
        middle.close()


def stranger_context(folder: pathlib.Path) -> ssl.SSLContext:
    """The certificate of a node in a mesh of its own."""
    home = Home(folder / "stranger")
    home.create()
    ensure_certificates(home, b"another mesh's secret".ljust(32), node_seed(home))
    return make_contexts(home)[1]


def test_a_request_through_the_middle(
    daemons: Daemons, middles: list[Middle], tmp_path: pathlib.Path
) -> None:
    """It gets through a relay; where TLS ends on the way, it is not even begun."""
    hers, middle = middles
    anna = daemons.add("anna", "--advertise", f"127.0.0.1:{hers.port}").launch().ready()
    hers.there = ("127.0.0.1", anna.port)
    insider = Insider(tmp_path, anna.invite())
    bert = daemons.add("bert", "--advertise", f"127.0.0.1:{middle.port}", model=WORDS)
    bert.launch("--join", anna.invite()).ready()
    middle.there = ("127.0.0.1", bert.port)
    wait_whole([anna, bert])
    wait_offered([anna, bert], "words", "bert")
    assert anna.chat("words", max_tokens=2).status == 200

    own = make_contexts(insider.home)[1]
    for context, why in (
        (own, "another node answers there"),
        (stranger_context(tmp_path), "it belongs to another mesh"),
    ):
        context.verify_mode = ssl.CERT_NONE  # he takes whoever comes
        middle.certificate = context

        def is_refused(words: str = why) -> bool:
            reply = anna.chat("words", "a secret question", max_tokens=2)
            return reply.status == 503 and words in reply.error["message"]

        # The connection that went through before may still be open for a moment.
        until(f"anna says {why!r}", is_refused, 40.0)
        assert middle.heard == b""
        middle.certificate = None
        until("it goes on", lambda: anna.chat("words", max_tokens=2).status == 200, 20.0)
