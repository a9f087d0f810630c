"""The one place for noticing that many members vanished at once: more likely a cut than as many
deaths.

Nothing depends on it: members still die one by one. It is told to people.
"""

from typing import Final

from protocol.config import SECOND, ProtocolConfig
from protocol.effects import Partitioned, Reunited
from protocol.identity import NodeId
from protocol.members import Members
from protocol.outbox import Outbox

PARTITION_NS: Final = 3_600 * SECOND
"""So long after its last death a partition is over: who is missing then is gone."""


class PartitionWatch:
    """Counts recent deaths in one view."""

    def __init__(self, config: ProtocolConfig, members: Members, outbox: Outbox) -> None:
        self._config = config
        self._members = members
        self._outbox = outbox
        self._recent: dict[NodeId, int] = {}
        self._lost: dict[NodeId, None] = {}
        self._lost_most = 0
        self._last_ns = 0

    def lost_count(self, now: int) -> int:
        """How many members a partition seems to have taken and are still missing; 0: none."""
        return len(self._lost) if now - self._last_ns <= PARTITION_NS else 0

    def note_death(self, node: NodeId, now: int) -> None:
        """A member was declared dead; it is not present any more."""
        self._recent[node] = now
        while now - self._recent[first := next(iter(self._recent))] > (
            self._config.partition_window_ns
        ):
            del self._recent[first]
        if now - self._last_ns > PARTITION_NS:
            self._lost.clear()
        self._last_ns = now
        if self._lost:
            self._lost[node] = None
            self._lost_most = max(self._lost_most, len(self._lost))
            return
        present, lost = self._members.present_count, len(self._recent)
        is_large = 100 * lost >= self._config.partition_share_percent * (present + lost)
        if lost >= self._config.partition_members and is_large:
            self._lost = dict.fromkeys(self._recent)
            self._lost_most = lost
            self._outbox.add(Partitioned(lost, present))

    def note_back(self, node: NodeId) -> None:
        """A member lives again, said goodbye after all, or is no member any more."""
        self._recent.pop(node, None)
        if self._lost.pop(node, self) is self:
            return
        if 2 * len(self._lost) < self._lost_most:
            self._lost.clear()
            self._outbox.add(Reunited(self._members.present_count))
