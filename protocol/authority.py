"""The one place that judges who is a member: the set of authority records and what follows.

Rule 1: an invite counts when the root key issued it. (Admins' invites wait for grants.)
Rule 2: an admission counts when its invite counts, its role is the invite's, its slot is within
        the uses, and its admitter is the root key or a member whose role may admit.
Rule 3: one admission per slot; of two, the one with the lower hash stays, everywhere alike.
Rule 4: one admission per node; the first stays ("a second admission changes nothing").
Rule 5: records whose premise is not here yet wait, unchecked, in a small bounded buffer.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Sequence
from typing import Final

from protocol.crypto import Crypto
from protocol.errors import DropReason, Refused
from protocol.identity import MeshId, NodeId, mesh_id_of, short_id
from protocol.records import (
    Admission,
    Invite,
    JoinProof,
    Record,
    Records,
    Role,
    decode_record,
    make_admission,
    verify_join_proof,
    verify_record,
)

INVITES_MAX: Final = 4_096
ADMISSIONS_MAX: Final = 16_384
WAITING_MAX: Final = 256


class JoinRefusal(enum.StrEnum):
    """Why a newcomer is not let in; each has its own words for the person who tries."""

    UNKNOWN_INVITE = "unknown_invite"
    BAD_PROOF = "bad_proof"
    EXPIRED = "expired"
    USED_UP = "used_up"
    CANNOT_ADMIT = "cannot_admit"
    FULL = "full"


def record_hash(record: Record) -> bytes:
    """16 bytes that name a record."""
    return hashlib.blake2b(record.wire, digest_size=16, person=b"meshd record").digest()


@dataclasses.dataclass(slots=True)
class _Tables:
    """What counts. Many simulated nodes of one mesh share it until one of them learns more."""

    invites: dict[bytes, Invite] = dataclasses.field(default_factory=dict)
    admissions: dict[NodeId, Admission] = dataclasses.field(default_factory=dict)
    slots: dict[tuple[bytes, int], NodeId] = dataclasses.field(default_factory=dict)
    short_ids: dict[bytes, NodeId] = dataclasses.field(default_factory=dict)
    counting: dict[bytes, None] = dataclasses.field(default_factory=dict)
    """The wires of all records that count: most of what comes is known."""
    is_shared: bool = False

    def copy(self) -> "_Tables":
        return _Tables(
            dict(self.invites),
            dict(self.admissions),
            dict(self.slots),
            dict(self.short_ids),
            dict(self.counting),
        )


class Authority:
    """All authority records that one node knows, and the judgments over them."""

    def __init__(self, crypto: Crypto, root: bytes, records: Records | None = None) -> None:
        """`records`: a cache of verified records to share (simulations), else its own."""
        self._crypto = crypto
        self._root = root
        self.mesh: MeshId = mesh_id_of(root)
        self._records = records or Records()
        self._tables = _Tables()
        self._waiting: dict[bytes, bytes] = {}
        """Unchecked records, each with the key of the premise that it lacks."""
        self._evicted: list[NodeId] = []

    def admission(self, node: NodeId) -> Admission | None:
        """The admission that makes `node` a member, if there is one."""
        return self._tables.admissions.get(node)

    def invite_of(self, node: NodeId) -> Invite | None:
        """The invite by which `node` came."""
        admission = self._tables.admissions.get(node)
        return self._tables.invites[admission.proof.invite_key] if admission is not None else None

    def is_counting(self, wire: bytes) -> bool:
        """Whether exactly this record is among those that count."""
        return wire in self._tables.counting

    def resolve(self, short: bytes) -> NodeId | None:
        """The member whose id begins with these eight bytes."""
        return self._tables.short_ids.get(short)

    @property
    def has_room_for_invite(self) -> bool:
        """Whether one more invite can be issued."""
        return len(self._tables.invites) < INVITES_MAX

    def records(self) -> Sequence[Record]:
        """Everything that counts, premises before conclusions."""
        return (*self._tables.invites.values(), *self._tables.admissions.values())

    def add(self, wire: bytes) -> list[Record]:
        """Take in a record; returns what is new because of it (waiting ones may follow it).

        Raises Refused: MALFORMED, BAD_SIGNATURE, NOT_ADMITTED (it waits), NOT_ALLOWED (it never
        can count), STALE (known), TABLE_FULL. Signatures are checked last: inventing a thousand
        records must not cost us three thousand checks.
        """
        if wire in self._tables.counting:
            raise Refused(DropReason.STALE)
        if wire in self._waiting:
            raise Refused(DropReason.NOT_ADMITTED, "still waiting")
        record = self._records.find(wire) or decode_record(wire)
        premise = self._judge(record)
        if premise is not None:
            self._wait(record, premise)
            raise Refused(DropReason.NOT_ADMITTED, "its premise is unknown")
        self._take(record)
        accepted: list[Record] = [record]
        for known in accepted:  # grows while it is walked
            accepted.extend(self._release(known))
        return accepted

    def share(self, other: "Authority") -> None:
        """Know what another member knows: a simulation that begins in the middle."""
        other._tables.is_shared = True
        self._tables = other._tables

    def _own_tables(self) -> _Tables:
        """To be written to."""
        if self._tables.is_shared:
            self._tables = self._tables.copy()
        return self._tables

    def take_evicted(self) -> list[NodeId]:
        """Who lost its membership since the last call, to a lower hash in the same slot."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def _wait(self, record: Record, premise: bytes) -> None:
        """Keep a record, unchecked; of too many the oldest goes, push/pull brings it again."""
        self._waiting[record.wire] = premise
        if len(self._waiting) > WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]

    def _release(self, known: Record) -> list[Record]:
        """Take in what waited for `known`."""
        premise = known.key if isinstance(known, Invite) else known.node
        released: list[Record] = []
        for wire in [wire for wire, lacks in self._waiting.items() if lacks == premise]:
            del self._waiting[wire]
            record = self._records.find(wire) or decode_record(wire)
            try:
                lacks = self._judge(record)
                if lacks is not None:
                    self._wait(record, lacks)
                    continue
                self._take(record)
            except Refused:
                continue
            released.append(record)
        return released

    def _judge(self, record: Record) -> bytes | None:
        """The key of the premise that `record` lacks, None if it has all. Raises Refused."""
        if isinstance(record, Invite):
            if record.key in self._tables.invites:
                raise Refused(DropReason.STALE)
            if record.issuer != self._root:
                raise Refused(DropReason.NOT_ALLOWED, "only the root key issues invites")
            return None
        if record.node in self._tables.admissions:
            raise Refused(DropReason.STALE)
        invite = self._tables.invites.get(record.proof.invite_key)
        if invite is None:
            return record.proof.invite_key
        if record.role is not invite.role or record.slot > invite.uses:
            raise Refused(DropReason.NOT_ALLOWED, "not what the invite allows")
        if record.admitter != self._root:
            sponsor = self._tables.admissions.get(NodeId(record.admitter))
            if sponsor is None:
                return record.admitter
            if not sponsor.role.may_admit:
                raise Refused(DropReason.NOT_ALLOWED, "admitter's role")
        return None

    def _take(self, record: Record) -> None:
        """Check the signatures of a record that has its premises, and store it."""
        if self._records.find(record.wire) is not record:
            if not verify_record(self._crypto, self.mesh, record):
                raise Refused(DropReason.BAD_SIGNATURE)
            self._records.trust(record)
        if isinstance(record, Admission):
            self._store(record)
        elif len(self._tables.invites) >= INVITES_MAX:
            raise Refused(DropReason.TABLE_FULL)
        else:
            tables = self._own_tables()
            tables.invites[record.key] = record
            tables.counting[record.wire] = None

    def _store(self, admission: Admission) -> None:
        slot = (admission.proof.invite_key, admission.slot)
        holder = self._tables.slots.get(slot)
        if holder is not None:
            if record_hash(self._tables.admissions[holder]) <= record_hash(admission):
                raise Refused(DropReason.NOT_ALLOWED, "slot taken")
            self._evict(holder)
        elif len(self._tables.admissions) >= ADMISSIONS_MAX:
            raise Refused(DropReason.TABLE_FULL)
        tables = self._own_tables()
        tables.slots[slot] = admission.node
        tables.admissions[admission.node] = admission
        tables.counting[admission.wire] = None
        tables.short_ids.setdefault(short_id(admission.node), admission.node)

    def _evict(self, node: NodeId) -> None:
        tables = self._own_tables()
        del tables.counting[tables.admissions.pop(node).wire]
        if tables.short_ids.get(short_id(node)) == node:
            del tables.short_ids[short_id(node)]
        self._evicted.append(node)

    def admit(self, proof: JoinProof, wall_s: int) -> Admission | JoinRefusal:
        """Decide about a newcomer, as the admitting member; an admission is already stored.

        A node that is a member gets its old admission again, whatever its proof says: the caller
        knows by TLS that it speaks with `proof.node`.
        """
        own = self._tables.admissions.get(self._crypto.node_id)
        if own is None or not own.role.may_admit:
            return JoinRefusal.CANNOT_ADMIT
        known = self._tables.admissions.get(proof.node)
        if known is not None:
            return known
        invite = self._tables.invites.get(proof.invite_key)
        if invite is None:
            return JoinRefusal.UNKNOWN_INVITE
        if not verify_join_proof(self._crypto, self.mesh, proof):
            return JoinRefusal.BAD_PROOF
        if wall_s >= invite.expires_at_s:
            return JoinRefusal.EXPIRED
        slot = self._free_slot(invite)
        if slot is None:
            return JoinRefusal.USED_UP
        admission = make_admission(
            self._crypto, self.mesh, proof, role=invite.role, slot=slot, admitted_at_s=wall_s
        )
        try:
            self._store(admission)
        except Refused:
            return JoinRefusal.FULL
        return admission

    def _free_slot(self, invite: Invite) -> int | None:
        # Slots fill from the front, so this ends after one more than the admissions it counts.
        for slot in range(1, invite.uses + 1):
            if (invite.key, slot) not in self._tables.slots:
                return slot
        return None

    def role_of(self, node: NodeId) -> Role | None:
        """The role of a member, None for everybody else."""
        admission = self._tables.admissions.get(node)
        return admission.role if admission is not None else None
