"""Invites and admissions."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DropReason, Refused
from protocol.fields import pack
from protocol.identity import MeshId
from protocol.issuing import make_join_proof
from protocol.records import (
    RECORD_BYTES_MAX,
    Admission,
    Invite,
    Record,
    Role,
    decode_record,
    is_record,
    verify_join_proof,
    verify_record,
)
from protocol.statements import Statement
from tests.helpers.nodes import Authorities, refusal
from tests.helpers.strategies import CRYPTOS, MESH, SEEDS, records, statements

CRYPTO = CRYPTOS[0]
UNREADABLE = (DropReason.MALFORMED, DropReason.UNKNOWN_KIND)


@given(records)
def test_records_survive(record: Record) -> None:
    """decode(wire) == the record, its signatures hold, and it fits its limit."""
    decoded = decode_record(record.wire)
    assert decoded == record
    assert verify_record(CRYPTO, MESH, decoded)
    assert len(record.wire) <= RECORD_BYTES_MAX


@given(records, statements)
def test_records_and_statements_are_told_apart(record: Record, statement: Statement) -> None:
    """By their second byte."""
    assert is_record(record.wire)
    assert not is_record(statement.wire)


@given(st.binary(max_size=450))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    """Decoding raises Refused, as malformed or of an unknown kind, and nothing else."""
    is_record(data)
    assert refusal(decode_record, data) in (None, *UNREADABLE)


@given(records, st.data())
def test_no_changed_record_verifies(record: Record, data: st.DataObject) -> None:
    """One changed byte anywhere: malformed, of no kind that we know, or a signature fails."""
    wire = bytearray(record.wire)
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    verified: list[bool] = []
    reason = refusal(
        lambda data: verified.append(verify_record(CRYPTO, MESH, decode_record(data))), bytes(wire)
    )
    assert (reason, verified) in [(None, [False]), *((unread, []) for unread in UNREADABLE)]


@given(records)
def test_records_belong_to_one_mesh(record: Record) -> None:
    """The same bytes mean nothing elsewhere."""
    assert not verify_record(CRYPTO, MeshId(bytes(16)), record)


def test_an_admission_needs_all_three_signatures() -> None:
    """Of the invite's key, of the node, and of the admitting member."""
    authorities = Authorities()
    _, admission = authorities.admit(CRYPTO)
    assert verify_record(CRYPTO, authorities.mesh, admission)
    other = make_join_proof(SEEDS[1], CRYPTOS[1], authorities.mesh)
    for change in (
        {"invite_signature": other.invite_signature},
        {"node_signature": other.node_signature},
        {"node": CRYPTOS[1].node_id},
        {"invite_key": other.invite_key},
    ):
        proof = dataclasses.replace(admission.proof, **change)
        assert not verify_join_proof(CRYPTO, authorities.mesh, proof)
        changed = dataclasses.replace(admission, proof=proof)
        assert not verify_record(CRYPTO, authorities.mesh, changed)


def test_the_founding_is_signed_by_the_root() -> None:
    """The first admission has no admitting member."""
    authorities = Authorities()
    for record in (authorities.invite, authorities.founding):
        assert verify_record(CRYPTO, authorities.mesh, record)
        assert decode_record(record.wire) == record
    assert authorities.founding.admitter == authorities.root
    assert authorities.founding.node == authorities.founder.node_id
    assert isinstance(authorities.invite, Invite)
    assert isinstance(authorities.founding, Admission)


def _invite(**change: object) -> bytes:
    fields = {
        "kind": 16,
        "key": bytes(32),
        "issuer": bytes(32),
        "act": 1,
        "role": 2,
        "expires": 1,
        "uses": 1,
        "trusted": 0,
        "owner": "o",
    }
    return pack(tuple({**fields, **change}.values())) + bytes(64)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": -1},
        {"kind": 256},
        {"key": bytes(31)},
        {"act": 0},
        {"role": 0},
        {"role": 5},
        {"expires": -1},
        {"uses": 0},
        {"uses": 1_000_001},
        {"trusted": 2},
        {"owner": ""},
        {"owner": "a\nb"},
        {"owner": "o" * 64},
    ],
)
def test_malformed_invites(change: dict[str, object]) -> None:
    """Each bound of each field holds."""
    decode_record(_invite())
    with pytest.raises(Refused) as caught:
        decode_record(_invite(**change))
    assert caught.value.reason is DropReason.MALFORMED


@pytest.mark.parametrize("kind", [21, 28, 255, 1])
def test_kinds_that_later_versions_add_are_nobodys_fault(kind: int) -> None:
    """They are told apart from what is malformed."""
    assert refusal(decode_record, _invite(kind=kind)) is DropReason.UNKNOWN_KIND


def test_record_sizes_are_bounded() -> None:
    """Nothing is read beyond the limit, nor without a signature."""
    for wire in (bytes(64), _invite() + bytes(RECORD_BYTES_MAX)):
        with pytest.raises(Refused, match="record size"):
            decode_record(wire)


@pytest.mark.parametrize(
    ("role", "may_admit", "may_serve", "may_ask"),
    [
        (Role.ADMIN, True, True, True),
        (Role.WORKER, True, True, True),
        (Role.CLIENT, False, False, True),
        (Role.OBSERVER, False, False, False),
    ],
)
def test_roles(role: Role, may_admit: bool, may_serve: bool, may_ask: bool) -> None:
    """Who may do what."""
    assert (role.may_admit, role.may_serve, role.may_ask) == (may_admit, may_serve, may_ask)
