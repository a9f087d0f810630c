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

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from protocol.crypto import Crypto
from protocol.enrolment import Enrolment
from protocol.errors import DropReason, Refused
from protocol.identity import MeshId, NodeId, mesh_id_of
from protocol.issuing import FIRST_TURN, Turn, turn_after
from protocol.judgment import Standing, enter, fits, is_free, is_grounded, judge, raise_up
from protocol.records import (
    LEVEL_MAX,
    NO_ACT,
    Act,
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
    record_name,
    signer_of,
    verify_record,
)
from protocol.void import VoidRecords
from protocol.waiting import Waiting

INVITES_MAX: Final = 4_096
ADMISSIONS_MAX: Final = 16_384
GRANTS_MAX: Final = 1_024
REVOCATIONS_MAX: Final = 8_192
API_KEYS_MAX: Final = 1_024


class Authority:
    """All authority records that one node knows, and what follows from them."""

    def __init__(self, crypto: Crypto, root: bytes, records: Records | None = None) -> None:
        """`records`: a cache of verified records to share (simulations), else its own."""
        self._crypto = crypto
        self._root = root
        self.mesh: MeshId = mesh_id_of(root)
        self._records = records or Records()
        self._standing = Standing(levels={root: 0})
        self._enrolment = Enrolment()
        self._waiting = Waiting()
        self._void = VoidRecords()
        self._lost: list[Record] = []
        self._counts: Counter[type] = Counter()

    # ---- who is who ----

    def admission(self, node: NodeId) -> Admission | None:
        """The admission that makes `node` a member, if there is one."""
        return self._enrolment.members.get(node)

    def invite_of(self, node: NodeId) -> Invite | None:
        """The invite by which `node` came."""
        admission = self._enrolment.members.get(node)
        return self._standing.invites[admission.proof.invite_key] if admission is not None else None

    def role_of(self, node: NodeId) -> Role | None:
        """The role of a member, None for everybody else."""
        admission = self._enrolment.members.get(node)
        if admission is None:
            return None
        return Role.ADMIN if node in self._standing.levels else admission.role

    def resolve(self, short: bytes) -> NodeId | None:
        """The member whose id begins with these eight bytes."""
        return self._enrolment.resolve(short)

    def members(self) -> Sequence[NodeId]:
        """Everybody who is admitted, in the order of admission as far as it is known."""
        return tuple(self._enrolment.members)

    def admitted_by(self, admitter: NodeId) -> Sequence[Admission]:
        """The members that `admitter` let in itself."""
        return tuple(a for a in self._enrolment.members.values() if a.admitter == admitter)

    def may_issue(self, key: bytes) -> bool:
        """Whether this key may sign acts now: the root's, or an admin's."""
        return key in self._standing.levels and key not in self._standing.revocations

    def level_of(self, key: bytes) -> int:
        """How far from the root key this one is; above all levels if it may not issue acts."""
        return self._standing.levels.get(key, LEVEL_MAX + 1)

    def revocation_of(self, subject: bytes) -> Revocation | None:
        """What took back a node, an invite or an API key (by key, or hash)."""
        return self._standing.revocations.get(subject)

    def invite(self, key: bytes) -> Invite | None:
        """The invite with this key, also when it was revoked."""
        return self._standing.invites.get(key)

    def invites(self) -> Sequence[Invite]:
        """All that count, revoked ones too."""
        return tuple(self._standing.invites.values())

    def last_slot(self, invite_key: bytes) -> int:
        """The highest slot of an invite that is taken; 0: none."""
        return max((slot for key, slot in self._standing.slots if key == invite_key), default=0)

    def rival_of(self, node: NodeId) -> NodeId | None:
        """Who has the slot that an admission of `node` wanted."""
        taken = self._standing.slots
        holders = [taken[slot] for slot in self._void.slots_of(node) if slot in taken]
        return next((holder for holder in holders if holder != node), None)

    def api_key(self, key_hash: bytes) -> ApiKey | None:
        """The API key with this hash, unless it was revoked."""
        revoked = key_hash in self._standing.revocations
        return None if revoked else self._standing.api_keys.get(key_hash)

    def api_keys(self) -> Sequence[ApiKey]:
        """All that count and are not revoked."""
        return tuple(k for k in self._standing.api_keys.values() if self.api_key(k.key_hash))

    def next_turn(self, issuer: bytes) -> Turn:
        """The place of the issuer's next act, behind the last that counts."""
        acts = [act for act in self._acts() if act.issuer == issuer]
        return turn_after(max(acts, key=_by_act)) if acts else FIRST_TURN

    def last_act(self, issuer: bytes) -> bytes:
        """The name of the issuer's last act that counts; NO_ACT if there is none."""
        acts = [act for act in self._acts() if act.issuer == issuer]
        return record_name(max(acts, key=_by_act)) if acts else NO_ACT

    def _acts(self) -> Iterator[Act]:
        return (r for r in self._standing.counting.values() if not isinstance(r, Admission))

    # ---- records ----

    def is_counting(self, wire: bytes) -> bool:
        """Whether exactly this record is among those that count."""
        return wire in self._standing.counting

    @property
    def has_room_for_invite(self) -> bool:
        """Whether one more invite can be issued."""
        return self._counts[Invite] < INVITES_MAX

    def records(self) -> Sequence[Record]:
        """Everything that counts, premises before conclusions, revocations last."""
        counting = self._standing.counting.values()
        revocations = [record for record in counting if isinstance(record, Revocation)]
        return (*(r for r in counting if not isinstance(r, Revocation)), *revocations)

    def premises(self, node: NodeId, count_max: int) -> tuple[bytes, ...]:
        """The records that a membership rests on, premises first, its own last; at most so many,
        those nearest to it.
        """
        return self._standing.premises(node, count_max)

    def add(self, wire: bytes) -> list[Record]:
        """Take in a record; returns what counts newly because of it (waiting ones may follow it).

        Raises Refused: MALFORMED, BAD_SIGNATURE, NOT_ADMITTED (it waits), NOT_ALLOWED (it does not
        count), STALE (known), TABLE_FULL. Signatures are checked last: inventing a thousand records
        must not cost us three thousand checks.
        """
        if wire in self._standing.counting or wire in self._void:
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
        return gained

    def free_slot(self, invite: Invite) -> int | None:
        """The first slot of an invite that nobody has; None when it is used up."""
        # Slots fill from the front, so this ends after one more than the admissions it counts.
        for slot in range(1, invite.uses + 1):
            if (invite.key, slot) not in self._standing.slots:
                return slot
        return None

    def add_own(self, admission: Admission) -> None:
        """Take in an admission that this node has just signed. Raises Refused(TABLE_FULL)."""
        if not self._has_room(admission):
            raise Refused(DropReason.TABLE_FULL)
        self._take_checked(admission)

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
        self._counts = Counter(other._counts)

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
        if self._standing.is_admitter(admitter) or self._void.might_admit(admitter):
            return None
        if NodeId(admitter) not in self._standing.admissions:
            return admitter
        raise Refused(DropReason.NOT_ALLOWED, "admitter's role")

    def _take(self, record: Record) -> list[Record]:
        """Check the signatures of a record that has its premises, and let it count; returns what
        counts newly. Raises Refused.
        """
        if self._records.find(record.wire) is not record:
            if not verify_record(self._crypto, self.mesh, record):
                raise Refused(DropReason.BAD_SIGNATURE)
            self._records.trust(record)
        if not self._has_room(record):
            raise Refused(DropReason.TABLE_FULL)
        gained: list[Record] = []
        # A revocation is judged in any case: it may take away what stands against it. So is what
        # comes while one is void: it may give it its ground again.
        is_judged = isinstance(record, Revocation) or self._void.has_revocations()
        if is_judged or self._standing.supports(record):
            gained = self._take_checked(record)
        if record.wire not in self._standing.counting:
            self._void.keep(record)
            gained += self._release(record)
            if not gained:
                raise Refused(DropReason.NOT_ALLOWED, "something else stands against it")
        return gained

    def _has_room(self, record: Record) -> bool:
        """Where a table is full, what was there stays; a rival of what is there takes its place."""
        if isinstance(record, Admission) and not is_free(self._standing, record):
            return True
        return self._counts[type(record)] < _tables()[type(record)]

    def _take_checked(self, record: Record) -> list[Record]:
        if self._adds_only(record):
            standing = self._own_standing()
            match record:
                case Admission():
                    enter(standing, record)
                    raise_up(standing, record.node)
                    self._enrolment.enlist(record)
                case Invite():
                    standing.invites[record.key] = record
                case ApiKey():
                    standing.api_keys[record.key_hash] = record
                case Revocation():
                    standing.revocations[record.subject] = record
                    names = (record.honoured_act,) if record.honoured_act != NO_ACT else ()
                    standing.honoured[record.subject] = dict.fromkeys(names)
                    self._enrolment.strike(NodeId(record.subject))
            standing.count(record)
            self._counts[type(record)] += 1
            return [record]
        return self._judge_anew(record)

    def _adds_only(self, record: Record) -> bool:
        """Whether a record only adds to what stands, so that nothing else need be judged anew."""
        standing = self._standing
        if signer_of(record) in standing.honoured or not standing.supports(record):
            return False
        if self._void.has_revocations():
            return False
        match record:
            case Admission():
                is_new = is_free(standing, record) and record.node not in standing.revocations
                return is_new and not self._void.rests_on(record.node)
            case Invite():
                return record.key not in standing.invites and not self._void.rests_on(record.key)
            case ApiKey():
                return record.key_hash not in standing.api_keys
            case Revocation():
                is_node = record.target is Target.NODE
                is_first = record.subject not in standing.revocations
                adds_only = is_node and is_first and not self._has_signed(record.subject)
                return adds_only and is_grounded(standing, record)
            case _:
                return False

    def _has_signed(self, key: bytes) -> bool:
        standing = self._standing
        return key in standing.levels or key in standing.signers or self._void.rests_on(key)

    def _judge_anew(self, record: Record) -> list[Record]:
        """Judge all records together with a new one; returns what counts newly."""
        before = self._own_standing()
        held = [*before.counting.values(), *self._void, record]
        standing = judge(self._root, held)
        self._standing = standing
        self._counts = Counter(type(record) for record in standing.counting.values())
        gained = [r for wire, r in standing.counting.items() if wire not in before.counting]
        lost = [r for wire, r in before.counting.items() if wire not in standing.counting]
        self._lost += lost
        for known in gained:
            self._void.drop(known)
        for known in lost:
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


def _by_act(act: Act) -> tuple[int, bytes]:
    return act.act, record_name(act)
