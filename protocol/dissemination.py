"""The one place for rumours: what rides along with messages, how often, and in what order.

Each rumour is keyed by its subject, so that a newer one replaces an older one (invalidation).
It is sent `retransmit_limit` times. Deaths and goodbyes go first, then lives, then records, then
offers; but each class has a reserved share of a datagram, so that none starves. Within a class
the least sent goes first, then the newest.
"""

import dataclasses
import enum
import heapq
from typing import Final

from protocol.codec import RIDERS_MAX, encode_rider
from protocol.config import ProtocolConfig
from protocol.statements import Accusation, Alive, Left, Statement

RUMOURS_MAX: Final = 32_768


class RumourClass(enum.IntEnum):
    """In order of urgency."""

    DEATH = 0
    LIFE = 1
    RECORD = 2
    OFFER = 3


_SHARE_BYTES: Final = {
    RumourClass.DEATH: 330,
    RumourClass.LIFE: 270,
    RumourClass.RECORD: 310,
    RumourClass.OFFER: 150,
}
"""Reserved for each class while it has rumours: two accusations, a life, an admission, a bit of
the offers. What a class does not need goes to the others in order of urgency."""


@dataclasses.dataclass(slots=True)
class _Rumour:
    rider: bytes
    sequence: int
    sent: int = 0


def retransmit_limit(config: ProtocolConfig, members: int) -> int:
    """How often one node sends one rumour: mult * ceil(log10(members + 1))."""
    digits = len(str(members))  # ceil(log10(n + 1)) for every n >= 1
    return config.retransmit_mult * digits if members > 0 else 0


def rumour_key(statement: Statement) -> tuple[RumourClass, bytes]:
    """Class and subject: a later statement with the same key replaces the earlier one."""
    match statement:
        case Alive():
            return RumourClass.LIFE, b"life" + statement.author
        case Left():
            return RumourClass.DEATH, b"life" + statement.author
        case Accusation():
            return RumourClass.DEATH, b"accuse" + statement.subject + statement.author
        case _:
            return RumourClass.OFFER, b"offer" + statement.author + statement.key.encode()


class Dissemination:
    """The rumours of one node."""

    def __init__(self, config: ProtocolConfig) -> None:
        self._config = config
        self._queues: dict[RumourClass, dict[bytes, _Rumour]] = {kind: {} for kind in RumourClass}
        self._sequence = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, statement: Statement) -> None:
        """Spread a statement from now on."""
        kind, key = rumour_key(statement)
        if kind is RumourClass.DEATH:
            self._queues[RumourClass.LIFE].pop(key, None)
        elif kind is RumourClass.LIFE:
            self._queues[RumourClass.DEATH].pop(key, None)
        self._put(kind, key, statement.wire)

    def add_record(self, wire: bytes) -> None:
        """Spread an authority record from now on."""
        self._put(RumourClass.RECORD, wire, wire)

    def clear(self) -> None:
        """There is nobody to tell: whoever comes later gets everything by push/pull."""
        for queue in self._queues.values():
            queue.clear()

    def drop_accusations(self, subject: bytes) -> None:
        """The subject has refuted, or is gone: nobody needs to hear the accusations any more."""
        prefix = b"accuse" + subject
        deaths = self._queues[RumourClass.DEATH]
        for key in [key for key in deaths if key.startswith(prefix)]:
            del deaths[key]

    def _put(self, kind: RumourClass, key: bytes, wire: bytes) -> None:
        queue = self._queues[kind]
        self._sequence += 1
        queue.pop(key, None)
        if len(queue) >= RUMOURS_MAX:
            del queue[next(iter(queue))]  # the oldest: it has been sent most
        queue[key] = _Rumour(encode_rider(wire), self._sequence)

    def fill(self, budget: int, members: int) -> bytes:
        """Riders of at most `budget` bytes, counted as sent once more."""
        limit = retransmit_limit(self._config, members)
        ordered: dict[RumourClass, list[tuple[bytes, _Rumour]]] = {}
        for kind, queue in self._queues.items():
            if queue:
                ordered[kind] = heapq.nsmallest(RIDERS_MAX, queue.items(), key=_urgency)
        chosen: list[tuple[RumourClass, bytes, _Rumour]] = []
        taken = 0
        for share in (True, False):
            for kind, rumours in ordered.items():
                room = min(_SHARE_BYTES[kind], budget - taken) if share else budget - taken
                rest: list[tuple[bytes, _Rumour]] = []
                for key, rumour in rumours:
                    size = len(rumour.rider)
                    if size <= room and len(chosen) < RIDERS_MAX:
                        chosen.append((kind, key, rumour))
                        room -= size
                        taken += size
                    else:
                        rest.append((key, rumour))
                ordered[kind] = rest
        riders = [rumour.rider for _, _, rumour in sorted(chosen, key=_ride_order)]
        for kind, key, rumour in chosen:
            rumour.sent += 1
            if rumour.sent >= limit:
                del self._queues[kind][key]
        return b"".join(riders)


def _urgency(item: tuple[bytes, _Rumour]) -> tuple[int, int]:
    return item[1].sent, -item[1].sequence


def _ride_order(choice: tuple[RumourClass, bytes, _Rumour]) -> tuple[int, int]:
    # Records first: they are the premises of the statements in the same datagram. The rest in
    # the order in which this node learned it.
    kind, _, rumour = choice
    return (0 if kind is RumourClass.RECORD else 1, rumour.sequence)
