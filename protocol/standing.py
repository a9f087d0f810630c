"""The one place for what follows from a set of authority records: who has power, who is a member,
what counts. How it follows, `judgment.py` says.
"""

import dataclasses
from collections.abc import Iterator
from typing import Final

from protocol.identity import NodeId
from protocol.records import (
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
        issuers = self.grants.get(admission.node)
        if level is None or not issuers:
            return False
        return self.levels[next(reversed(issuers))] >= level  # they come level by level

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
