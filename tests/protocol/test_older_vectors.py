"""What the first release sent (`tests/vectors/older/*.json`, never written anew) is read for ever.

For missing fields today's code takes what the first release meant by their absence.
"""

from protocol.codec import decode_datagram, decode_stream
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.envelope import Opened, Told
from protocol.identity import NodeId
from protocol.issuing import make_join_proof
from protocol.messages import (
    Ack,
    DatagramMessage,
    Gossip,
    Join,
    Load,
    Origin,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
    StreamMessage,
)
from protocol.records import decode_record, verify_record
from protocol.statements import (
    Accusation,
    Alive,
    Left,
    Offer,
    Statement,
    Statements,
    decode_statement,
    make_left,
)
from tests.protocol.test_vectors import (
    A_ADDRESS,
    B_ADDRESS,
    FOLDER,
    INVITE,
    MESH,
    A,
    B,
    ends,
    load,
    proof_of_b,
    sealed,
)

OLDER = FOLDER / "older"


class TestOlder:
    """What the first release sent, byte for byte."""

    def test_messages(self) -> None:
        """Each is read; what it does not say is "does not say", a push/pull asks for all."""
        node, origin = NodeId(public_key_of(B)), Origin(NodeId(public_key_of(A)), 7)
        wires = {name: bytes.fromhex(w) for name, w in load("messages", OLDER)["wires"].items()}
        left = make_left(SodiumCrypto(A), MESH, 3).wire
        datagrams: dict[str, tuple[DatagramMessage, list[bytes]]] = {
            "ping": (Ping(7, Load(1, 2, 3), None, None), []),
            "ping_for_a_prober": (Ping(8, None, origin, None), []),
            "ack": (Ack(7, None, b"", None, None), []),
            "ack_with_proof": (Ack(8, None, proof_of_b(), None, None), []),
            "ping_request": (PingRequest(7, node), []),
            "relayed_ack": (RelayedAck(7, node, proof_of_b()), []),
            "gossip_with_a_rider_and_padding": (Gossip(), [left]),
        }
        join = make_join_proof(INVITE, SodiumCrypto(B), MESH)
        streams: dict[str, StreamMessage] = {
            "stream_push_pull": PushPull(False, (b"record",), (b"statement",), None),
            "stream_join": Join(b"invite", join),
        }
        assert sorted(wires) == sorted([*datagrams, *streams])
        for name, expected in datagrams.items():
            assert decode_datagram(wires[name]) == expected
        for stream, message in streams.items():
            assert decode_stream(wires[stream]) == message

    def test_statements(self) -> None:
        """Each is read, its signature holds, and its missing fields have their defaults."""
        a, b = NodeId(public_key_of(A)), NodeId(public_key_of(B))
        addresses = (A_ADDRESS, B_ADDRESS)
        expected: dict[str, Statement] = {
            "alive": Alive(a, 3, "anna", addresses, "meshd 0.1.0", b"", 0, (1, 1)),
            "left": Left(a, 3, b""),
            "suspect": Accusation(a, b, 9, False, b"", False),
            "dead": Accusation(a, b, 9, True, b"", False),
            "offer": Offer(a, 12, "model/x", b"\x81\xa1a\x01", b""),
            "removed_offer": Offer(a, 13, "model/x", b"", b""),
        }
        wires = load("statements", OLDER)["wires"]
        assert sorted(wires) == sorted(expected)
        for name, wire in wires.items():
            statement = decode_statement(bytes.fromhex(wire))
            assert statement == expected[name]
            assert statement.wire.hex() == wire
            Statements(MESH).verify(SodiumCrypto(B), statement)

    def test_records(self) -> None:
        """Admissions of the first release count for ever."""
        vectors = load("records", OLDER)
        for name in ("invite", "admission"):
            assert verify_record(SodiumCrypto(A), MESH, decode_record(bytes.fromhex(vectors[name])))

    def test_datagrams(self) -> None:
        """Its sealed datagrams and challenges open."""
        vectors = load("datagrams", OLDER)
        a, b = ends()
        sealed(a, B, b"")
        told = a.open(bytes.fromhex(vectors["challenge"]), B_ADDRESS, NodeId(public_key_of(B)))
        assert isinstance(told, Told)
        opened = b.open(bytes.fromhex(vectors["with_token"]), A_ADDRESS, NodeId(public_key_of(A)))
        assert isinstance(opened, Opened)
        assert decode_datagram(opened.payload) == (Ping(7, Load(1, 2, 3)), [])
