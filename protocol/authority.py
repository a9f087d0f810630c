"""The one place that holds the authority records of one node, and answers who is a member.

Rule 1: an act counts when its issuer is the root key or an admin: a member whose invite or a grant
        says so.
Rule 2: an admission counts when its invite counts, its role is the invite's, its slot is within
        the uses, and its admitter is the root key or a member whose role may admit. Who was made an
        admin by a grant, and admitted by somebody as near to the root, needs no invite.
Rule 3: one admission per slot and per node. Which of two stays, and what revocations take back, is
        a function of all records (`judgment.py`): everybody who holds them agrees.
Rule 4: records whose premise is not here yet wait, unchecked, in a small bounded buffer. Those that
        counted once and do not any more are kept for a while, for what took that from them may
        turn out to be void.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Final

from protocol.crypto import Crypto
from protocol.errors import DropReason, Refused
from protocol.identity import NodeId
from protocol.judgment import judge
from protocol.records import (
    NO_ACT,
    Admission,
    ApiKey,
    Invite,
    Record,
    Records,
    Revocation,
    Role,
    Target,
    decode_record,
    made_key,
    needed_keys,
    record_name,
    signer_of,
    verify_record,
)
from protocol.registry import Registry
from protocol.shares import Shares
from protocol.standing import Standing, fits
from protocol.void import VoidRecords
from protocol.waiting import Waiting

FRESH_MAX: Final = 2_048
"""Records that wait for one judgment."""
JUDGED_ANEW_MAX: Final = 4
"""Judgments of one frame, each without what had no room in the one before."""


class Authority(Registry):
    """All authority records that one node knows, and what follows from them."""

    def __init__(self, crypto: Crypto, root: bytes, records: Records | None = None) -> None:
        """`records`: a cache of verified records to share (simulations), else its own."""
        super().__init__(root)
        self._crypto = crypto
        self._records = records or Records()
        self._waiting = Waiting()
        self._lost: list[Record] = []
        self._shares = Shares(root)

    def add(self, wire: bytes, *, is_part: bool = False) -> list[Record]:
        """Take in a record; returns what counts newly because of it (waiting ones may follow it).
        With `is_part` all that must be judged anew waits for `settle`.

        Raises Refused: MALFORMED, BAD_SIGNATURE, NOT_ADMITTED (it waits), NOT_ALLOWED (it does not
        count), STALE (known), TABLE_FULL. Signatures are checked last: inventing a thousand records
        must not cost us three thousand checks.
        """
        if wire in self._standing.counting or wire in self._void or wire in self._fresh:
            raise Refused(DropReason.STALE)
        record = self._records.find(wire) or decode_record(wire)
        premise = self._missing(record)
        if premise is not None:
            self._waiting.add(wire, premise)
            raise Refused(DropReason.NOT_ADMITTED, "its premise is unknown")
        self._waiting.drop(wire)
        gained = self._take(record)
        taken = [record]
        for known in taken:  # grows while it is walked
            for waiting in self._released(known):
                with contextlib.suppress(Refused):
                    gained += self._take(waiting)
                    taken.append(waiting)
        if not is_part:
            gained += self.settle()
        if not gained and (not is_part or wire in self._void):
            raise Refused(DropReason.NOT_ALLOWED, "something else stands against it")
        return gained

    @property
    def is_settled(self) -> bool:
        """Whether everything that was taken in is judged."""
        return not self._fresh

    @property
    def is_brimming(self) -> bool:
        """Whether no more can wait for one judgment."""
        return len(self._fresh) >= FRESH_MAX

    def settle(self) -> list[Record]:
        """Judge what was left to be judged; returns what counts newly."""
        return [] if self.is_settled else self._judge_anew()

    def load(self, wires: Iterable[bytes]) -> None:
        """Take in what was kept, or came as a whole: all that is good of it, judged once."""
        records: dict[bytes, Record] = {}
        for wire in wires:
            with contextlib.suppress(Refused):
                record = self._records.find(wire) or decode_record(wire)
                if verify_record(self._crypto, self.mesh, record):
                    self._records.trust(record)
                    records[wire] = record
        for record in records.values():
            self._fresh.keep(record)
        self.settle()
        self.take_evicted()
        self.take_lost()

    def fork(self) -> "Authority":
        """Another one that knows the same, to try something out."""
        other = Authority(self._crypto, self._root, self._records)
        other.share(self)
        other._void = self._void.copy()
        return other

    def share(self, other: "Authority") -> None:
        """Know what another member knows: a simulation that begins in the middle."""
        other._standing.is_shared = True
        self._standing = other._standing
        self._enrolment = other._enrolment
        self._shares = other._shares.copy()

    def take_evicted(self) -> list[NodeId]:
        """Who lost its membership since the last call: its slot, or by a revocation."""
        return self._enrolment.take_evicted()

    def take_lost(self) -> list[Record]:
        """What counted and does not any more, since the last call."""
        lost, self._lost = self._lost, []
        return lost

    # ---- taking in ----

    def _released(self, known: Record) -> Iterator[Record]:
        """What waited for `known`, and lacks nothing else."""
        premise = made_key(known)
        if premise is None:
            return
        for wire in self._waiting.take(premise):
            record = self._records.find(wire) or decode_record(wire)
            with contextlib.suppress(Refused):
                lacks = self._missing(record)
                if lacks is None:
                    yield record
                else:
                    self._waiting.add(wire, lacks)

    def _missing(self, record: Record) -> bytes | None:
        """The key of the premise that `record` lacks, None if it has all. Raises Refused."""
        if isinstance(record, Admission):
            return self._missing_to_admit(record)
        issuer = NodeId(record.issuer)
        if issuer in self._standing.levels or issuer in self._standing.grants:
            return None
        if self._void.might_issue(issuer) or self._fresh.might_issue(issuer):
            return None
        if issuer not in self._standing.admissions:
            return issuer
        raise Refused(DropReason.NOT_ALLOWED, "its issuer is no admin")

    def _missing_to_admit(self, admission: Admission) -> bytes | None:
        key, admitter = admission.proof.invite_key, admission.admitter
        standing, void, fresh = self._standing, self._void, self._fresh
        might_be_granted = void.might_issue(admission.node) or fresh.might_issue(admission.node)
        if not standing.is_granted(admission) and not might_be_granted:
            invite = standing.invites.get(key) or void.invite(key) or fresh.invite(key)
            if invite is None:
                return key
            if not fits(admission, invite) and admission.node not in standing.grants:
                raise Refused(DropReason.NOT_ALLOWED, "not what the invite allows")
        if admitter in standing.levels or void.might_admit(admitter) or fresh.might_admit(admitter):
            return None
        held = standing.admissions.get(NodeId(admitter))
        if held is None:
            return admitter
        if not held.role.may_admit or admission.role is Role.ADMIN:
            raise Refused(DropReason.NOT_ALLOWED, "admitter's role")
        return None

    def _take(self, record: Record) -> list[Record]:
        """Check the signatures of a record that has its premises, and let it count, or keep it as
        void, or to be judged; returns what counts newly. Raises Refused.
        """
        if self.is_brimming:
            raise Refused(DropReason.TABLE_FULL, "too many to be judged at once")
        if not self._has_room(record):
            raise Refused(DropReason.TABLE_FULL)
        if self._records.find(record.wire) is not record:
            if not verify_record(self._crypto, self.mesh, record):
                raise Refused(DropReason.BAD_SIGNATURE)
            self._records.trust(record)
        is_vain = not self._standing.supports(record) or self._loses(record)
        is_open = self._standing.links(record) or self._fresh.makes(*needed_keys(record))
        if is_vain and not is_open:
            self._void.keep(record)
            return []
        if not is_vain and self._adds_only(record):
            return self._count_it(record)
        self._fresh.keep(record)
        self._shares.add(record, self._standing)
        return []

    def _loses(self, record: Record) -> bool:
        """Whether an admission has its slot, or its node, taken by one that stays in any case."""
        standing = self._standing
        if not isinstance(record, Admission) or record.role is Role.ADMIN:
            return False
        if record.node in standing.grants or standing.confirms(record):
            return False
        name = standing.admitted.get((record.node, record.admitter))
        if name is not None:
            return name < record_name(record)
        place, slot = standing.place_of(record), (record.proof.invite_key, record.slot)
        rivals = [standing.admissions.get(record.node)]
        holder = standing.slots.get(slot)
        rivals.append(standing.admissions[holder] if holder is not None else None)
        return any(r is not None and standing.place_of(r) < place for r in rivals)

    def _has_room(self, record: Record) -> bool:
        """Where a table is full, what was there stays.
        Nobody keeps others from deciding, whatever he decides, and whoever helps him.
        """
        standing = self._standing
        if isinstance(record, Admission):
            is_rival = not standing.is_free(record) and not standing.confirms(record)
            if is_rival:  # it takes the place of what is there, or does not count
                return True
        return self._shares.have_room(record, standing)

    def _count_it(self, record: Record) -> list[Record]:
        """Let a record count that changes nothing else."""
        standing = self._own_standing()
        match record:
            case Admission():
                if standing.is_free(record):
                    self._enrolment.enlist(record)
                standing.let_in(record)
            case Invite():
                standing.invites[record.key] = record
            case ApiKey():
                standing.api_keys[record.key_hash] = record
            case Revocation():
                standing.revocations[record.target, record.subject] = record
                names = (record.honoured_act,) if record.honoured_act != NO_ACT else ()
                standing.honoured[record.subject] = dict.fromkeys(names)
                self._enrolment.strike(NodeId(record.subject))
        standing.count(record)
        self._shares.add(record, self._standing)
        return [record]

    def _adds_only(self, record: Record) -> bool:
        """Whether a record that is supported only adds to what stands, so that nothing else need be
        judged anew.
        """
        standing = self._standing
        if signer_of(record) in standing.honoured:
            return False
        match record:
            case Admission():
                if record.role is Role.ADMIN or self._void.rests_on(record.node):
                    return False
                if record.node in standing.grants:
                    return False
                if standing.is_free(record):
                    return not standing.is_revoked(record.node)
                held = standing.admissions.get(record.node)
                is_kept = held is not None and held.admitter in standing.levels
                return is_kept and standing.confirms(record)
            case Invite():
                if record.role is Role.ADMIN:  # an admission that a grant supports may rest on it
                    return False
                is_first = record.key not in standing.invites
                is_revoked = (Target.INVITE, record.key) in standing.revocations
                return is_first and not is_revoked and not self._void.rests_on(record.key)
            case ApiKey():
                return record.key_hash not in standing.api_keys
            case Revocation():
                is_first = (record.target, record.subject) not in standing.revocations
                is_simple = record.target is Target.NODE and standing.permits(record)
                return is_simple and is_first and not self._has_signed(record.subject)
            case _:
                return False

    def _has_signed(self, key: bytes) -> bool:
        standing = self._standing
        return key in standing.levels or key in standing.signers or self._void.rests_on(key)

    def _judge_anew(self) -> list[Record]:
        """Judge all records together with the fresh ones; returns what counts newly."""
        before = self._own_standing()
        fresh, self._fresh = self._fresh, VoidRecords()
        held = [*before.counting.values(), *self._void, *fresh]
        for rounds_left in range(JUDGED_ANEW_MAX, -1, -1):
            if not rounds_left:  # one wakes the other: only what those decide who had power before
                for record in list(fresh):
                    if signer_of(record) not in before.levels:
                        fresh.drop(record)
                held = [*before.counting.values(), *fresh]
            self._standing = standing = judge(self._root, held)
            excess = self._tally_all(before)
            if not excess:
                break
            held = [record for record in held if record.wire not in excess]
            for record in excess.values():
                fresh.drop(record)
                self._void.drop(record)
        gained = [r for wire, r in standing.counting.items() if wire not in before.counting]
        lost = [r for wire, r in before.counting.items() if wire not in standing.counting]
        self._lost += lost
        for known in gained:
            self._void.drop(known)
        for known in (*lost, *(r for r in fresh if r.wire not in standing.counting)):
            self._void.keep(known)
        self._enrolment.update(standing.members(), standing.admissions)
        return gained

    def _tally_all(self, before: Standing) -> dict[bytes, Record]:
        """Count everything by branches; returns what counts newly and has no room: shares hold for
        what a judgment brings at once, too. What was there stays.
        """
        self._shares.clear()
        counting = self._standing.counting
        for wire in counting:
            if wire in before.counting:
                self._shares.add(counting[wire], self._standing)
        excess: dict[bytes, Record] = {}
        for wire, record in counting.items():
            if wire not in before.counting:
                if self._shares.have_room(record, self._standing):
                    self._shares.add(record, self._standing)
                else:
                    excess[wire] = record
        return excess

    def _own_standing(self) -> Standing:
        """To be written to."""
        if self._standing.is_shared:
            self._standing = self._standing.copy()
            self._enrolment = self._enrolment.copy()
        return self._standing
