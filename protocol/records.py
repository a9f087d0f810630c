"""The one place for the formats of authority: who invited, granted, revoked, and admitted whom.

    wire   = msgpack array (kind, ...) followed by the signer's 64-byte Ed25519 signature
    signed = "meshd record 1  " + mesh id + that array

Invites, grants, revocations and API keys are *acts* of the root key or of an admin: each carries
its issuer, its number among that issuer's acts, and the name of the act before it. Who names one
act thereby names all before it: so a revocation can say which acts of its subject still hold, and
nobody can slip another one in afterwards.
An `Admission` is no act: it carries three signatures, of the invite key and of the node over
(node, invite), so that neither can be admitted without wanting to, and of the admitting member over
all of it. Nothing here judges (`judgment.py` does) or signs (`issuing.py` does).
"""

import dataclasses
import enum
import functools
import hashlib
from typing import Final

from protocol.crypto import Crypto
from protocol.errors import DropReason, Refused
from protocol.fields import Fields, unpack_fields
from protocol.identity import (
    INCARNATION_MAX,
    NODE_ID_BYTES,
    SIGNATURE_BYTES,
    MeshId,
    NodeId,
)

RECORD_BYTES_MAX: Final = 400
RECORD_NAME_BYTES: Final = 16
OWNER_CHARS_MAX: Final = 63
INVITE_USES_MAX: Final = 1_000_000
WALL_S_MAX: Final = 2**40
API_KEY_NAME_CHARS_MAX: Final = 63
API_KEY_MODELS_CHARS_MAX: Final = 128
API_KEY_REQUESTS_MAX: Final = 1_000_000
API_KEY_PERIOD_S_MAX: Final = 86_400
NO_ACT: Final = bytes(RECORD_NAME_BYTES)
"""Stands for the act before the first, and before one whose writer did not know of names."""
DOMAIN: Final = b"meshd record 1  "
JOIN_DOMAIN: Final = b"meshd join 1    "


class RecordKind(enum.IntEnum):
    """The first item of a record's array, apart from the kinds of statements."""

    INVITE = 16
    ADMISSION = 17
    GRANT = 18
    REVOCATION = 19
    API_KEY = 20


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


class Target(enum.IntEnum):
    """What a revocation takes back."""

    NODE = 1
    INVITE = 2
    API_KEY = 3


class Priority(enum.IntEnum):
    """How urgent the requests of an API key are."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Invite:
    """Leave to join, `uses` times until `expires_at_s`."""

    key: bytes
    """Public half of the key in the token."""
    issuer: bytes
    """The root key, or an admin's node key."""
    act: int
    """The issuer's own count of its acts, from 1 without gaps."""
    role: Role
    expires_at_s: int
    """Unix time; judged once, by the admitting member's clock."""
    uses: int
    is_trusted: bool
    """A mark that requests may demand."""
    owner: str
    wire: bytes = dataclasses.field(compare=False, repr=False)
    previous: bytes = NO_ACT
    """`record_name` of the issuer's act before this one."""


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


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """The member `subject` is an admin, whatever its invite said."""

    subject: NodeId
    issuer: bytes
    act: int
    previous: bytes
    wire: bytes = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Revocation:
    """A node, an invite or an API key counts no more."""

    target: Target
    subject: bytes
    """The node's key, the invite's key, or the hash of the API key."""
    issuer: bytes
    act: int
    previous: bytes
    honoured_act: bytes
    """Of a node: the name of its last act that still holds (`NO_ACT`: none does)."""
    honoured_slot: int
    """Of an invite: who came by this slot or a lower one stays (0: nobody)."""
    wire: bytes = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class ApiKey:
    """Whoever shows the key with this hash to any gateway of the mesh may ask."""

    key_hash: bytes
    """32 bytes; the key itself has too many bits to be guessed."""
    issuer: bytes
    act: int
    previous: bytes
    name: str
    requests: int
    """At once, and on average in each period; 0: as many as it likes."""
    period_s: int
    priority: Priority
    models: str
    """Patterns with * and ?, commas between them; empty: every model."""
    is_trusted: bool
    """Its requests go to trusted nodes only."""
    expires_at_s: int
    """Unix time; 0: never."""
    wire: bytes = dataclasses.field(compare=False, repr=False)


Act = Invite | Grant | Revocation | ApiKey
Record = Act | Admission


def record_name(record: Record) -> bytes:
    """16 bytes that name a record."""
    return _name_of(record.wire)


@functools.lru_cache(maxsize=65_536)
def _name_of(wire: bytes) -> bytes:
    return hashlib.blake2b(wire, digest_size=RECORD_NAME_BYTES, person=b"meshd record").digest()


def signer_of(record: Record) -> bytes:
    """The key under whose authority a record stands: an act's issuer, an admission's admitter."""
    return record.admitter if isinstance(record, Admission) else record.issuer


def made_key(record: Record) -> bytes | None:
    """The key that a record makes an invite, a member or an admin; None: it makes none."""
    match record:
        case Invite():
            return record.key
        case Admission():
            return record.node
        case Grant():
            return record.subject
        case _:
            return None


def needed_keys(record: Record) -> tuple[bytes, ...]:
    """What a record rests on: its signer, and its invite."""
    signer = signer_of(record)
    if not isinstance(record, Admission):
        return (signer,)
    return signer, record.proof.invite_key


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


def join_text(mesh: MeshId, node: bytes, invite_key: bytes) -> bytes:
    """What a node and an invite's key sign to join."""
    return JOIN_DOMAIN + mesh + node + invite_key


def verify_join_proof(crypto: Crypto, mesh: MeshId, proof: JoinProof) -> bool:
    """Whether both the invite key and the node signed this wish."""
    wish = join_text(mesh, proof.node, proof.invite_key)
    return crypto.verify(proof.invite_key, proof.invite_signature, wish) and crypto.verify(
        proof.node, proof.node_signature, wish
    )


def verify_record(crypto: Crypto, mesh: MeshId, record: Record) -> bool:
    """Whether the signatures inside `record` are those of the keys that it names."""
    body, signature = record.wire[:-SIGNATURE_BYTES], record.wire[-SIGNATURE_BYTES:]
    if not crypto.verify(signer_of(record), signature, DOMAIN + mesh + body):
        return False
    return not isinstance(record, Admission) or verify_join_proof(crypto, mesh, record.proof)


def decode_record(wire: bytes) -> Record:
    """Read a record's form; its signatures are still unchecked. Raises Refused: MALFORMED,
    UNKNOWN_KIND.
    """
    if not SIGNATURE_BYTES < len(wire) <= RECORD_BYTES_MAX:
        raise Refused(DropReason.MALFORMED, "record size")
    fields = unpack_fields(wire[:-SIGNATURE_BYTES])
    match fields.take_int(0, 255):
        case RecordKind.INVITE:
            return _decode_invite(fields, wire)
        case RecordKind.ADMISSION:
            return _decode_admission(fields, wire)
        case RecordKind.GRANT:
            subject = NodeId(fields.take_bytes(NODE_ID_BYTES))
            return Grant(subject, *_take_act(fields), wire)
        case RecordKind.REVOCATION:
            return _decode_revocation(fields, wire)
        case RecordKind.API_KEY:
            return _decode_api_key(fields, wire)
        case _:
            raise Refused(DropReason.UNKNOWN_KIND)


def _take_act(fields: Fields) -> tuple[bytes, int, bytes]:
    """Issuer, number and the name of the act before."""
    issuer = fields.take_bytes(NODE_ID_BYTES)
    return issuer, fields.take_int(1, INCARNATION_MAX), fields.take_bytes(RECORD_NAME_BYTES)


def _decode_invite(fields: Fields, wire: bytes) -> Invite:
    return Invite(
        key=fields.take_bytes(NODE_ID_BYTES),
        issuer=fields.take_bytes(NODE_ID_BYTES),
        act=fields.take_int(1, INCARNATION_MAX),
        role=Role(fields.take_int(Role.ADMIN, Role.OBSERVER)),
        expires_at_s=fields.take_int(0, WALL_S_MAX),
        uses=fields.take_int(1, INVITE_USES_MAX),
        is_trusted=fields.take_int(0, 1) == 1,
        owner=_take_shown(fields, OWNER_CHARS_MAX),
        previous=fields.take_bytes(RECORD_NAME_BYTES) if fields.has_more else NO_ACT,
        wire=wire,
    )


def _decode_admission(fields: Fields, wire: bytes) -> Admission:
    node = NodeId(fields.take_bytes(NODE_ID_BYTES))
    invite_key = fields.take_bytes(NODE_ID_BYTES)
    role = Role(fields.take_int(Role.ADMIN, Role.OBSERVER))
    slot = fields.take_int(1, INVITE_USES_MAX)
    admitter = fields.take_bytes(NODE_ID_BYTES)
    admitted_at_s = fields.take_int(0, WALL_S_MAX)
    signatures = fields.take_bytes(SIGNATURE_BYTES), fields.take_bytes(SIGNATURE_BYTES)
    proof = JoinProof(node, invite_key, *signatures)
    return Admission(proof, role, slot, admitter, admitted_at_s, wire)


def _decode_revocation(fields: Fields, wire: bytes) -> Revocation:
    target = Target(fields.take_int(Target.NODE, Target.API_KEY))
    subject = fields.take_bytes(NODE_ID_BYTES)
    act = _take_act(fields)
    honoured_act = fields.take_bytes(RECORD_NAME_BYTES)
    honoured_slot = fields.take_int(0, INVITE_USES_MAX)
    return Revocation(target, subject, *act, honoured_act, honoured_slot, wire)


def _decode_api_key(fields: Fields, wire: bytes) -> ApiKey:
    key_hash = fields.take_bytes(NODE_ID_BYTES)
    act = _take_act(fields)
    name = _take_shown(fields, API_KEY_NAME_CHARS_MAX)
    requests = fields.take_int(0, API_KEY_REQUESTS_MAX)
    period_s = fields.take_int(1, API_KEY_PERIOD_S_MAX)
    priority = Priority(fields.take_int(Priority.LOW, Priority.HIGH))
    models = fields.take_text(API_KEY_MODELS_CHARS_MAX)
    if not models.isprintable():
        raise Refused(DropReason.MALFORMED, "models")
    is_trusted = fields.take_int(0, 1) == 1
    expires_at_s = fields.take_int(0, WALL_S_MAX)
    return ApiKey(
        key_hash,
        *act,
        name,
        requests,
        period_s,
        priority,
        models,
        is_trusted,
        expires_at_s,
        wire,
    )


def _take_shown(fields: Fields, chars_max: int) -> str:
    """A name that is shown to people."""
    text = fields.take_text(chars_max)
    if not text or not text.isprintable():
        raise Refused(DropReason.MALFORMED, "a name that cannot be shown")
    return text
