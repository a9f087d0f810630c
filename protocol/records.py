"""The one place for the formats of authority: who invited, and who was admitted by whom.

    wire   = msgpack array (kind, ...) followed by the issuer's 64-byte Ed25519 signature
    signed = "meshd record 1  " + mesh id + that array

An `Invite` is signed by who issues it: the mesh's root key, or an admin. It names an invite key
whose private half is in the token; whoever holds that may ask to be admitted.
An `Admission` carries three signatures: of the invite key and of the node over (node, invite), so
that neither can be admitted without wanting to, and of the admitting member over all of it.
Nothing here judges; `authority.py` does.
"""

import dataclasses
import enum
from typing import Final

from protocol.crypto import Crypto, public_key_of, sign_with
from protocol.errors import DropReason, Refused
from protocol.fields import pack, unpack_fields
from protocol.identity import (
    INCARNATION_MAX,
    NODE_ID_BYTES,
    SIGNATURE_BYTES,
    MeshId,
    NodeId,
)

RECORD_BYTES_MAX: Final = 400
OWNER_CHARS_MAX: Final = 63
INVITE_USES_MAX: Final = 1_000_000
WALL_S_MAX: Final = 2**40
_DOMAIN: Final = b"meshd record 1  "
_JOIN_DOMAIN: Final = b"meshd join 1    "


class RecordKind(enum.IntEnum):
    """The first item of a record's array, apart from the kinds of statements.

    Grants and revocations have their numbers reserved.
    """

    INVITE = 16
    ADMISSION = 17
    GRANT = 18
    REVOCATION = 19


class Role(enum.IntEnum):
    """What a member may do."""

    ADMIN = 1
    """Serve, and invite and revoke."""
    WORKER = 2
    """Serve and ask."""
    CLIENT = 3
    """Only ask."""
    OBSERVER = 4
    """Only look."""

    @property
    def may_admit(self) -> bool:
        """Workers and admins let newcomers in."""
        return self in (Role.ADMIN, Role.WORKER)

    @property
    def may_serve(self) -> bool:
        """Workers and admins run other members' requests."""
        return self in (Role.ADMIN, Role.WORKER)

    @property
    def may_ask(self) -> bool:
        """All but observers send requests."""
        return self is not Role.OBSERVER


@dataclasses.dataclass(frozen=True, slots=True)
class Invite:
    """Leave to join, `uses` times until `expires_at_s`."""

    key: bytes
    """Public half of the key in the token."""
    issuer: bytes
    """The root key, or an admin's node key."""
    act: int
    """The issuer's own count of its acts, without gaps."""
    role: Role
    expires_at_s: int
    """Unix time; judged once, by the admitting member's clock."""
    uses: int
    is_trusted: bool
    """A mark that requests may demand."""
    owner: str
    wire: bytes = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class JoinProof:
    """A node's wish to join by an invite, signed by both: the middle part of an Admission."""

    node: NodeId
    invite_key: bytes
    invite_signature: bytes = dataclasses.field(repr=False)
    node_signature: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Admission:
    """`node` is a member: it took `slot` of an invite, and `admitter` let it in."""

    proof: JoinProof
    role: Role
    slot: int
    """From 1 to the invite's uses."""
    admitter: bytes
    """The root key (for the founder) or the admitting member's node key."""
    admitted_at_s: int
    """Unix time by the admitter's clock."""
    wire: bytes = dataclasses.field(compare=False, repr=False)

    @property
    def node(self) -> NodeId:
        """Who was admitted."""
        return self.proof.node


Record = Invite | Admission


class Records:
    """Records whose signatures hold, by their bytes: the twin of `statements.Statements`, so that
    each is read and checked once and shared. Bounded; the oldest goes first.
    """

    def __init__(self, capacity: int = 32_768) -> None:
        self._capacity = capacity
        self._verified: dict[bytes, Record] = {}

    def find(self, wire: bytes) -> Record | None:
        """The verified record with exactly these bytes, if it was seen before."""
        return self._verified.get(wire)

    def trust(self, record: Record) -> None:
        """Remember one that was checked, in one mesh: whoever shares this is of the same."""
        self._verified[record.wire] = record
        if len(self._verified) > self._capacity:
            del self._verified[next(iter(self._verified))]


def is_record(wire: bytes) -> bool:
    """Whether these bytes look like a record (and not like a statement)."""
    return len(wire) > 1 and wire[1] >= RecordKind.INVITE


def make_invite(
    issuer_seed: bytes,
    mesh: MeshId,
    *,
    key: bytes,
    act: int,
    role: Role,
    expires_at_s: int,
    uses: int,
    is_trusted: bool,
    owner: str,
) -> Invite:
    """Issue an invite under the private key whose seed is given (root's or an admin's)."""
    issuer = public_key_of(issuer_seed)
    body = pack(
        (RecordKind.INVITE, key, issuer, act, role, expires_at_s, uses, int(is_trusted), owner)
    )
    wire = body + sign_with(issuer_seed, _DOMAIN + mesh + body)
    return Invite(key, issuer, act, role, expires_at_s, uses, is_trusted, owner, wire)


def make_join_proof(invite_seed: bytes, crypto: Crypto, mesh: MeshId) -> JoinProof:
    """Ask to be admitted: signed with the token's invite key and with the node's own."""
    invite_key = public_key_of(invite_seed)
    wish = _JOIN_DOMAIN + mesh + crypto.node_id + invite_key
    return JoinProof(crypto.node_id, invite_key, sign_with(invite_seed, wish), crypto.sign(wish))


def verify_join_proof(crypto: Crypto, mesh: MeshId, proof: JoinProof) -> bool:
    """Whether both the invite key and the node signed this wish."""
    wish = _JOIN_DOMAIN + mesh + proof.node + proof.invite_key
    return crypto.verify(proof.invite_key, proof.invite_signature, wish) and crypto.verify(
        proof.node, proof.node_signature, wish
    )


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
    wire = body + crypto.sign(_DOMAIN + mesh + body)
    return Admission(proof, role, slot, crypto.node_id, admitted_at_s, wire)


def make_founding(
    root_seed: bytes, crypto: Crypto, mesh: MeshId, *, invite_seed: bytes, owner: str, now_s: int
) -> tuple[Invite, Admission]:
    """The first invite, used up by the founder itself and admitted by the root key."""
    invite = make_invite(
        root_seed,
        mesh,
        key=public_key_of(invite_seed),
        act=1,
        role=Role.ADMIN,
        expires_at_s=now_s,
        uses=1,
        is_trusted=True,
        owner=owner,
    )
    proof = make_join_proof(invite_seed, crypto, mesh)
    root = public_key_of(root_seed)
    body = _admission_body(proof, Role.ADMIN, 1, root, now_s)
    wire = body + sign_with(root_seed, _DOMAIN + mesh + body)
    return invite, Admission(proof, Role.ADMIN, 1, root, now_s, wire)


def decode_record(wire: bytes) -> Record:
    """Read a record's form; its signatures are still unchecked. Raises Refused(MALFORMED)."""
    if not SIGNATURE_BYTES < len(wire) <= RECORD_BYTES_MAX:
        raise Refused(DropReason.MALFORMED, "record size")
    fields = unpack_fields(wire[:-SIGNATURE_BYTES])
    kind = fields.take_int(0, 255)
    if kind == RecordKind.INVITE:
        return Invite(
            key=fields.take_bytes(NODE_ID_BYTES),
            issuer=fields.take_bytes(NODE_ID_BYTES),
            act=fields.take_int(1, INCARNATION_MAX),
            role=Role(fields.take_int(Role.ADMIN, Role.OBSERVER)),
            expires_at_s=fields.take_int(0, WALL_S_MAX),
            uses=fields.take_int(1, INVITE_USES_MAX),
            is_trusted=fields.take_int(0, 1) == 1,
            owner=_take_owner(fields.take_text(OWNER_CHARS_MAX)),
            wire=wire,
        )
    if kind == RecordKind.ADMISSION:
        node = NodeId(fields.take_bytes(NODE_ID_BYTES))
        invite_key = fields.take_bytes(NODE_ID_BYTES)
        role = Role(fields.take_int(Role.ADMIN, Role.OBSERVER))
        slot = fields.take_int(1, INVITE_USES_MAX)
        admitter = fields.take_bytes(NODE_ID_BYTES)
        admitted_at_s = fields.take_int(0, WALL_S_MAX)
        signatures = fields.take_bytes(SIGNATURE_BYTES), fields.take_bytes(SIGNATURE_BYTES)
        proof = JoinProof(node, invite_key, *signatures)
        return Admission(proof, role, slot, admitter, admitted_at_s, wire)
    raise Refused(DropReason.UNKNOWN_KIND)


def _take_owner(owner: str) -> str:
    if not owner or not owner.isprintable():
        raise Refused(DropReason.MALFORMED, "owner")
    return owner


def verify_record(crypto: Crypto, mesh: MeshId, record: Record) -> bool:
    """Whether the signatures inside `record` are those of the keys that it names."""
    body, signature = record.wire[:-SIGNATURE_BYTES], record.wire[-SIGNATURE_BYTES:]
    signer = record.issuer if isinstance(record, Invite) else record.admitter
    if not crypto.verify(signer, signature, _DOMAIN + mesh + body):
        return False
    return isinstance(record, Invite) or verify_join_proof(crypto, mesh, record.proof)
