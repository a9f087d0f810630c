"""The one place for records that do not count, but may: what speaks against them may itself turn
out not to count. And, until the next judgment, for those that have just come and need one.

They are not passed on. If one is missing when it is wanted, who holds it as one that counts brings
it again.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from protocol.identity import NodeId
from protocol.records import Admission, Grant, Invite, Record, Role, signer_of

VOID_MAX: Final = 2_048


def needed_keys(record: Record) -> tuple[bytes, ...]:
    """What a record rests on: its signer, and its invite."""
    signer = signer_of(record)
    if not isinstance(record, Admission):
        return (signer,)
    return tuple(dict.fromkeys((signer, record.proof.invite_key)))


class VoidRecords:
    """Records with good signatures, by their bytes; of too many the oldest goes."""

    def __init__(self, most: int | None = None) -> None:
        """`most`: how many; None: as many as come."""
        self._most = most
        self._records: dict[bytes, Record] = {}
        self._making: dict[bytes, dict[bytes, Record]] = {}
        """By the key of what each makes: an invite, a member, an admin."""
        self._issuers: Counter[bytes] = Counter()
        self._admitters: Counter[bytes] = Counter()
        """How many here would give a key this power."""
        self._needing: dict[bytes, dict[bytes, Record]] = {}
        """By the keys that each rests on."""

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
        self._empower(record, 1)
        for index, key in self._places(record):
            index.setdefault(key, {})[record.wire] = record
        if self._most is not None and len(self._records) > self._most:
            self.drop(next(iter(self._records.values())))

    def drop(self, record: Record) -> None:
        """It counts now, or is forgotten."""
        if self._records.pop(record.wire, None) is None:
            return
        self._empower(record, -1)
        for index, key in self._places(record):
            index[key].pop(record.wire, None)
            if not index[key]:
                del index[key]

    def _empower(self, record: Record, change: int) -> None:
        """Count what a record would make its subject, or not any more."""
        match record:
            case Grant():
                key, issues, admits = record.subject, True, True
            case Admission():
                key, issues = record.node, record.role is Role.ADMIN
                admits = record.role.may_admit
            case _:
                return
        for counter, has_it in ((self._issuers, issues), (self._admitters, admits)):
            if has_it:
                counter[key] += change
                if not counter[key]:
                    del counter[key]

    def _places(self, record: Record) -> list[tuple[dict[bytes, dict[bytes, Record]], bytes]]:
        made: list[bytes] = []
        match record:
            case Admission():
                made = [record.node]
            case Invite():
                made = [record.key]
            case Grant():
                made = [record.subject]
            case _:
                pass
        needs = [(self._needing, key) for key in needed_keys(record)]
        return [*needs, *((self._making, key) for key in made)]

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
        return key in self._issuers

    def might_admit(self, key: bytes) -> bool:
        """Whether this key might let others in if these counted."""
        return key in self._admitters

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
