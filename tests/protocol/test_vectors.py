"""Test vectors that an implementation in another language could pass, and that this one does.

They lie in `tests/vectors/*.json`; bytes are hex. After a deliberate change of the wire write them
anew, and say so in the specification (`protocol/README.md`):

    python -m tests.protocol.test_vectors

`tests/vectors/older/*.json` are never written anew (`test_older_vectors.py`).
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from protocol.codec import (
    BUCKETS,
    decode_datagram,
    decode_stream,
    encode_datagram,
    encode_rider,
    encode_stream,
)
from protocol.config import ProtocolConfig
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.dissemination import retransmit_limit
from protocol.envelope import Envelope, Opened, Told, Unproven
from protocol.identity import Address, NodeId, mesh_id_of, short_id
from protocol.issuing import (
    Turn,
    make_admission,
    make_api_key,
    make_grant,
    make_invite,
    make_join_proof,
    make_revocation,
    turn_after,
)
from protocol.messages import (
    Ack,
    DatagramMessage,
    Difference,
    Digest,
    Entry,
    Gossip,
    Join,
    JoinAnswer,
    Load,
    Nack,
    Origin,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
    StreamAck,
    StreamMessage,
    StreamProbe,
)
from protocol.push_pull import push_pull_period
from protocol.records import Priority, Role, Target, decode_record, record_name, verify_record
from protocol.statements import (
    Statement,
    Statements,
    decode_statement,
    make_accusation,
    make_alive,
    make_left,
    make_offer,
)
from protocol.suspicion import (
    confirmations_wanted,
    refused_timeout,
    suspicion_timeout,
    timeout_bounds,
)
from tests.helpers.nodes import seed_of
from tests.protocol.test_digest_vectors import make_digests
from tests.protocol.test_merge_vectors import make_merges

FOLDER = pathlib.Path(__file__).parents[1] / "vectors"
Json = Any
ROOT, A, B, INVITE = (bytes((n,)) * 32 for n in (1, 2, 3, 4))
"""Seeds of the root key, of two nodes, and of an invite."""
MESH = mesh_id_of(public_key_of(ROOT))
A_ADDRESS, B_ADDRESS = Address("192.0.2.1", 7700), Address("2001:db8::2", 7701)
A_BOOT, B_BOOT = 0x1122334455667788, 0x0102030405060708
A_SECRET, B_SECRET = bytes((5,)) * 32, bytes((6,)) * 32


def _keys() -> Json:
    return {
        "root_seed": ROOT.hex(),
        "root_key": public_key_of(ROOT).hex(),
        "mesh_id": MESH.hex(),
        "a": {
            "seed": A.hex(),
            "key": public_key_of(A).hex(),
            "address": str(A_ADDRESS),
            "boot": A_BOOT,
            "boot_secret": A_SECRET.hex(),
        },
        "b": {
            "seed": B.hex(),
            "key": public_key_of(B).hex(),
            "address": str(B_ADDRESS),
            "boot": B_BOOT,
            "boot_secret": B_SECRET.hex(),
        },
        "pair_key": _pair_key().hex(),
    }


def _pair_key() -> bytes:
    key = SodiumCrypto(A).pair_key(SodiumCrypto(B).node_id)
    assert key is not None
    return key


def ends() -> tuple[Envelope, Envelope]:
    """A and B, before their first datagram."""
    return (
        Envelope(SodiumCrypto(A), MESH, A_BOOT, A_SECRET),
        Envelope(SodiumCrypto(B), MESH, B_BOOT, B_SECRET),
    )


def sealed(envelope: Envelope, peer: bytes, payload: bytes) -> bytes:
    """A datagram to the node with this seed."""
    data = envelope.seal(NodeId(public_key_of(peer)), payload)
    assert data is not None
    return data


def make_datagrams() -> Json:
    """A's first datagram to B without a token, B's challenge, and A's second with the token."""
    a, b = ends()
    payload = encode_datagram(Ping(7, Load(1, 2, 3)))
    first = sealed(a, B, payload)
    unproven = b.open(first, A_ADDRESS, NodeId(public_key_of(A)))
    assert isinstance(unproven, Unproven)
    assert isinstance(a.open(unproven.challenge, B_ADDRESS, NodeId(public_key_of(B))), Told)
    return {
        "keys": _keys(),
        "payload": payload.hex(),
        "without_token": first.hex(),
        "challenge": unproven.challenge.hex(),
        "token": unproven.challenge[38:46].hex(),
        "with_token": sealed(a, B, payload).hex(),
        "challenge_to_a_stranger": b.refuse_unknown(first, A_ADDRESS).challenge.hex(),
    }


def make_statements() -> Json:
    """One of each kind, by A; accusations are of B."""
    a, subject = SodiumCrypto(A), SodiumCrypto(B).node_id
    where = (A_ADDRESS, B_ADDRESS)
    wires: dict[str, Statement] = {
        "alive": make_alive(a, MESH, 3, "anna", where, "meshd 0.1.0", A_BOOT, (1, 2)),
        "left": make_left(a, MESH, 3),
        "suspect": make_accusation(a, MESH, subject, 9, is_dead=False),
        "dead": make_accusation(a, MESH, subject, 9, is_dead=True),
        "suspect_refused": make_accusation(a, MESH, subject, 9, is_dead=False, is_refused=True),
        "offer": make_offer(a, MESH, 12, "model/x", b"\x81\xa1a\x01"),
        "removed_offer": make_offer(a, MESH, 13, "model/x", b""),
    }
    return {"keys": _keys(), "wires": {name: s.wire.hex() for name, s in wires.items()}}


def make_records() -> Json:
    """By the root an invite, B's grant, the revocation of A and an API key; B's admission by A."""
    invite = make_invite(
        ROOT,
        MESH,
        key=public_key_of(INVITE),
        turn=Turn(2, bytes(range(16))),
        role=Role.WORKER,
        expires_at_s=1_800_003_600,
        uses=2,
        is_trusted=True,
        owner="anna",
    )
    proof = make_join_proof(INVITE, SodiumCrypto(B), MESH)
    admission = make_admission(
        SodiumCrypto(A), MESH, proof, role=Role.WORKER, slot=1, admitted_at_s=1_800_000_000
    )
    grant = make_grant(ROOT, MESH, subject=NodeId(public_key_of(B)), turn=turn_after(invite))
    revocation = make_revocation(
        ROOT,
        MESH,
        target=Target.NODE,
        subject=public_key_of(A),
        turn=turn_after(grant),
        honoured_act=record_name(invite),
        honoured_slot=0,
    )
    api_key = make_api_key(
        ROOT,
        MESH,
        key_hash=bytes(range(32)),
        turn=turn_after(revocation),
        name="lab",
        requests=10,
        period_s=1,
        priority=Priority.HIGH,
        models="llama-*",
        is_trusted=True,
        expires_at_s=1_900_000_000,
    )
    return {
        "keys": _keys(),
        "invite_seed": INVITE.hex(),
        "invite": invite.wire.hex(),
        "admission": admission.wire.hex(),
        "grant": grant.wire.hex(),
        "revocation": revocation.wire.hex(),
        "api_key": api_key.wire.hex(),
    }


def proof_of_b() -> bytes:
    """What B signs for A's probe number 7."""
    text = b"meshd ack 1     " + MESH + public_key_of(A) + (7).to_bytes(8, "big")
    return SodiumCrypto(B).sign(text)


def _messages() -> dict[str, bytes]:
    node, origin = NodeId(public_key_of(B)), Origin(NodeId(public_key_of(A)), 7)
    join = make_join_proof(INVITE, SodiumCrypto(B), MESH)
    rider = encode_rider(make_left(SodiumCrypto(A), MESH, 3).wire)
    word = make_accusation(SodiumCrypto(A), MESH, node, 9, is_dead=False, is_refused=True)
    digest, where = 0xFEDCBA9876543210, (*range(-4, 4), 10_000, -5, 1_500_000)
    datagrams: dict[str, DatagramMessage] = {
        "ping": Ping(7, Load(1, 2, 3)),
        "ping_for_a_prober": Ping(8, None, origin),
        "ping_with_digest": Ping(7, Load(1, 2, 3), None, digest),
        "ping_with_token": Ping(7, Load(1, 2, 3), None, digest, b"\x00token\xff\xc0"),
        "ack": Ack(7, None),
        "ack_with_proof": Ack(8, None, proof_of_b()),
        "ack_with_digest_and_coordinate": Ack(7, Load(1, 2, 3), b"", digest, where),
        "ping_request": PingRequest(7, node),
        "relayed_ack": RelayedAck(7, node, proof_of_b()),
        "nack": Nack(7, node, word.wire),
        "nack_without_accusation": Nack(7, node, b""),
    }
    streams: dict[str, StreamMessage] = {
        "stream_push_pull": PushPull(False, (b"record",), (b"statement",)),
        "stream_push_pull_wanted": PushPull(True, (), (), (short_id(node), b"recordid")),
        "stream_join": Join(b"invite", join),
        "stream_join_answer": JoinAnswer("", (b"record",), (b"statement",)),
        "stream_digest": Digest(
            bytes(range(256)) * 2, bytes(8 * BUCKETS), (b"record",), b"statement"
        ),
        "stream_difference": Difference(
            1 << 63 | 1, (Entry(short_id(node), 1, 9, digest),), 2, (b"recordid",)
        ),
        "stream_probe": StreamProbe(origin),
        "stream_probe_with_accusation": StreamProbe(origin, word.wire),
        "stream_ack": StreamAck(origin, proof_of_b()),
        "stream_ack_with_alive": StreamAck(origin, proof_of_b(), b"statement"),
    }
    return {
        **{name: encode_datagram(message) for name, message in datagrams.items()},
        "gossip_with_a_rider_and_padding": encode_datagram(Gossip()) + rider + b"\xc0\xc0",
        **{name: encode_stream(message) for name, message in streams.items()},
    }


def make_messages() -> Json:
    """Payloads of datagrams, and stream messages; proofs are B's for A's probe number 7."""
    return {"keys": _keys(), "wires": {name: wire.hex() for name, wire in _messages().items()}}


def make_formulas() -> Json:
    """Integers alone: nanoseconds, counts."""
    config = ProtocolConfig()
    sizes = (1, 2, 3, 4, 5, 9, 10, 33, 50, 99, 100, 500, 1_000, 10_000)
    return {
        "suspicion": [_suspicion(config, members) for members in sizes],
        "retransmit_limit": {str(members): retransmit_limit(config, members) for members in sizes},
        "push_pull_period_ns": {
            str(members): push_pull_period(config, members) for members in sizes
        },
    }


def _suspicion(config: ProtocolConfig, members: int) -> Json:
    shortest, longest = timeout_bounds(config, members)
    wanted = confirmations_wanted(config, members)
    timeouts = [suspicion_timeout(shortest, longest, count, wanted) for count in range(5)]
    return {
        "members": members,
        "shortest_ns": shortest,
        "longest_ns": longest,
        "refused_ns": refused_timeout(config, members),
        "confirmations_wanted": wanted,
        "timeouts_ns_by_confirmations": timeouts,
    }


MAKERS: dict[str, Callable[[], Json]] = {
    "datagrams": make_datagrams,
    "statements": make_statements,
    "records": make_records,
    "messages": make_messages,
    "formulas": make_formulas,
    "merges": make_merges,
    "digests": make_digests,
}


def load(name: str, folder: pathlib.Path = FOLDER) -> Json:
    """One file of vectors."""
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", MAKERS)
def test_this_code_makes_the_same_bytes(name: str) -> None:
    """Signing and sealing are deterministic: the vectors come out again, byte for byte."""
    assert MAKERS[name]() == load(name)


def test_this_code_reads_the_datagrams() -> None:
    """B challenges the first, A takes the challenge, B opens the second."""
    vectors = load("datagrams")
    a, b = ends()
    sealed(a, B, b"")
    first = bytes.fromhex(vectors["without_token"])
    unproven = b.open(first, A_ADDRESS, NodeId(public_key_of(A)))
    assert isinstance(unproven, Unproven)
    assert unproven.challenge.hex() == vectors["challenge"]
    told = a.open(unproven.challenge, B_ADDRESS, NodeId(public_key_of(B)))
    assert isinstance(told, Told)
    opened = b.open(bytes.fromhex(vectors["with_token"]), A_ADDRESS, NodeId(public_key_of(A)))
    assert isinstance(opened, Opened)
    assert opened.payload.startswith(bytes.fromhex(vectors["payload"]))


def test_this_code_reads_the_rest() -> None:
    """Every wire decodes, and its signatures hold."""
    cache = Statements(MESH)
    for wire in load("statements")["wires"].values():
        cache.verify(SodiumCrypto(A), decode_statement(bytes.fromhex(wire)))
    for name in ("invite", "admission", "grant", "revocation", "api_key"):
        record = decode_record(bytes.fromhex(load("records")[name]))
        assert verify_record(SodiumCrypto(A), MESH, record)
    for name, wire in load("messages")["wires"].items():
        decode: Callable[[bytes], object] = decode_datagram
        if name.startswith("stream_"):
            decode = decode_stream
        decode(bytes.fromhex(wire))


def test_vectors_notice_a_change() -> None:
    """Another seed gives other bytes: equality above means something."""
    other = make_left(SodiumCrypto(seed_of("other")), MESH, 3)
    assert other.wire.hex() not in load("statements")["wires"].values()


def write() -> None:
    """Write all vectors anew."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in MAKERS.items():
        text = json.dumps(make(), indent=2) + "\n"
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
