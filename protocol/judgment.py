"""The one place that decides which records count: a function of the set of records, and nothing
else, so that whoever holds the same records agrees, in whatever order they came.

Power comes level by level. Level 0 is the root key. What the issuers of one level have done decides
who issues acts on the next one, and what of that holds; nobody's act bears on his own level or one
above it. So there is nothing to search and nothing to grind, and an admin is revoked only by those
nearer to the root. Of several revocations of one subject those nearest to the root count, of each
issuer the last; of several equals the strictest: what all of them honour holds.
Memberships come after that: those that the root and admins gave out, nearest first, then those of
members that may admit, round by round. Where two exclude each other (one slot, one node, one invite
key) the earlier stays, of two at once the lower name. What does not count bears on nothing.
"""

from collections.abc import Iterable
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
)
from protocol.standing import Standing, fits

ADMISSIONS_MAX: Final = 16_384
LEVELS_MAX: Final = 16
"""So far from the root key nobody has power: each level is a walk over what waits for it."""


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
            held = standing.honoured.get(subject, chain)
            standing.honoured[subject] = {name: None for name in chain if name in held}
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
