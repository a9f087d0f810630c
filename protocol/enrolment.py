"""The one place for the list of members as it follows from the records: by id, by short id, and
who has just gone from it.
"""

from collections.abc import Iterable, Mapping

from protocol.identity import NodeId, short_id
from protocol.records import Admission


class Enrolment:
    """Who is a member, and by which admission."""

    def __init__(self) -> None:
        self.members: dict[NodeId, Admission] = {}
        self._short_ids: dict[bytes, NodeId] = {}
        self._evicted: list[NodeId] = []

    def copy(self) -> "Enrolment":
        """The same, to be changed."""
        other = Enrolment()
        other.members, other._short_ids = dict(self.members), dict(self._short_ids)
        return other

    def resolve(self, short: bytes) -> NodeId | None:
        """The member whose id begins with these eight bytes: the first that had them."""
        return self._short_ids.get(short)

    def enlist(self, admission: Admission) -> None:
        """Somebody is a member, by this admission."""
        self.members[admission.node] = admission
        self._short_ids.setdefault(short_id(admission.node), admission.node)

    def strike(self, node: NodeId) -> None:
        """Somebody is no member any more, if it was one."""
        if self.members.pop(node, None) is None:
            return
        if self._short_ids.get(short_id(node)) == node:
            del self._short_ids[short_id(node)]
        self._evicted.append(node)

    def update(self, members: Iterable[NodeId], admissions: Mapping[NodeId, Admission]) -> None:
        """Exactly these are members."""
        present = dict.fromkeys(members)
        for node in [node for node in self.members if node not in present]:
            self.strike(node)
        for node in present:
            self.enlist(admissions[node])

    def take_evicted(self) -> list[NodeId]:
        """Who was struck off since the last call."""
        evicted, self._evicted = self._evicted, []
        return evicted
