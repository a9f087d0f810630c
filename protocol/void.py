"""The one place for records that do not count now, but may again: what speaks against them may
itself turn out not to count.

They are kept as far as there is room, and not passed on. If one is missing when it is wanted, who
holds it as one that counts brings it again.
"""

from collections.abc import Iterator
from typing import Final

from protocol.identity import NodeId
from protocol.records import Admission, Grant, Invite, Record, Role, signer_of

VOID_MAX: Final = 2_048


class VoidRecords:
    """Records with good signatures, by their bytes; of too many the oldest goes."""

    def __init__(self) -> None:
        self._records: dict[bytes, Record] = {}

    def __contains__(self, wire: bytes) -> bool:
        return wire in self._records

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def keep(self, record: Record) -> None:
        """One more."""
        self._records[record.wire] = record
        if len(self._records) > VOID_MAX:
            del self._records[next(iter(self._records))]

    def drop(self, record: Record) -> None:
        """It counts now."""
        self._records.pop(record.wire, None)

    def copy(self) -> "VoidRecords":
        """To try something out."""
        other = VoidRecords()
        other._records = dict(self._records)
        return other

    def invite(self, key: bytes) -> Invite | None:
        """An invite that was one."""
        return next((r for r in self if isinstance(r, Invite) and r.key == key), None)

    def might_issue(self, key: bytes, *, is_granted: bool) -> bool:
        """Whether this key would be an admin's if these counted; `is_granted`: by what does."""
        return any(
            (isinstance(r, Grant) and r.subject == key)
            or (isinstance(r, Admission) and r.node == key and (is_granted or r.role is Role.ADMIN))
            for r in self
        )

    def might_admit(self, key: bytes) -> bool:
        """Whether this key might let others in if these counted."""
        return any(
            (isinstance(r, Grant) and r.subject == key)
            or (isinstance(r, Admission) and r.node == key and r.role.may_admit)
            for r in self
        )

    def rests_on(self, key: bytes) -> bool:
        """Whether something here needs this key to stand: as its signer, or as its invite."""
        return any(
            signer_of(r) == key or (isinstance(r, Admission) and r.proof.invite_key == key)
            for r in self
        )

    def ground_of(self, node: NodeId) -> list[bytes]:
        """Admitters and invites of a node's admissions."""
        admissions = [r for r in self if isinstance(r, Admission) and r.node == node]
        return [key for a in admissions for key in (a.admitter, a.proof.invite_key)]

    def slots_of(self, node: NodeId) -> list[tuple[bytes, int]]:
        """Which slots of which invites a node wanted."""
        return [
            (r.proof.invite_key, r.slot)
            for r in self
            if isinstance(r, Admission) and r.node == node
        ]
