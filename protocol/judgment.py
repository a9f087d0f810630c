"""The one place that decides which records count: a function of the set of records, and nothing
else, so that whoever holds the same records agrees, in whatever order they came.

Standing grows from the root key in rounds. In each round the acts of those who became admins, and
the admissions of those who may admit, come to stand; where two exclude each other (one slot, one
node, one invite key) the earlier round stays, within a round the lower name. An admin's admission
of a node in the slot that it has excludes nothing: it counts beside the first.
Then revocations are applied one by one, and standing is found anew where one takes it away. Their
order is their own, and does not depend on what else is known: by the distance from the root that
they state (and that must not be less than it is), then by name. One that does not stand when it is
its turn is not applied: so of two who revoke each other the one nearer to the root stays. One that
a later one deprives of its ground is taken back, except by itself: so who revokes a thief undoes
what the thief revoked.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from protocol.identity import NodeId
from protocol.records import (
    LEVEL_MAX,
    NO_ACT,
    Admission,
    ApiKey,
    Grant,
    Invite,
    Record,
    Revocation,
    Role,
    Target,
    record_name,
    signer_of,
)


@dataclasses.dataclass(slots=True)
class Standing:
    """What follows from a set of records. Many simulated nodes of one mesh may share it."""

    counting: dict[bytes, Record] = dataclasses.field(default_factory=dict)
    """By their wires, premises first, revocations last."""
    levels: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """Who may issue acts, and how far each is from the root (0)."""
    invites: dict[bytes, Invite] = dataclasses.field(default_factory=dict)
    admissions: dict[NodeId, Admission] = dataclasses.field(default_factory=dict)
    """Also of revoked members: what they did before may rest on theirs."""
    slots: dict[tuple[bytes, int], NodeId] = dataclasses.field(default_factory=dict)
    grants: dict[NodeId, Grant] = dataclasses.field(default_factory=dict)
    """The one nearest to the root of each subject."""
    api_keys: dict[bytes, ApiKey] = dataclasses.field(default_factory=dict)
    revocations: dict[bytes, Revocation] = dataclasses.field(default_factory=dict)
    """By what is revoked; the first of several."""
    honoured: dict[bytes, dict[bytes, None]] = dataclasses.field(default_factory=dict)
    """Of revoked nodes: the names of their acts that hold."""
    slot_limits: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """Of revoked invites: the last slot that holds."""
    signers: dict[bytes, None] = dataclasses.field(default_factory=dict)
    """Of acts and admissions that count, revocations not among them."""
    is_shared: bool = False

    def copy(self) -> "Standing":
        """To be changed."""
        copied = Standing()
        for field in dataclasses.fields(self):
            if field.name != "is_shared":
                setattr(copied, field.name, dict(getattr(self, field.name)))
        return copied

    def holds(self, record: Record) -> bool:
        """Whether no revocation of its signer, or of its invite, speaks against a record."""
        honoured = self.honoured.get(signer_of(record))
        if isinstance(record, Admission):
            limit = self.slot_limits.get(record.proof.invite_key)
            return honoured is None and (limit is None or record.slot <= limit)
        return honoured is None or record_name(record) in honoured

    def supports(self, record: Record) -> bool:
        """Whether a record that contradicts nothing would count."""
        if isinstance(record, Admission):
            has_premises = record.proof.invite_key in self.invites
            has_premises = has_premises and self.is_admitter(record.admitter)
        else:
            has_premises = record.issuer in self.levels
        return has_premises and self.holds(record)

    def is_admitter(self, key: bytes) -> bool:
        """Whether the admissions of this key stand (as far as no revocation speaks against it)."""
        if key in self.levels:
            return True
        admission = self.admissions.get(NodeId(key))
        return admission is not None and admission.role.may_admit

    def count(self, record: Record) -> None:
        """Let a record count."""
        self.counting[record.wire] = record
        if not isinstance(record, Revocation):
            self.signers[signer_of(record)] = None

    def members(self) -> Iterator[NodeId]:
        """Everybody who is admitted and not revoked."""
        return (node for node in self.admissions if node not in self.revocations)

    def premises(self, node: NodeId, count_max: int) -> tuple[bytes, ...]:
        """The records that a membership rests on, premises first, its own last; at most so many,
        those nearest to it.
        """
        found: dict[bytes, None] = {}
        wanted = self._of_key(node)
        for record in wanted:  # grows while it is walked
            if len(found) >= count_max:
                break
            # What was found before is needed by a later one too: it moves in front of it.
            found.pop(record.wire, None)
            found[record.wire] = None
            wanted.extend(self._under(record))
        return tuple(reversed(found))

    def _of_key(self, key: bytes) -> list[Record]:
        """What makes a key what it is."""
        held = self.admissions.get(NodeId(key)), self.grants.get(NodeId(key))
        return [record for record in held if record is not None]

    def _under(self, record: Record) -> list[Record]:
        """What a record rests on."""
        signer = self._of_key(signer_of(record))
        if not isinstance(record, Admission):
            return signer
        return [self.invites[record.proof.invite_key], *signer]


def judge(root: bytes, records: Iterable[Record]) -> Standing:
    """Everything that follows from these records, whose signatures hold."""
    pool = _Pool(records)
    pending = dict.fromkeys(sorted(pool.revocations, key=lambda r: (r.level, record_name(r))))
    applied: list[Revocation] = []
    standing = _stand(root, pool, applied)
    while (found := next((r for r in pending if is_grounded(standing, r)), None)) is not None:
        del pending[found]
        after = standing.copy()
        kept = [*applied, found]
        if _apply(after, found, pool):
            after, kept = _settle(root, pool, kept)
        if found in kept:  # else it saws off the branch on which it sits
            standing, applied = after, kept
    return standing


def _stand(root: bytes, pool: "_Pool", applied: Iterable[Revocation]) -> Standing:
    """What stands when these are applied."""
    standing = Standing()
    for revocation in applied:
        _apply(standing, revocation, pool)
    revoking, standing.counting = standing.counting, {}
    pool.let_stand(root, standing)
    standing.counting.update(revoking)
    return standing


def _settle(
    root: bytes, pool: "_Pool", applied: list[Revocation]
) -> tuple[Standing, list[Revocation]]:
    """What stands when these are applied, without those that thereby lose their own ground."""
    while True:
        standing = _stand(root, pool, applied)
        kept = [revocation for revocation in applied if is_grounded(standing, revocation)]
        if len(kept) == len(applied):
            return standing, kept
        applied = kept


def is_grounded(standing: Standing, revocation: Revocation) -> bool:
    """Whether it holds, and its issuer may issue acts and is as near to the root as it says."""
    level = standing.levels.get(revocation.issuer, LEVEL_MAX + 1)
    return level <= revocation.level and standing.holds(revocation)


def _apply(standing: Standing, revocation: Revocation, pool: "_Pool") -> bool:
    """Take its subject out; whether something that stood no longer does."""
    standing.count(revocation)
    standing.revocations.setdefault(revocation.subject, revocation)
    subject = revocation.subject
    match revocation.target:
        case Target.NODE:
            chain = pool.chain(revocation.honoured_act)
            before = standing.honoured.get(subject)
            standing.honoured[subject] = (
                chain if before is None else {name: None for name in before if name in chain}
            )
            return any(
                record.wire in standing.counting and not standing.holds(record)
                for record in pool.signed_by(subject)
            )
        case Target.INVITE:
            limit = min(revocation.honoured_slot, standing.slot_limits.get(subject, 2**63))
            standing.slot_limits[subject] = limit
            return any(key == subject and slot > limit for key, slot in standing.slots)
        case _:
            return False


class _Pool:
    """All records, by what they need."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._acts: dict[bytes, list[Invite | Grant | ApiKey]] = {}
        self._admissions: dict[bytes, list[Admission]] = {}
        self._previous: dict[bytes, bytes] = {}
        """Of each act by its name: the name of the one before."""
        self.revocations: list[Revocation] = []
        for record in records:
            if isinstance(record, Admission):
                self._admissions.setdefault(record.admitter, []).append(record)
                continue
            self._previous[record_name(record)] = record.previous
            if isinstance(record, Revocation):
                self.revocations.append(record)
            else:
                self._acts.setdefault(record.issuer, []).append(record)

    def signed_by(self, key: bytes) -> Iterator[Record]:
        """Everything under one signature."""
        yield from (revocation for revocation in self.revocations if revocation.issuer == key)
        yield from self._acts.get(key, ())
        yield from self._admissions.get(key, ())

    def chain(self, name: bytes) -> dict[bytes, None]:
        """An act and all before it, as far back as they are known."""
        names: dict[bytes, None] = {}
        while name != NO_ACT and name not in names:
            names[name] = None
            name = self._previous.get(name, NO_ACT)
        return names

    def let_stand(self, root: bytes, standing: Standing) -> None:
        """Let grow what stands, round by round."""
        standing.levels[root] = 0
        issuers, admitters = [root], [root]
        waiting: dict[bytes, list[Admission]] = {}
        """Those whose admitter stands and whose invite does not yet."""
        while issuers or admitters:
            acts = [act for issuer in issuers for act in self._acts.get(issuer, ())]
            ready = [a for admitter in admitters for a in self._admissions.get(admitter, ())]
            issuers, admitters = [], []
            for act in sorted(filter(standing.holds, acts), key=record_name):
                standing.count(act)
                match act:
                    case Invite() if act.key not in standing.invites:
                        standing.invites[act.key] = act
                        ready += waiting.pop(act.key, ())
                    case Grant() if act.subject not in standing.grants:
                        standing.grants[act.subject] = act
                        issuers += raise_up(standing, act.subject)
                    case ApiKey():
                        standing.api_keys.setdefault(act.key_hash, act)
            for admission in sorted(filter(standing.holds, ready), key=record_name):
                invite = standing.invites.get(admission.proof.invite_key)
                if invite is None:
                    waiting.setdefault(admission.proof.invite_key, []).append(admission)
                elif fits(admission, invite) and is_free(standing, admission):
                    enter(standing, admission)
                    issuers += raise_up(standing, admission.node)
                    if admission.role.may_admit:
                        admitters.append(admission.node)
                elif _confirms(standing, admission):
                    standing.count(admission)
            admitters = list(dict.fromkeys((*admitters, *issuers)))


def fits(admission: Admission, invite: Invite) -> bool:
    """Whether an admission is one that its invite allows."""
    return admission.role is invite.role and admission.slot <= invite.uses


def is_free(standing: Standing, admission: Admission) -> bool:
    """Whether neither the node nor the slot has an admission that stands."""
    slot = (admission.proof.invite_key, admission.slot)
    return admission.node not in standing.admissions and slot not in standing.slots


def _confirms(standing: Standing, admission: Admission) -> bool:
    """Whether an admin lets in again, in its own slot, who is in already: so that it stays when
    its admitter is revoked.
    """
    held = standing.admissions.get(admission.node)
    if held is None or admission.admitter not in standing.levels:
        return False
    return (held.proof.invite_key, held.slot) == (admission.proof.invite_key, admission.slot)


def enter(standing: Standing, admission: Admission) -> None:
    """Let an admission count that has all its premises."""
    standing.count(admission)
    standing.admissions[admission.node] = admission
    standing.slots[admission.proof.invite_key, admission.slot] = admission.node


def raise_up(standing: Standing, node: NodeId) -> list[bytes]:
    """Note that a node may issue acts, if it may; returns it if it could not before."""
    admission = standing.admissions.get(node)
    if admission is None or node in standing.levels:
        return []
    levels: list[int] = []
    grant = standing.grants.get(node)
    if grant is not None:
        levels.append(standing.levels[grant.issuer] + 1)
    if admission.role is Role.ADMIN:
        invite = standing.invites[admission.proof.invite_key]
        levels.append(standing.levels[invite.issuer] + 1)
    if not levels:
        return []
    standing.levels[node] = min(levels)
    return [node]
