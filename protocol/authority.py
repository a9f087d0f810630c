"""The one place that judges who is a member: the set of authority records and what follows.

Rule 1: an invite counts when the root key issued it. (Admins' invites wait for grants.)
Rule 2: an admission counts when its invite counts, its role is the invite's, its slot is within
        the uses, and its admitter is the root key or a member whose role may admit.
Rule 3: one admission per slot; of two, the one with the lower hash stays, everywhere alike.
Rule 4: one admission per node; the first stays ("a second admission changes nothing").
Rule 5: records whose premise is not here yet wait in a small bounded buffer.
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
        self._waiting: dict[bytes, Record] = {}

    def admission(self, node: NodeId) -> Admission | None:
        """The admission that makes `node` a member, if there is one."""
        return self._admissions.get(node)

    def invite_of(self, node: NodeId) -> Invite | None:
        """The invite by which `node` came."""
        admission = self._admissions.get(node)
        return self._invites[admission.proof.invite_key] if admission is not None else None

    def resolve(self, short: bytes) -> NodeId | None:
        """The member whose id begins with these eight bytes."""
        return self._short_ids.get(short)

    def records(self) -> Sequence[Record]:
        """Everything that counts, premises before conclusions."""
        return (*self._invites.values(), *self._admissions.values())

    def add(self, wire: bytes) -> list[Record]:
        """Take in a record; returns what is new because of it (waiting ones may follow it).

        Raises Refused: MALFORMED, BAD_SIGNATURE, NOT_ADMITTED (it waits), NOT_ALLOWED (it never
        can count), STALE (known), TABLE_FULL.
        """
        if wire in self._waiting:
            raise Refused(DropReason.NOT_ADMITTED, "still waiting")
        record = decode_record(wire)
        self._refuse_known(record)
        if not verify_record(self._crypto, self.mesh, record):
            raise Refused(DropReason.BAD_SIGNATURE)
        self._judge(record)
        accepted: list[Record] = [record]
        while follower := self._judge_waiting():
            accepted.append(follower)
        return accepted

    def _judge_waiting(self) -> Record | None:
        """One waiting record whose premise has come, now stored; None when there is no more."""
        for record in list(self._waiting.values()):
            try:
                self._judge(record)
            except Refused:
                continue
            return record
        return None

    def _refuse_known(self, record: Record) -> None:
        if isinstance(record, Invite):
            if record.key in self._invites:
                raise Refused(DropReason.STALE)
        elif record.node in self._admissions:
            raise Refused(DropReason.STALE)

    def _judge(self, record: Record) -> None:
        """Store a verified record or raise Refused, leaving it to wait when its premise lacks."""
        try:
            if isinstance(record, Invite):
                self._take_invite(record)
            else:
                self._take_admission(record)
        except Refused as refused:
            if refused.reason is not DropReason.NOT_ADMITTED:
                self._waiting.pop(record.wire, None)
            elif len(self._waiting) < WAITING_MAX:
                self._waiting[record.wire] = record
            raise
        self._waiting.pop(record.wire, None)

    def _take_invite(self, invite: Invite) -> None:
        if invite.issuer != self._root:
            raise Refused(DropReason.NOT_ALLOWED, "only the root key issues invites")
        if len(self._invites) >= INVITES_MAX:
            raise Refused(DropReason.TABLE_FULL)
        self._invites[invite.key] = invite

    def _take_admission(self, admission: Admission) -> None:
        invite = self._invites.get(admission.proof.invite_key)
        if invite is None:
            raise Refused(DropReason.NOT_ADMITTED, "invite unknown")
        if admission.role is not invite.role or admission.slot > invite.uses:
            raise Refused(DropReason.NOT_ALLOWED, "not what the invite allows")
        if admission.admitter != self._root:
            sponsor = self._admissions.get(NodeId(admission.admitter))
            if sponsor is None:
                raise Refused(DropReason.NOT_ADMITTED, "admitter unknown")
            if not sponsor.role.may_admit:
                raise Refused(DropReason.NOT_ALLOWED, "admitter's role")
        if admission.node in self._admissions:
            raise Refused(DropReason.STALE)
        slot = (invite.key, admission.slot)
        holder = self._slots.get(slot)
        if holder is not None:
            if record_hash(self._admissions[holder]) <= record_hash(admission):
                raise Refused(DropReason.NOT_ALLOWED, "slot taken")
            self._evict(holder)
        elif len(self._admissions) >= ADMISSIONS_MAX:
            raise Refused(DropReason.TABLE_FULL)
        self._slots[slot] = admission.node
        self._admissions[admission.node] = admission
        self._short_ids.setdefault(short_id(admission.node), admission.node)

    def _evict(self, node: NodeId) -> None:
        del self._admissions[node]
        if self._short_ids.get(short_id(node)) == node:
            del self._short_ids[short_id(node)]

    def admit(self, proof: JoinProof, wall_s: int) -> Admission | JoinRefusal:
        """Decide about a newcomer, as the admitting member; an admission is already stored.

        A node that is a member gets its old admission again, whatever its proof says.
        """
        own = self._admissions.get(self._crypto.node_id)
        if own is None or not own.role.may_admit:
            return JoinRefusal.CANNOT_ADMIT
        if not verify_join_proof(self._crypto, self.mesh, proof):
            return JoinRefusal.BAD_PROOF
        known = self._admissions.get(proof.node)
        if known is not None:
            return known
        invite = self._invites.get(proof.invite_key)
        if invite is None:
            return JoinRefusal.UNKNOWN_INVITE
        if wall_s >= invite.expires_at_s:
            return JoinRefusal.EXPIRED
        slot = self._free_slot(invite)
        if slot is None:
            return JoinRefusal.USED_UP
        admission = make_admission(
            self._crypto, self.mesh, proof, role=invite.role, slot=slot, admitted_at_s=wall_s
        )
        try:
            self._take_admission(admission)
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
