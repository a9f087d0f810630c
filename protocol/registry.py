"""The one place to read who is who in a mesh, as it follows from the authority records.

`authority.py` takes records in; what it knows is looked up here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from protocol.enrolment import Enrolment
from protocol.identity import MeshId, NodeId, mesh_id_of
from protocol.issuing import FIRST_TURN, Turn, turn_after
from protocol.records import (
    NO_ACT,
    Act,
    Admission,
    ApiKey,
    Invite,
    Record,
    Revocation,
    Role,
    Target,
    record_name,
)
from protocol.standing import Standing
from protocol.void import VOID_MAX, VoidRecords

GROUND_MAX: Final = 64
"""Steps back from a lost membership to the revocation that took it."""
LEVEL_NONE: Final = 2**31
"""Of who may not issue acts."""


class Registry:
    """What one node knows of authority."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self.mesh: MeshId = mesh_id_of(root)
        self._standing = Standing(levels={root: 0})
        self._enrolment = Enrolment()
        self._void = VoidRecords(VOID_MAX)
        self._fresh = VoidRecords()
        """Checked, and still to be judged."""

    # ---- who is who ----

    def admission(self, node: NodeId) -> Admission | None:
        """The admission that makes `node` a member, if there is one."""
        return self._enrolment.members.get(node)

    def invite_of(self, node: NodeId) -> Invite | None:
        """The invite by which `node` came, if that counts: an admin needs none any more."""
        admission = self._enrolment.members.get(node)
        return self._standing.invites.get(admission.proof.invite_key) if admission else None

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

    def admitted_by(self, admitter: bytes) -> Sequence[Admission]:
        """The admissions of members that `admitter` gave, also to who was one already."""
        admitted = self._standing.admitted
        members = self._enrolment.members.items()
        return tuple(held for node, held in members if (node, admitter) in admitted)

    def admitted_by_members(self, invite_key: bytes) -> Sequence[Admission]:
        """The admissions of members that came by an invite, and were let in by one without power:
        another such one could take their slot.
        """
        standing = self._standing
        return tuple(
            held
            for held in self._enrolment.members.values()
            if held.proof.invite_key == invite_key and held.admitter not in standing.levels
        )

    def dormant_grants(self, issuer: bytes) -> Sequence[NodeId]:
        """Keys without power that a grant by `issuer` would give some, once somebody near enough
        admits them.
        """
        granted = [node for node, by in self._standing.grants.items() if issuer in by]
        powerless = [node for node in granted if not self.may_issue(node)]
        return tuple(node for node in powerless if self.revocation_of(node) is None)

    def has_admitted(self, admitter: bytes, node: NodeId) -> bool:
        """Whether an admission of `node` by this key counts."""
        return (node, admitter) in self._standing.admitted

    def may_issue(self, key: bytes) -> bool:
        """Whether this key may sign acts now: the root's, or an admin's."""
        return key in self._standing.levels and not self._standing.is_revoked(key)

    def level_of(self, key: bytes) -> int:
        """How far from the root key this one is; above all levels if it may not issue acts."""
        return self._standing.levels.get(key, LEVEL_NONE)

    def revocation_of(self, subject: bytes, target: Target = Target.NODE) -> Revocation | None:
        """What took back a node, an invite or an API key (by key, or hash)."""
        return self._standing.revocations.get((target, subject))

    def invite(self, key: bytes) -> Invite | None:
        """The invite with this key, also when it was revoked."""
        return self._standing.invites.get(key)

    def invites(self) -> Sequence[Invite]:
        """All that count, revoked ones too."""
        return tuple(self._standing.invites.values())

    def last_slot(self, invite_key: bytes) -> int:
        """The highest slot of an invite that is taken, of those that it has; 0: none."""
        invite = self._standing.invites.get(invite_key)
        uses = invite.uses if invite is not None else 0
        slots = (slot for key, slot in self._standing.slots if key == invite_key and slot <= uses)
        return max(slots, default=0)

    def slots_taken(self) -> Mapping[bytes, int]:
        """How many slots of each invite are taken; those of revoked members stay so."""
        return Counter(key for key, _ in self._standing.slots)

    def rival_of(self, node: NodeId) -> NodeId | None:
        """Who has the slot that an admission of `node` wanted."""
        taken = self._standing.slots
        holders = [taken[slot] for slot in self._void.slots_of(node) if slot in taken]
        return next((holder for holder in holders if holder != node), None)

    def is_revoked(self, node: NodeId) -> bool:
        """Whether a revocation took its membership back: its own, or that of what it rested on."""
        if self.admission(node) is not None:
            return False
        return self.revocation_of(node) is not None or bool(self.revoked_ground_of(node))

    def revoked_ground_of(self, node: NodeId) -> list[Revocation]:
        """Of the admissions that a node had and that do not count: which revocations did that, of
        what they rest on, however far.
        """
        walked = self._void.ground_of(node)
        for key in walked:  # grows while it is walked
            if len(walked) < GROUND_MAX:
                walked += [under for under in self._under(key) if under not in walked]
        found = [
            self._standing.revocations.get((target, key))
            for key in walked
            for target in (Target.NODE, Target.INVITE)
        ]
        return [revocation for revocation in found if revocation is not None]

    def _under(self, key: bytes) -> list[bytes]:
        """What an invite, or a member, rests on; whether that counts or did once."""
        invite = self._standing.invites.get(key) or self._void.invite(key)
        if invite is not None:
            return [invite.issuer]
        node = NodeId(key)
        held = self._standing.admissions.get(node)
        if held is not None:
            granted = self._standing.grants.get(node, {})
            return [held.admitter, held.proof.invite_key, *granted]
        return self._void.ground_of(node)

    def api_key(self, key_hash: bytes) -> ApiKey | None:
        """The API key with this hash, unless it was revoked."""
        revoked = (Target.API_KEY, key_hash) in self._standing.revocations
        return None if revoked else self._standing.api_keys.get(key_hash)

    def api_keys(self) -> Sequence[ApiKey]:
        """All that count and are not revoked."""
        return tuple(k for k in self._standing.api_keys.values() if self.api_key(k.key_hash))

    def next_turn(self, issuer: bytes) -> Turn:
        """The place of the issuer's next act, behind its last one."""
        last = self._last_act(issuer)
        return turn_after(last) if last is not None else FIRST_TURN

    def last_act(self, issuer: bytes) -> bytes:
        """The name of the issuer's last act that counts; NO_ACT if there is none."""
        last = self._last_act(issuer)
        return record_name(last) if last is not None else NO_ACT

    def _last_act(self, issuer: bytes) -> Act | None:
        """The end of the longest chain: of acts that begin anywhere none counts here."""
        followers: dict[bytes, list[Act]] = {}
        for act in self._acts():
            if act.issuer == issuer:
                followers.setdefault(act.previous, []).append(act)
        last: Act | None = None
        front = followers.pop(NO_ACT, [])
        while front:
            last = min(front, key=record_name)
            front = [a for act in front for a in followers.pop(record_name(act), [])]
        return last

    def _acts(self) -> Iterator[Act]:
        return (r for r in self._standing.counting.values() if not isinstance(r, Admission))

    # ---- records ----

    @property
    def size(self) -> int:
        """How many records are judged in one go, about."""
        return len(self._standing.counting) + len(self._void) + len(self._fresh)

    def is_counting(self, wire: bytes) -> bool:
        """Whether exactly this record is among those that count."""
        return wire in self._standing.counting

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

    def free_slot(self, invite: Invite) -> int | None:
        """The first slot of an invite that nobody has; None when it is used up."""
        # Slots fill from the front, so this ends after one more than the admissions it counts.
        for slot in range(1, invite.uses + 1):
            if (invite.key, slot) not in self._standing.slots:
                return slot
        return None
