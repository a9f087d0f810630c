"""The one place for how much room there is for records that count, and for whose."""

from collections import Counter
from typing import Final

from protocol import judgment
from protocol.records import Admission, ApiKey, Grant, Invite, Record, Revocation
from protocol.standing import Standing

INVITES_MAX: Final = 4_096
GRANTS_MAX: Final = 1_024
REVOCATIONS_MAX: Final = 8_192
API_KEYS_MAX: Final = 1_024
SHARES: Final = 8
"""Whom the root key made an admin fills no more than one part in so many of a table, with all who
owe it their power; and all of them leave one part to the root key.
"""


class Shares:
    """What counts, by kind and by branch: the admins that the root key made, each with all who owe
    it their power.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._counts: Counter[type] = Counter()
        self._issued: Counter[tuple[bytes, type]] = Counter()

    def copy(self) -> "Shares":
        """To be changed."""
        copied = Shares(self._root)
        copied._counts, copied._issued = Counter(self._counts), Counter(self._issued)
        return copied

    def clear(self) -> None:
        """Nothing counts."""
        self._counts.clear()
        self._issued.clear()

    def have_room(self, record: Record, standing: Standing) -> bool:
        """Whether one more may count. What the root key issues takes nothing from the others' part,
        and so what fits now still fits when all is taken in again, the root key's first.
        """
        kind, room = type(record), _tables()[type(record)]
        if self._counts[kind] >= room:
            return False
        issuer = _answerable(record, standing)
        if issuer == self._root:
            return True
        share = max(room // SHARES, 1)
        own = self._issued[self._branch_of(issuer, kind, standing), kind]
        others = self._counts[kind] - self._issued[self._root, kind]
        return own < share and others < room - share

    def add(self, record: Record, standing: Standing) -> None:
        """One more counts."""
        kind = type(record)
        self._counts[kind] += 1
        issuer = _answerable(record, standing)
        self._issued[self._branch_of(issuer, kind, standing), kind] += 1

    def _branch_of(self, issuer: bytes, kind: type, standing: Standing) -> bytes:
        """To whom this one owes its power; of several to whoever has more room left."""
        branches = standing.branches.get(issuer, {issuer: None})
        return min(branches, key=lambda branch: (self._issued[branch, kind], branch))


def _answerable(record: Record, standing: Standing) -> bytes:
    """Whose share a record takes: of an admission, whose invite it is, or who lets in again
    somebody that is in already.
    """
    if not isinstance(record, Admission):
        return record.issuer
    held = standing.admissions.get(record.node)
    invite = standing.invites.get(record.proof.invite_key)
    is_first = held is None or held.wire == record.wire
    return invite.issuer if is_first and invite is not None else record.admitter


def _tables() -> dict[type, int]:
    """How many records of each kind may count."""
    return {
        Invite: INVITES_MAX,
        Admission: judgment.ADMISSIONS_MAX,
        Grant: GRANTS_MAX,
        Revocation: REVOCATIONS_MAX,
        ApiKey: API_KEYS_MAX,
    }
