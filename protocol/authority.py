"""The one place that judges who is a member: the set of authority records and what follows.

Rule 1: an invite counts when the root key issued it. (Admins' invites wait for grants.)
Rule 2: an admission counts when its invite counts, its role is the invite's, its slot is within
        the uses, and its admitter is the root key or a member whose role may admit.
Rule 3: one admission per slot; of two, the one with the lower hash stays, everywhere alike.
Rule 4: one admission per node; the first stays ("a second admission changes nothing").
Rule 5: records whose premise is not here yet wait, unchecked, in a small bounded buffer.
"""

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


class Authority:
    """All authority records that one node knows, and the judgments over them."""

    def __init__(self, crypto: Crypto, root: bytes) -> None:
        self._crypto = crypto
        self._root = root
        self.mesh: MeshId = mesh_id_of(root)
        self._invites: dict[bytes, Invite] = {}
        self._admissions: dict[NodeId, Admission] = {}
        self._slots: dict[tuple[bytes, int], NodeId] = {}
        self._short_ids: dict[bytes, NodeId] = {}
        self._counting: dict[bytes, None] = {}
        """The wires of all records that count: most of what comes is known."""
        self._waiting: dict[bytes, bytes] = {}
        """Unchecked records, each with the key of the premise that it lacks."""
        self._evicted: list[NodeId] = []

    def admission(self, node: NodeId) -> Admission | None:
        """The admission that makes `node` a member, if there is one."""
        return self._admissions.get(node)

    def invite_of(self, node: NodeId) -> Invite | None:
        """The invite by which `node` came."""
        admission = self._admissions.get(node)
        return self._invites[admission.proof.invite_key] if admission is not None else None

    def is_counting(self, wire: bytes) -> bool:
        """Whether exactly this record is among those that count."""
        return wire in self._counting

    def resolve(self, short: bytes) -> NodeId | None:
        """The member whose id begins with these eight bytes."""
        return self._short_ids.get(short)

    @property
    def has_room_for_invite(self) -> bool:
        """Whether one more invite can be issued."""
        return len(self._invites) < INVITES_MAX

    def records(self) -> Sequence[Record]:
        """Everything that counts, premises before conclusions."""
        return (*self._invites.values(), *self._admissions.values())

    def add(self, wire: bytes) -> list[Record]:
        """Take in a record; returns what is new because of it (waiting ones may follow it).

        Raises Refused: MALFORMED, BAD_SIGNATURE, NOT_ADMITTED (it waits), NOT_ALLOWED (it never
        can count), STALE (known), TABLE_FULL. Signatures are checked last: inventing a thousand
        records must not cost us three thousand checks.
        """
        if wire in self._counting:
            raise Refused(DropReason.STALE)
        if wire in self._waiting:
            raise Refused(DropReason.NOT_ADMITTED, "still waiting")
        record = decode_record(wire)
        premise = self._judge(record)
        if premise is not None:
            self._wait(record, premise)
            raise Refused(DropReason.NOT_ADMITTED, "its premise is unknown")
        self._take(record)
        accepted: list[Record] = [record]
        for known in accepted:  # grows while it is walked
            accepted.extend(self._release(known))
        return accepted

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
            record = decode_record(wire)
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
            if record.key in self._invites:
                raise Refused(DropReason.STALE)
            if record.issuer != self._root:
                raise Refused(DropReason.NOT_ALLOWED, "only the root key issues invites")
            return None
        if record.node in self._admissions:
            raise Refused(DropReason.STALE)
        invite = self._invites.get(record.proof.invite_key)
        if invite is None:
            return record.proof.invite_key
        if record.role is not invite.role or record.slot > invite.uses:
            raise Refused(DropReason.NOT_ALLOWED, "not what the invite allows")
        if record.admitter != self._root:
            sponsor = self._admissions.get(NodeId(record.admitter))
            if sponsor is None:
                return record.admitter
            if not sponsor.role.may_admit:
                raise Refused(DropReason.NOT_ALLOWED, "admitter's role")
        return None

    def _take(self, record: Record) -> None:
        """Check the signatures of a record that has its premises, and store it."""
        if not verify_record(self._crypto, self.mesh, record):
            raise Refused(DropReason.BAD_SIGNATURE)
        if isinstance(record, Admission):
            self._store(record)
        elif len(self._invites) >= INVITES_MAX:
            raise Refused(DropReason.TABLE_FULL)
        else:
            self._invites[record.key] = record
            self._counting[record.wire] = None

    def _store(self, admission: Admission) -> None:
        slot = (admission.proof.invite_key, admission.slot)
        holder = self._slots.get(slot)
        if holder is not None:
            if record_hash(self._admissions[holder]) <= record_hash(admission):
                raise Refused(DropReason.NOT_ALLOWED, "slot taken")
            self._evict(holder)
        elif len(self._admissions) >= ADMISSIONS_MAX:
            raise Refused(DropReason.TABLE_FULL)
        self._slots[slot] = admission.node
        self._admissions[admission.node] = admission
        self._counting[admission.wire] = None
        self._short_ids.setdefault(short_id(admission.node), admission.node)

    def _evict(self, node: NodeId) -> None:
        del self._counting[self._admissions.pop(node).wire]
        if self._short_ids.get(short_id(node)) == node:
            del self._short_ids[short_id(node)]
        self._evicted.append(node)

    def admit(self, proof: JoinProof, wall_s: int) -> Admission | JoinRefusal:
        """Decide about a newcomer, as the admitting member; an admission is already stored.

        A node that is a member gets its old admission again, whatever its proof says: the caller
        knows by TLS that it speaks with `proof.node`.
        """
        own = self._admissions.get(self._crypto.node_id)
        if own is None or not own.role.may_admit:
            return JoinRefusal.CANNOT_ADMIT
        known = self._admissions.get(proof.node)
        if known is not None:
            return known
        invite = self._invites.get(proof.invite_key)
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
            if (invite.key, slot) not in self._slots:
                return slot
        return None

    def role_of(self, node: NodeId) -> Role | None:
        """The role of a member, None for everybody else."""
        admission = self._admissions.get(node)
        return admission.role if admission is not None else None
