"""The one place that holds the authority records of one node, and answers who is a member.

Rule 1: an act counts when its issuer is the root key or an admin: a member whose invite or a grant
        says so.
Rule 2: an admission counts when its invite counts, its role is the invite's, its slot is within
        the uses, and its admitter is the root key or a member whose role may admit.
Rule 3: one admission per slot and per node. Which of two stays, and what revocations take back, is
        a function of all records (`judgment.py`): everybody who holds them agrees.
Rule 4: records whose premise is not here yet wait, unchecked, in a small bounded buffer. Those that
        counted once and do not any more are kept for a while, for what took that from them may
        turn out to be void.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Final

from protocol.crypto import Crypto
from protocol.errors import DropReason, Refused
from protocol.identity import NodeId
from protocol.judgment import Standing, fits, judge
from protocol.records import (
    NO_ACT,
    Admission,
    ApiKey,
    Grant,
    Invite,
    Record,
    Records,
    Revocation,
    Role,
    Target,
    decode_record,
    signer_of,
    verify_record,
)
from protocol.registry import Registry
from protocol.waiting import Waiting

INVITES_MAX: Final = 4_096
ADMISSIONS_MAX: Final = 16_384
GRANTS_MAX: Final = 1_024
REVOCATIONS_MAX: Final = 8_192
API_KEYS_MAX: Final = 1_024
SHARES: Final = 8
"""No admin of level 1, with all below it, fills more than one part in so many of a table; and of
each table one part is the root key's alone.
"""


class Authority(Registry):
    """All authority records that one node knows, and what follows from them."""

    def __init__(self, crypto: Crypto, root: bytes, records: Records | None = None) -> None:
        """`records`: a cache of verified records to share (simulations), else its own."""
        super().__init__(root)
        self._crypto = crypto
        self._records = records or Records()
        self._waiting = Waiting()
        self._fresh: dict[bytes, Record] = {}
        """Checked, and still to be judged."""
        self._lost: list[Record] = []
        self._issued: Counter[tuple[bytes, type]] = Counter()
        """Acts by branch and kind."""

    def add(self, wire: bytes, *, is_part: bool = False) -> list[Record]:
        """Take in a record; returns what counts newly because of it (waiting ones may follow it).
        With `is_part` all that must be judged anew waits for `settle`.

        Raises Refused: MALFORMED, BAD_SIGNATURE, NOT_ADMITTED (it waits), NOT_ALLOWED (it does not
        count), STALE (known), TABLE_FULL. Signatures are checked last: inventing a thousand records
        must not cost us three thousand checks.
        """
        if wire in self._standing.counting or wire in self._void or wire in self._fresh:
            raise Refused(DropReason.STALE)
        if wire in self._waiting:
            raise Refused(DropReason.NOT_ADMITTED, "still waiting")
        record = self._records.find(wire) or decode_record(wire)
        premise = self._missing(record)
        if premise is not None:
            self._waiting.add(wire, premise)
            raise Refused(DropReason.NOT_ADMITTED, "its premise is unknown")
        gained = self._take(record)
        for known in gained:  # grows while it is walked
            gained.extend(self._release(known))
        if not is_part:
            gained += self.settle()
            if not gained:
                raise Refused(DropReason.NOT_ALLOWED, "something else stands against it")
        return gained

    @property
    def is_settled(self) -> bool:
        """Whether everything that was taken in is judged."""
        return not self._fresh

    def settle(self) -> list[Record]:
        """Judge what was left to be judged; returns what counts newly."""
        gained: list[Record] = []
        while self._fresh:
            found = self._judge_anew()
            for known in found:  # grows while it is walked
                found.extend(self._release(known))
            gained += found
        return gained

    def load(self, wires: Iterable[bytes]) -> None:
        """Take in what was kept, or came as a whole: all that is good of it, judged once."""
        records: dict[bytes, Record] = {}
        for wire in wires:
            with contextlib.suppress(Refused):
                record = self._records.find(wire) or decode_record(wire)
                if verify_record(self._crypto, self.mesh, record):
                    self._records.trust(record)
                    records[wire] = record
        self._fresh.update(records)
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
        self._counts, self._issued = Counter(other._counts), Counter(other._issued)

    def take_evicted(self) -> list[NodeId]:
        """Who lost its membership since the last call: its slot, or by a revocation."""
        return self._enrolment.take_evicted()

    def take_lost(self) -> list[Record]:
        """What counted and does not any more, since the last call."""
        lost, self._lost = self._lost, []
        return lost

    # ---- taking in ----

    def _release(self, known: Record) -> list[Record]:
        """Take in what waited for `known`."""
        match known:
            case Invite():
                premise = known.key
            case Admission():
                premise = known.node
            case Grant():
                premise = known.subject
            case _:
                return []
        released: list[Record] = []
        for wire in self._waiting.take(premise):
            record = self._records.find(wire) or decode_record(wire)
            try:
                lacks = self._missing(record)
                if lacks is not None:
                    self._waiting.add(wire, lacks)
                    continue
                released += self._take(record)
            except Refused:
                continue
        return released

    def _missing(self, record: Record) -> bytes | None:
        """The key of the premise that `record` lacks, None if it has all. Raises Refused."""
        if isinstance(record, Admission):
            return self._missing_to_admit(record)
        if isinstance(record, Revocation) and record.subject == self._root:
            raise Refused(DropReason.NOT_ALLOWED, "the root key cannot be revoked")
        is_granted = NodeId(record.issuer) in self._standing.grants
        if record.issuer in self._standing.levels:
            return None
        if self._void.might_issue(record.issuer, is_granted=is_granted):
            return None
        if NodeId(record.issuer) not in self._standing.admissions:
            return record.issuer
        raise Refused(DropReason.NOT_ALLOWED, "its issuer is no admin")

    def _missing_to_admit(self, admission: Admission) -> bytes | None:
        key, admitter = admission.proof.invite_key, admission.admitter
        invite = self._standing.invites.get(key) or self._void.invite(key)
        if invite is None:
            return key
        if not fits(admission, invite):
            raise Refused(DropReason.NOT_ALLOWED, "not what the invite allows")
        if admitter in self._standing.levels or self._void.might_admit(admitter):
            return None
        held = self._standing.admissions.get(NodeId(admitter))
        if held is None:
            return admitter
        if not held.role.may_admit or admission.role is Role.ADMIN:
            raise Refused(DropReason.NOT_ALLOWED, "admitter's role")
        return None

    def _take(self, record: Record) -> list[Record]:
        """Check the signatures of a record that has its premises, and let it count, or leave it to
        be judged; returns what counts newly. Raises Refused.
        """
        if self._records.find(record.wire) is not record:
            if not verify_record(self._crypto, self.mesh, record):
                raise Refused(DropReason.BAD_SIGNATURE)
            self._records.trust(record)
        if not self._has_room(record):
            raise Refused(DropReason.TABLE_FULL)
        is_vain = not self._standing.supports(record) or self._loses(record)
        if is_vain and not self._standing.links(record):
            self._void.keep(record)
            gained = self._release(record)
            if not gained:
                raise Refused(DropReason.NOT_ALLOWED, "something else stands against it")
            return gained
        if self._adds_only(record):
            return self._count_it(record)
        self._fresh[record.wire] = record
        self._tally(record)
        return []

    def _loses(self, record: Record) -> bool:
        """Whether an admission has its slot, or its node, taken by one that stays in any case."""
        standing = self._standing
        if not isinstance(record, Admission) or record.role is Role.ADMIN:
            return False
        if standing.confirms(record):
            return False
        place, slot = standing.place_of(record), (record.proof.invite_key, record.slot)
        rivals = [standing.admissions.get(record.node)]
        holder = standing.slots.get(slot)
        rivals.append(standing.admissions[holder] if holder is not None else None)
        return any(r is not None and standing.place_of(r) < place for r in rivals)

    def _has_room(self, record: Record) -> bool:
        """Where a table is full, what was there stays; a rival of what is there takes its place.
        Nobody keeps others from deciding, whatever he decides, and whoever helps him.
        """
        standing = self._standing
        if isinstance(record, Admission):
            is_rival = not standing.is_free(record) and not standing.confirms(record)
            return is_rival or self._counts[Admission] < ADMISSIONS_MAX
        kind, room = type(record), _tables()[type(record)]
        if record.issuer == self._root:
            return self._counts[kind] < room
        share = max(room // SHARES, 1)
        own = self._issued[self._branch_of(record.issuer), kind]
        return own < share and self._counts[kind] < room - share

    def _branch_of(self, issuer: bytes) -> bytes:
        """The admin of level 1 to whom this one owes its power."""
        return self._standing.branches.get(issuer, issuer)

    def _count_it(self, record: Record) -> list[Record]:
        """Let a record count that changes nothing else."""
        standing = self._own_standing()
        match record:
            case Admission() if standing.is_free(record):
                standing.enter(record)
                self._enrolment.enlist(record)
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
        self._tally(record)
        return [record]

    def _tally(self, record: Record) -> None:
        self._counts[type(record)] += 1
        if not isinstance(record, Admission):
            self._issued[self._branch_of(record.issuer), type(record)] += 1

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
                if standing.is_free(record):
                    return not standing.is_revoked(record.node)
                held = standing.admissions.get(record.node)
                is_kept = held is not None and held.admitter in standing.levels
                return is_kept and standing.confirms(record)
            case Invite():
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
        fresh, self._fresh = self._fresh, {}
        held = [*before.counting.values(), *self._void, *fresh.values()]
        standing = judge(self._root, held)
        self._standing = standing
        self._counts.clear()
        self._issued.clear()
        for record in standing.counting.values():
            self._tally(record)
        gained = [r for wire, r in standing.counting.items() if wire not in before.counting]
        lost = [r for wire, r in before.counting.items() if wire not in standing.counting]
        self._lost += lost
        for known in gained:
            self._void.drop(known)
        for known in (*lost, *(r for w, r in fresh.items() if w not in standing.counting)):
            self._void.keep(known)
        self._enrolment.update(standing.members(), standing.admissions)
        return gained

    def _own_standing(self) -> Standing:
        """To be written to."""
        if self._standing.is_shared:
            self._standing = self._standing.copy()
            self._enrolment = self._enrolment.copy()
        return self._standing


def _tables() -> dict[type, int]:
    """How many records of each kind may count."""
    return {
        Invite: INVITES_MAX,
        Admission: ADMISSIONS_MAX,
        Grant: GRANTS_MAX,
        Revocation: REVOCATIONS_MAX,
        ApiKey: API_KEYS_MAX,
    }
