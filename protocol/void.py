"""The one place for records that do not count, but may: what speaks against them may itself turn
out not to count. And, until the next judgment, for those that have just come and need one.

They are not passed on. If one is missing when it is wanted, who holds it as one that counts brings
it again.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from protocol.identity import NodeId
from protocol.records import Admission, Grant, Invite, Record, Role, made_key, needed_keys

VOID_MAX: Final = 2_048


class VoidRecords:
    """Records with good signatures, by their bytes; of too many the oldest goes."""

    def __init__(self, most: int | None = None) -> None:
        """`most`: how many; None: as many as come."""
        self._most = most
        self._records: dict[bytes, Record] = {}
        self._making: dict[bytes, dict[bytes, Record]] = {}
        """By the key of what each makes: an invite, a member, an admin."""
        self._issuing: Counter[bytes] = Counter()
        self._admitting: Counter[bytes] = Counter()
        """How many here would give a key this power."""
        self._needing: Counter[bytes] = Counter()
        """How many here rest on a key."""

    def __contains__(self, wire: bytes) -> bool:
        return wire in self._records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def keep(self, record: Record) -> None:
        """One more."""
        if record.wire in self._records:
            return
        self._records[record.wire] = record
        made = made_key(record)
        if made is not None:
            self._making.setdefault(made, {})[record.wire] = record
        self._count(record, 1)
        if self._most is not None and len(self._records) > self._most:
            self.drop(next(iter(self._records.values())))

    def drop(self, record: Record) -> None:
        """It counts now, or is forgotten."""
        if self._records.pop(record.wire, None) is None:
            return
        made = made_key(record)
        if made is not None:
            del self._making[made][record.wire]
            if not self._making[made]:
                del self._making[made]
        self._count(record, -1)

    def _count(self, record: Record, change: int) -> None:
        counted = [(self._needing, key) for key in needed_keys(record)]
        match record:
            case Grant():
                counted += [(self._issuing, record.subject), (self._admitting, record.subject)]
            case Admission():
                if record.role is Role.ADMIN:
                    counted.append((self._issuing, record.node))
                if record.role.may_admit:
                    counted.append((self._admitting, record.node))
            case _:
                pass
        for counter, key in counted:
            counter[key] += change
            if not counter[key]:
                del counter[key]

    def copy(self) -> "VoidRecords":
        """To try something out."""
        other = VoidRecords(self._most)
        for record in self:
            other.keep(record)
        return other

    def makes(self, *keys: bytes) -> bool:
        """Whether something here would make one of these keys an invite, a member or an admin."""
        return any(key in self._making for key in keys)

    def _makers(self, key: bytes) -> Iterator[Record]:
        return iter(self._making.get(key, {}).values())

    def invite(self, key: bytes) -> Invite | None:
        """An invite that was one, or may be."""
        return next((r for r in self._makers(key) if isinstance(r, Invite)), None)

    def might_issue(self, key: bytes) -> bool:
        """Whether this key would be an admin's if these counted."""
        return key in self._issuing

    def might_admit(self, key: bytes) -> bool:
        """Whether this key might let others in if these counted."""
        return key in self._admitting

    def rests_on(self, key: bytes) -> bool:
        """Whether something here needs this key to stand: as its signer, or as its invite."""
        return key in self._needing

    def ground_of(self, node: NodeId) -> list[bytes]:
        """Admitters and invites of a node's admissions, and who made it an admin."""
        makers = [r for r in self._makers(node) if not isinstance(r, Invite)]
        return [key for record in makers for key in needed_keys(record)]

    def slots_of(self, node: NodeId) -> list[tuple[bytes, int]]:
        """Which slots of which invites a node wanted."""
        admissions = [r for r in self._makers(node) if isinstance(r, Admission)]
        return [(a.proof.invite_key, a.slot) for a in admissions]
