"""What today's encoder writes (`tests/vectors/*.json`) is read by the first release.

It ignores the fields that it does not know; a datagram of a type that it does not know is Gossip to
it, and a stream message of such a type is refused as MALFORMED, which ends that one exchange.
`test_older_vectors.py` holds the other direction.
"""

import pytest

from protocol.codec import decode_stream as todays_decode_stream
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.errors import DropReason
from protocol.identity import NodeId
from protocol.issuing import make_join_proof
from protocol.messages import Difference, Digest, StreamAck, StreamProbe
from protocol.statements import make_left
from tests.helpers.nodes import refusal
from tests.protocol.older.codec import decode_datagram, decode_stream
from tests.protocol.older.messages import (
    Ack,
    DatagramMessage,
    Gossip,
    Join,
    JoinAnswer,
    Load,
    Origin,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
    StreamMessage,
)
from tests.protocol.older.statements import (
    Accusation,
    Alive,
    Left,
    Offer,
    Statement,
    decode_statement,
)
from tests.protocol.test_vectors import A_ADDRESS, B_ADDRESS, INVITE, MESH, A, B, load, proof_of_b

A_ID, B_ID = NodeId(public_key_of(A)), NodeId(public_key_of(B))
LOAD, ORIGIN = Load(1, 2, 3), Origin(A_ID, 7)
LATER = (Digest, Difference, StreamProbe, StreamAck)
"""Stream messages, types 4 to 7, that the first release does not know."""

DATAGRAMS: dict[str, DatagramMessage] = {
    "ping": Ping(7, LOAD),
    "ping_for_a_prober": Ping(8, None, ORIGIN),
    "ping_with_digest": Ping(7, LOAD),
    "ping_with_token": Ping(7, LOAD),
    "ack": Ack(7, None),
    "ack_with_proof": Ack(8, None, proof_of_b()),
    "ack_with_digest_and_coordinate": Ack(7, LOAD),
    "ping_request": PingRequest(7, B_ID),
    "relayed_ack": RelayedAck(7, B_ID, proof_of_b()),
    "nack": Gossip(),
    "nack_without_accusation": Gossip(),
}
STREAMS: dict[str, StreamMessage] = {
    "stream_push_pull": PushPull(False, (b"record",), (b"statement",)),
    "stream_push_pull_wanted": PushPull(True, (), ()),
    "stream_join": Join(b"invite", make_join_proof(INVITE, SodiumCrypto(B), MESH)),
    "stream_join_answer": JoinAnswer("", (b"record",), (b"statement",)),
}
STATEMENTS: dict[str, Statement] = {
    "alive": Alive(A_ID, 3, "anna", (A_ADDRESS, B_ADDRESS), "meshd 0.1.0", b""),
    "left": Left(A_ID, 3, b""),
    "suspect": Accusation(A_ID, B_ID, 9, False, b""),
    "dead": Accusation(A_ID, B_ID, 9, True, b""),
    "suspect_refused": Accusation(A_ID, B_ID, 9, False, b""),
    "offer": Offer(A_ID, 12, "model/x", b"\x81\xa1a\x01", b""),
    "removed_offer": Offer(A_ID, 13, "model/x", b"", b""),
}


def _wires(name: str) -> dict[str, bytes]:
    return {key: bytes.fromhex(wire) for key, wire in load(name)["wires"].items()}


def _later_streams() -> list[str]:
    wires = _wires("messages")
    streams = [name for name in wires if name.startswith("stream_")]
    return [name for name in streams if isinstance(todays_decode_stream(wires[name]), LATER)]


def test_datagrams() -> None:
    """Each is read as what it was then; what rides along with a later field is read too."""
    wires = _wires("messages")
    for name, expected in DATAGRAMS.items():
        assert decode_datagram(wires[name]) == (expected, [])
    left = make_left(SodiumCrypto(A), MESH, 3).wire
    assert decode_datagram(wires["gossip_with_a_rider_and_padding"]) == (Gossip(), [left])
    for name in DATAGRAMS:
        rider = wires["gossip_with_a_rider_and_padding"][2:]
        assert decode_datagram(wires[name] + rider)[1] == [left]


def test_streams() -> None:
    """Those that the first release knows are read, without the fields that came later."""
    wires = _wires("messages")
    for name, expected in STREAMS.items():
        assert decode_stream(wires[name]) == expected


@pytest.mark.parametrize("name", _later_streams())
def test_later_streams_are_refused(name: str) -> None:
    """Types 4 to 7: with the refusal that the caller expects, and nothing else."""
    wire = _wires("messages")[name]
    assert wire[1] in range(4, 8)
    assert refusal(decode_stream, wire) is DropReason.MALFORMED


def test_statements() -> None:
    """Each is read; equal but for the fields that came later."""
    wires = _wires("statements")
    assert sorted(wires) == sorted(STATEMENTS)
    for name, wire in wires.items():
        assert decode_statement(wire) == STATEMENTS[name]
        assert decode_statement(wire).wire == wire


def test_no_message_is_forgotten() -> None:
    """Whoever adds a message to the vectors says here what the first release makes of it."""
    expected = [*DATAGRAMS, *STREAMS, *_later_streams(), "gossip_with_a_rider_and_padding"]
    assert sorted(_wires("messages")) == sorted(expected)
    types = {_wires("messages")[name][1] for name in _later_streams()}
    assert types == {4, 5, 6, 7}
