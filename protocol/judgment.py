"""The one place that decides which records count: a function of the set of records, and nothing
else, so that whoever holds the same records agrees, in whatever order they came.

Power comes level by level. Level 0 is the root key. What the issuers of one level have done decides
who issues acts on the next one, and what of that holds; nobody's act bears on his own level or one
above it. So there is nothing to search and nothing to grind, and an admin is revoked only by those
nearer to the root. Of several revocations of one subject those nearest to the root count, of each
issuer the last, and of several equals what the strictest of them honours.
Memberships come after that: those that the root and admins gave out, nearest first, then those of
members that may admit, round by round. Where two exclude each other (one slot, one node, one invite
key) the earlier stays, of two at once the lower name. What does not count bears on nothing.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Final

from protocol.identity import NodeId
from protocol.records import (
    NO_ACT,
    Act,
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

ADMISSIONS_MAX: Final = 16_384
LEVELS_MAX: Final = 16
"""So far from the root key nobody has power: each level is a walk over what waits for it."""
ROUNDS_MAX: Final = 256
"""Workers let in by workers, in a row."""


@dataclasses.dataclass(slots=True)
class Standing:
    """What follows from a set of records. Many simulated nodes of one mesh may share it."""

    counting: dict[bytes, Record] = dataclasses.field(default_factory=dict)
    """By their wires, premises first."""
    levels: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """Who may issue acts, and how far each is from the root (0)."""
    branches: dict[bytes, dict[bytes, None]] = dataclasses.field(default_factory=dict)
    """Through which admins of the root's own making each of them came to it; the root through
    itself.
    """
    invites: dict[bytes, Invite] = dataclasses.field(default_factory=dict)
    admissions: dict[NodeId, Admission] = dataclasses.field(default_factory=dict)
    """Also of revoked members: what they did before may rest on theirs."""
    rounds: dict[NodeId, int] = dataclasses.field(default_factory=dict)
    """When each was let in: by whom has power 0, by these 1, and so on."""
    slots: dict[tuple[bytes, int], NodeId] = dataclasses.field(default_factory=dict)
    admitted: dict[tuple[NodeId, bytes], bytes] = dataclasses.field(default_factory=dict)
    """By node and admitter: the name of the admission that counts. One does."""
    grants: dict[NodeId, dict[bytes, Grant]] = dataclasses.field(default_factory=dict)
    """By subject, then by issuer."""
    api_keys: dict[bytes, ApiKey] = dataclasses.field(default_factory=dict)
    revocations: dict[tuple[Target, bytes], Revocation] = dataclasses.field(default_factory=dict)
    """By what is revoked; the one that has effect of several. One that names an API key, or an
    invite, does nothing to a node whose key has the same bytes.
    """
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
            is_within = limit is None or record.slot <= limit or self.is_granted(record)
            return honoured is None and is_within
        return honoured is None or record_name(record) in honoured

    def links(self, record: Record) -> bool:
        """Whether it is an act, of one who is revoked, by which earlier ones of his hold."""
        is_act = not isinstance(record, Admission)
        return is_act and record_name(record) in self.honoured.get(signer_of(record), ())

    def supports(self, record: Record) -> bool:
        """Whether a record that contradicts nothing would count."""
        match record:
            case Admission():
                invite = self.invites.get(record.proof.invite_key)
                is_invited = invite is not None and fits(record, invite)
                if not is_invited and not self.is_granted(record):
                    return False
                return self.may_admit(record) and self.holds(record)
            case _:
                return record.issuer in self.levels and self.holds(record)

    def is_granted(self, admission: Admission) -> bool:
        """Whether its admitter, or somebody no nearer to the root, has made this node an admin:
        then its membership rests on these two, and on no invite.
        """
        level = self.levels.get(admission.admitter)
        issuers = self.grants.get(admission.node, {})
        return level is not None and any(self.levels[issuer] >= level for issuer in issuers)

    def may_admit(self, admission: Admission) -> bool:
        """Whether its admitter may let such a one in: admins are let in by admins only."""
        if admission.admitter in self.levels:
            return True
        admitter = NodeId(admission.admitter)
        held = self.admissions.get(admitter)
        if held is None or not held.role.may_admit or admission.role is Role.ADMIN:
            return False
        return self.rounds[admitter] < ROUNDS_MAX

    def permits(self, revocation: Revocation) -> bool:
        """Whether its subject is farther from the root than its issuer; an invite may be as near
        as the issuer's own, for it makes none nearer than the next level.
        """
        level = self.levels[revocation.issuer]
        match revocation.target:
            case Target.NODE:
                return self.levels.get(revocation.subject, level + 1) > level
            case Target.INVITE:
                invite = self.invites.get(revocation.subject)
                return invite is None or self.levels[invite.issuer] >= level
            case _:
                return True

    def count(self, record: Record) -> None:
        """Let a record count."""
        self.counting[record.wire] = record
        if not isinstance(record, Revocation):
            self.signers[signer_of(record)] = None

    def is_revoked(self, node: bytes) -> bool:
        """Whether a node's membership was taken back."""
        return (Target.NODE, node) in self.revocations

    def members(self) -> Iterator[NodeId]:
        """Everybody who is admitted and not revoked."""
        return (node for node in self.admissions if not self.is_revoked(node))

    def place_of(self, admission: Admission) -> tuple[int, int, bytes]:
        """Of two admissions that exclude each other the one with the lower place stays."""
        level = self.levels.get(admission.admitter)
        if level is not None:
            return 0, level, record_name(admission)
        return 1, self.rounds[NodeId(admission.admitter)], record_name(admission)

    def confirms(self, admission: Admission) -> bool:
        """Whether somebody with power lets in again, in its own slot, who is in already: so that it
        stays when its admitter is revoked. Once is enough.
        """
        held = self.admissions.get(admission.node)
        if held is None or admission.admitter not in self.levels:
            return False
        if (admission.node, admission.admitter) in self.admitted:
            return False
        return (held.proof.invite_key, held.slot) == (admission.proof.invite_key, admission.slot)

    def is_free(self, admission: Admission) -> bool:
        """Whether neither the node nor the slot has an admission that stands."""
        slot = (admission.proof.invite_key, admission.slot)
        return admission.node not in self.admissions and slot not in self.slots

    def let_in(self, admission: Admission) -> None:
        """Let an admission count that has all its premises, if nothing excludes it."""
        if self.is_free(admission):
            self._enter(admission)
        elif not self.confirms(admission):
            return
        self.count(admission)
        self.admitted[admission.node, admission.admitter] = record_name(admission)

    def _enter(self, admission: Admission) -> None:
        self.admissions[admission.node] = admission
        self.slots[admission.proof.invite_key, admission.slot] = admission.node
        admitter = NodeId(admission.admitter)
        self.rounds[admission.node] = (
            0 if admission.admitter in self.levels else self.rounds[admitter] + 1
        )

    def premises(self, node: NodeId, count_max: int) -> tuple[bytes, ...]:
        """The records that a membership rests on, premises first, its own last; at most so many,
        those nearest to it.
        """
        found: dict[bytes, Record] = {}
        wanted = self._of_key(node)
        for record in wanted:  # grows while it is walked; what was found is not walked again
            if record.wire not in found and len(found) < count_max:
                found[record.wire] = record
                wanted.extend(self._under(record))
        return tuple(wire for wire in self.counting if wire in found) if found else ()

    def _of_key(self, key: bytes) -> list[Record]:
        """What makes a key what it is."""
        held = self.admissions.get(NodeId(key))
        if held is None:
            return []
        level = self.levels.get(held.admitter, 0)
        grants = [g for i, g in self.grants.get(held.node, {}).items() if self.levels[i] >= level]
        nearest = sorted(grants, key=lambda grant: (self.levels[grant.issuer], grant.issuer))
        return [held, *nearest[:1]]

    def _under(self, record: Record) -> list[Record]:
        """What a record rests on."""
        signer = self._of_key(signer_of(record))
        if not isinstance(record, Admission):
            return signer
        invite = self.invites.get(record.proof.invite_key)
        return signer if invite is None else [invite, *signer]


def fits(admission: Admission, invite: Invite) -> bool:
    """Whether an admission is one that its invite allows."""
    return admission.role is invite.role and admission.slot <= invite.uses


def _precedence(revocation: Revocation) -> tuple[bytes, int, bytes]:
    """An issuer's last word first; what is told of several issuers is that of the lowest key."""
    return revocation.issuer, -revocation.act, record_name(revocation)


def judge(root: bytes, records: Iterable[Record]) -> Standing:
    """Everything that follows from these records, whose signatures hold."""
    return _Judge(records).judge(root)


class _Judge:
    """All records, by what they need, and what follows from them."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._acts: dict[bytes, list[Act]] = {}
        self._admissions: dict[bytes, list[Admission]] = {}
        self._of_admins: list[Admission] = []
        """Those that make admins."""
        self._of_nodes: dict[NodeId, list[Admission]] = {}
        self._admitted = 0
        self._said: dict[tuple[Target, bytes, bytes], None] = {}
        """What was revoked by whom: only an issuer's last word of it counts."""
        self._previous: dict[tuple[bytes, bytes], bytes] = {}
        """Of each act by its issuer and name: the name of the one before."""
        self._standing = Standing()
        for record in records:
            if not isinstance(record, Admission):
                self._acts.setdefault(record.issuer, []).append(record)
                self._previous[record.issuer, record_name(record)] = record.previous
                continue
            self._of_nodes.setdefault(record.node, []).append(record)
            if record.role is Role.ADMIN:
                self._of_admins.append(record)
            else:
                self._admissions.setdefault(record.admitter, []).append(record)
        self._of_admins.sort(key=record_name)

    def judge(self, root: bytes) -> Standing:
        """Level by level, then round by round."""
        standing = self._standing
        standing.levels[root] = level = 0
        standing.branches[root] = {root: None}
        issuers = [root]
        while issuers:
            signed = [act for issuer in issuers for act in self._acts.get(issuer, ())]
            acts = sorted(filter(standing.holds, signed), key=record_name)
            revocations = [act for act in acts if isinstance(act, Revocation)]
            for revocation in sorted(revocations, key=_precedence):
                self._revoke(revocation)
            for act in acts:
                self._do(act)
            raised = [*self._made_admins(), *self._granted(acts)]
            level += 1
            issuers = self._raise(raised, level) if level < LEVELS_MAX else []
        self._admit_all()
        return standing

    def _raise(self, raised: list[tuple[bytes, bytes]], level: int) -> list[bytes]:
        """Those of them who come to power on this level; each with whom it owes that to."""
        standing = self._standing
        found: dict[bytes, None] = {}
        for node, by in raised:
            is_roots = standing.levels[by] == 0
            branches = {node: None} if is_roots else standing.branches[by]
            if node in standing.levels:
                standing.branches[node] |= branches
                continue
            standing.branches.setdefault(node, {}).update(branches)
            found[node] = None
        standing.levels.update(dict.fromkeys(found, level))
        return list(found)

    def _revoke(self, revocation: Revocation) -> None:
        """It counts in any case, for its issuer's later acts name it; and if it is one that its
        issuer may make, it has its effect.
        """
        standing, subject = self._standing, revocation.subject
        standing.count(revocation)
        about = revocation.target, subject
        by = *about, revocation.issuer
        if by in self._said or not standing.permits(revocation):
            return
        self._said[by] = None
        first = standing.revocations.setdefault(about, revocation)
        if standing.levels[first.issuer] < standing.levels[revocation.issuer]:
            return
        if revocation.target is Target.NODE:
            chain = self._chain(subject, revocation.honoured_act)
            known = standing.honoured.get(subject, chain)
            standing.honoured[subject] = {name: None for name in chain if name in known}
        elif revocation.target is Target.INVITE:
            slot = revocation.honoured_slot
            standing.slot_limits[subject] = min(slot, standing.slot_limits.get(subject, slot))

    def _chain(self, issuer: bytes, name: bytes) -> dict[bytes, None]:
        """An act and all before it, as far back as they are known."""
        names: dict[bytes, None] = {}
        while name != NO_ACT and name not in names:
            names[name] = None
            name = self._previous.get((issuer, name), NO_ACT)
        return names

    def _do(self, act: Act) -> None:
        """Let an act count that holds; revocations do already."""
        standing = self._standing
        match act:
            case Revocation():
                return
            case Invite():
                standing.invites.setdefault(act.key, act)
            case Grant():
                standing.grants.setdefault(act.subject, {}).setdefault(act.issuer, act)
            case ApiKey():
                standing.api_keys.setdefault(act.key_hash, act)
        standing.count(act)

    def _made_admins(self) -> list[tuple[bytes, bytes]]:
        """Let in, as far as powers go by now, who comes as an admin; each with whose invite that
        was.
        """
        standing = self._standing
        ready = [a for a in self._of_admins if standing.supports(a)]
        self._of_admins = [a for a in self._of_admins if not standing.supports(a)]
        before = len(standing.admissions)
        self._let_in(ready)
        made = list(standing.admissions.values())[before:]
        invites = [(a, standing.invites.get(a.proof.invite_key)) for a in made]
        return [(a.node, invite.issuer) for a, invite in invites if invite and fits(a, invite)]

    def _granted(self, acts: list[Act]) -> list[tuple[bytes, bytes]]:
        """Let in whom these acts make admins, if somebody as near to the root as who says so, or
        nearer, has admitted them; each with who says so.
        """
        standing = self._standing
        grants = [act for act in acts if isinstance(act, Grant)]
        for node in dict.fromkeys(grant.subject for grant in grants):
            given = filter(standing.is_granted, self._of_nodes.get(node, ()))
            self._let_in(filter(standing.supports, sorted(given, key=record_name)))
        return [(g.subject, g.issuer) for g in grants if g.subject in standing.admissions]

    def _let_in(self, given: Iterable[Admission]) -> None:
        """In this order, as far as there is room."""
        for admission in given:
            if admission.wire not in self._standing.counting and self._admitted < ADMISSIONS_MAX:
                self._standing.let_in(admission)
                self._admitted += admission.wire in self._standing.counting

    def _admit_all(self) -> None:
        standing = self._standing
        for level_of_admitter in sorted(dict.fromkeys(standing.levels.values())):
            given = [
                admission
                for key, level in standing.levels.items()
                if level == level_of_admitter
                for admission in self._admissions.get(key, ())
            ]
            self._admit(given)
        admitters = list(standing.admissions)
        while admitters:
            before = len(standing.admissions)
            self._admit(
                [
                    admission
                    for node in admitters
                    if node not in standing.levels
                    for admission in self._admissions.get(node, ())
                ]
            )
            admitters = list(standing.admissions)[before:]

    def _admit(self, given: list[Admission]) -> None:
        self._let_in(filter(self._standing.supports, sorted(given, key=record_name)))
