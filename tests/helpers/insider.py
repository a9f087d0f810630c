"""The one place for a member that tests hold in their own hands: its keys, datagrams and streams.

It is truly admitted (it joined by a token), so whatever it sends gets as far as a member's bytes
can get.
"""

import contextlib
import pathlib
import secrets
import socket
import ssl
import time

import trio

from meshd.home import Home
from meshd.joining import join_offline
from meshd.peers import STREAM_VERSION, Kind
from meshd.trust.certificates import ensure_certificates, make_contexts
from meshd.trust.keys import node_seed
from meshd.trust.mesh import read_mesh
from meshd.trust.token import decode_token
from protocol.codec import decode_datagram, encode_datagram
from protocol.crypto import SodiumCrypto
from protocol.envelope import Envelope, Opened, Told, Unproven
from protocol.exchange import Ask, encode_frame
from protocol.fields import pack
from protocol.identity import Address, NodeId, key_from_text
from protocol.messages import Ack, Gossip, Ping

ANSWER_S = 10.0
AGAIN_S = 1.0


class Insider:
    """Keys and sessions of a member whose every byte the test decides."""

    def __init__(self, folder: pathlib.Path, token: str) -> None:
        self.home = Home(folder / "insider")
        trio.run(join_offline, self.home, token)
        self.start()

    def start(self) -> None:
        """Begin, or begin again: as a node of this home that has just been started."""
        mesh = read_mesh(self.home)
        assert mesh is not None
        self.crypto = SodiumCrypto(node_seed(self.home))
        self.node: NodeId = self.crypto.node_id
        self.mesh = mesh.mesh
        self.dialing = make_contexts(self.home)[0]
        boot = int(time.time()) << 24 | secrets.randbits(24)
        self._envelope = Envelope(self.crypto, mesh.mesh, boot, secrets.token_bytes(32))
        self._sequence = 0

    def talk_to(self, node_id: str, port: int) -> "Talk":
        """Exchange a first datagram with the daemon of that id on 127.0.0.1."""
        return Talk(self._envelope, NodeId(key_from_text(node_id)), port)


class Talk:
    """Sealed datagrams between the insider and one daemon. Close it."""

    def __init__(self, envelope: Envelope, peer: NodeId, port: int) -> None:
        self._envelope = envelope
        self._peer = peer
        self._there = Address("127.0.0.1", port)
        self._sequence = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind(("127.0.0.1", 0))
            self._socket.connect(("127.0.0.1", port))
            challenge = self._challenge()
            assert isinstance(envelope.open(challenge, self._there, peer), Told)
        except BaseException:
            self._socket.close()
            raise

    def _challenge(self) -> bytes:
        """What a first datagram earns; sent again where challenges were rationed."""
        self._socket.settimeout(AGAIN_S)
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            self._socket.send(self.sealed())
            with contextlib.suppress(TimeoutError):
                return self._socket.recv(2_048)
        raise AssertionError("a member was not challenged")

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def sealed(self, payload: bytes = encode_datagram(Gossip())) -> bytes:
        """A datagram that the daemon will read, once."""
        data = self._envelope.seal(self._peer, payload)
        assert data is not None
        return data

    def send(self, data: bytes) -> None:
        """Send bytes from the insider's own, proven address."""
        self._socket.send(data)

    def ping(self) -> None:
        """A ping and its ack: what was sent to the daemon before has then been read."""
        self._sequence += 1
        self._socket.send(self.sealed(encode_datagram(Ping(self._sequence, None, None))))
        deadline = time.monotonic() + ANSWER_S
        self._socket.settimeout(AGAIN_S)
        while time.monotonic() < deadline:
            try:
                data = self._socket.recv(2_048)
            except TimeoutError:  # a full socket buffer loses datagrams
                self._socket.send(self.sealed(encode_datagram(Ping(self._sequence, None, None))))
                continue
            received = self._envelope.open(data, self._there, self._peer)
            if isinstance(received, Unproven):
                self._socket.send(received.challenge)  # the daemon repeats it with our token
            elif isinstance(received, Opened):
                message, _ = decode_datagram(received.payload)
                if isinstance(message, Ack) and message.sequence == self._sequence:
                    return
        raise AssertionError("a member's ping was not answered")


class PeerStream:
    """A blocking TLS stream to a daemon's port, with frames as raw as a test wants. Close it."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as a member's daemon does
        try:
            self._tls = context.wrap_socket(raw)
        except BaseException:
            raw.close()
            raise

    def __enter__(self) -> "PeerStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self._tls.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._tls.sendall(data)

    def send_frame(self, frame: bytes) -> None:
        """Send one whole frame."""
        self.send(len(frame).to_bytes(4, "big") + frame)

    def receive_frame(self) -> bytes:
        """The daemon's next frame."""
        received = b""
        while len(received) < 4 or len(received) < 4 + int.from_bytes(received[:4], "big"):
            data = self._tls.recv(65_536)
            assert data, "the daemon ended the stream"
            received += data
        return received[4:]

    def end(self) -> None:
        """Say that nothing more comes; the daemon may go on to answer."""
        with contextlib.suppress(OSError):
            self._tls.shutdown(socket.SHUT_WR)

    def receive(self) -> bytes:
        """Everything until the daemon ends the stream, which it has to do within 10 s."""
        received = b""
        try:
            while data := self._tls.recv(65_536):
                received += data
        except (ConnectionError, ssl.SSLError):
            pass  # it need not say goodbye
        return received


def outsider_context(folder: pathlib.Path, token: str) -> ssl.SSLContext:
    """The TLS of somebody who has read a token but never joined by it."""
    home = Home(folder / "outsider")
    home.create()
    ensure_certificates(home, decode_token(token).mesh_secret, node_seed(home))
    return make_contexts(home)[0]


def is_served(port: int, context: ssl.SSLContext) -> bool:
    """Whether the daemon there lets a peer with this key ask for something."""
    with PeerStream(context, port) as stream:
        try:
            stream.send_frame(pack((STREAM_VERSION, Kind.REQUEST)))
            stream.send_frame(encode_frame(Ask("f" * 16, 1_000, b"")))
            return b"bad_request" in stream.receive_frame()
        except (AssertionError, ConnectionError, ssl.SSLError):
            return False  # it ended the stream
