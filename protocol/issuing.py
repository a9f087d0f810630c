"""The one place where authority records are signed: by the root key, an admin, or who admits.

`records.py` has their formats. Each act takes a `Turn`: its number among its issuer's acts and the
name of the one before (`Authority.next_turn` tells it).
"""

from typing import NamedTuple

from protocol.crypto import Crypto, public_key_of, sign_with
from protocol.fields import pack
from protocol.identity import MeshId, NodeId
from protocol.records import (
    DOMAIN,
    NO_ACT,
    Admission,
    ApiKey,
    Grant,
    Invite,
    JoinProof,
    Priority,
    RecordKind,
    Revocation,
    Role,
    Target,
    join_text,
    record_name,
)


class Turn(NamedTuple):
    """The place of an act among those of its issuer."""

    act: int
    """From 1, without gaps."""
    previous: bytes
    """The name of the act before; `NO_ACT` for the first."""


FIRST_TURN = Turn(1, NO_ACT)


def turn_after(record: Invite | Grant | Revocation | ApiKey) -> Turn:
    """The turn of the same issuer's next act."""
    return Turn(record.act + 1, record_name(record))


def _signed(seed: bytes, mesh: MeshId, body: bytes) -> bytes:
    return body + sign_with(seed, DOMAIN + mesh + body)


def make_invite(
    issuer_seed: bytes,
    mesh: MeshId,
    *,
    key: bytes,
    turn: Turn,
    role: Role,
    expires_at_s: int,
    uses: int,
    is_trusted: bool,
    owner: str,
) -> Invite:
    """Issue an invite under the private key whose seed is given (root's or an admin's)."""
    issuer = public_key_of(issuer_seed)
    head = (RecordKind.INVITE, key, issuer, turn.act, role, expires_at_s, uses)
    wire = _signed(issuer_seed, mesh, pack((*head, int(is_trusted), owner, turn.previous)))
    return Invite(
        key, issuer, turn.act, role, expires_at_s, uses, is_trusted, owner, wire, turn.previous
    )


def make_grant(issuer_seed: bytes, mesh: MeshId, *, subject: NodeId, turn: Turn) -> Grant:
    """Make a member an admin."""
    issuer = public_key_of(issuer_seed)
    wire = _signed(issuer_seed, mesh, pack((RecordKind.GRANT, subject, issuer, *turn)))
    return Grant(subject, issuer, *turn, wire)


def make_revocation(
    issuer_seed: bytes,
    mesh: MeshId,
    *,
    target: Target,
    subject: bytes,
    turn: Turn,
    honoured_act: bytes = NO_ACT,
    honoured_slot: int = 0,
) -> Revocation:
    """Take back a membership, an invite or an API key. What is not honoured goes with it."""
    issuer = public_key_of(issuer_seed)
    head = (RecordKind.REVOCATION, target, subject, issuer, *turn)
    wire = _signed(issuer_seed, mesh, pack((*head, honoured_act, honoured_slot)))
    return Revocation(target, subject, issuer, *turn, honoured_act, honoured_slot, wire)


def make_api_key(
    issuer_seed: bytes,
    mesh: MeshId,
    *,
    key_hash: bytes,
    turn: Turn,
    name: str,
    requests: int,
    period_s: int,
    priority: Priority,
    models: str,
    is_trusted: bool,
    expires_at_s: int,
) -> ApiKey:
    """Let every gateway of the mesh accept an API key, of which only the hash is told."""
    issuer = public_key_of(issuer_seed)
    head = (RecordKind.API_KEY, key_hash, issuer, *turn, name, requests, period_s, priority)
    wire = _signed(issuer_seed, mesh, pack((*head, models, int(is_trusted), expires_at_s)))
    return ApiKey(
        key_hash,
        issuer,
        *turn,
        name=name,
        requests=requests,
        period_s=period_s,
        priority=priority,
        models=models,
        is_trusted=is_trusted,
        expires_at_s=expires_at_s,
        wire=wire,
    )


def make_join_proof(invite_seed: bytes, crypto: Crypto, mesh: MeshId) -> JoinProof:
    """Ask to be admitted: signed with the token's invite key and with the node's own."""
    invite_key = public_key_of(invite_seed)
    wish = join_text(mesh, crypto.node_id, invite_key)
    return JoinProof(crypto.node_id, invite_key, sign_with(invite_seed, wish), crypto.sign(wish))


def _admission_body(
    proof: JoinProof, role: Role, slot: int, admitter: bytes, admitted_at_s: int
) -> bytes:
    return pack(
        (
            RecordKind.ADMISSION,
            proof.node,
            proof.invite_key,
            role,
            slot,
            admitter,
            admitted_at_s,
            proof.invite_signature,
            proof.node_signature,
        )
    )


def make_admission(
    crypto: Crypto, mesh: MeshId, proof: JoinProof, *, role: Role, slot: int, admitted_at_s: int
) -> Admission:
    """Let `proof.node` in, as an admitting member."""
    body = _admission_body(proof, role, slot, crypto.node_id, admitted_at_s)
    wire = body + crypto.sign(DOMAIN + mesh + body)
    return Admission(proof, role, slot, crypto.node_id, admitted_at_s, wire)


def make_keyed_admission(
    seed: bytes, mesh: MeshId, proof: JoinProof, *, role: Role, slot: int, admitted_at_s: int
) -> Admission:
    """Let `proof.node` in by a private key, the root's or an admin's: the founder, or whom a
    member that is about to be revoked had let in.
    """
    admitter = public_key_of(seed)
    body = _admission_body(proof, role, slot, admitter, admitted_at_s)
    return Admission(proof, role, slot, admitter, admitted_at_s, _signed(seed, mesh, body))


def make_founding(
    root_seed: bytes, crypto: Crypto, mesh: MeshId, *, invite_seed: bytes, owner: str, now_s: int
) -> tuple[Invite, Admission]:
    """The first invite, used up by the founder itself and admitted by the root key."""
    invite = make_invite(
        root_seed,
        mesh,
        key=public_key_of(invite_seed),
        turn=FIRST_TURN,
        role=Role.ADMIN,
        expires_at_s=now_s,
        uses=1,
        is_trusted=True,
        owner=owner,
    )
    proof = make_join_proof(invite_seed, crypto, mesh)
    admission = make_keyed_admission(
        root_seed, mesh, proof, role=Role.ADMIN, slot=1, admitted_at_s=now_s
    )
    return invite, admission
