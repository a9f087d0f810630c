"""The one place for rumours: what rides along with messages, how often, and in what order.

Each rumour is keyed by its subject, so that a newer one replaces an older one (invalidation).
It is sent `retransmit_limit` times. Deaths and goodbyes go first, then lives, then records, then
offers; but each class has a reserved share of a datagram, so that none starves. Within a class
the least sent goes first, then the newest.
"""

import dataclasses
import enum
import heapq
from collections.abc import Iterable, Mapping
from typing import Final

from protocol.codec import RIDERS_MAX, encode_rider
from protocol.config import ProtocolConfig
from protocol.identity import NodeId
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


RIDER_BYTES_MIN: Final = 64 + 32
"""No statement and no record is shorter than its author's key and signature: less room is none."""
MISFITS_MAX: Final = 8
"""So many rumours of a class that do not fit are looked at for one datagram, not all."""


@dataclasses.dataclass(slots=True, eq=False)
class _Rumour:
    key: bytes
    rider: bytes
    sequence: int
    sent: int = 0


class _Queue:
    """The rumours of one class, the most urgent first: the least sent, then the newest."""

    __slots__ = ("_heap", "rumours")

    def __init__(self) -> None:
        self.rumours: dict[bytes, _Rumour] = {}
        """By key, oldest first."""
        self._heap: list[tuple[int, int, _Rumour]] = []
        """(sent, -sequence, rumour), with some that are over: found out when they come up."""

    def put(self, rumour: _Rumour) -> None:
        """Add a rumour, in the place of the one with its key."""
        self.rumours.pop(rumour.key, None)
        if len(self.rumours) >= RUMOURS_MAX:
            del self.rumours[next(iter(self.rumours))]  # the oldest: it has been sent most
        self.rumours[rumour.key] = rumour
        self.push(rumour)

    def push(self, rumour: _Rumour) -> None:
        """Let a rumour come up again."""
        heapq.heappush(self._heap, (rumour.sent, -rumour.sequence, rumour))
        if len(self._heap) > 64 + 4 * len(self.rumours):
            # Not made anew from `rumours`: some of those are taken out just now.
            current = self.rumours
            self._heap = [one for one in self._heap if current.get(one[2].key) is one[2]]
            heapq.heapify(self._heap)

    def pop(self) -> _Rumour | None:
        """Take out the most urgent; it stays in `rumours`, and comes up again when pushed."""
        heap, rumours = self._heap, self.rumours
        while heap:
            rumour = heapq.heappop(heap)[2]
            if rumours.get(rumour.key) is rumour:
                return rumour
        return None

    def clear(self) -> None:
        """Forget all."""
        self.rumours.clear()
        self._heap.clear()


class _Accused:
    """Under which keys somebody is accused, with some that are over: a life that nobody doubts
    must not cost a look at all that is said of others.
    """

    __slots__ = ("_count", "_keys")

    def __init__(self) -> None:
        self._keys: dict[NodeId, dict[bytes, None]] = {}
        self._count = 0

    def add(self, subject: NodeId, key: bytes, deaths: Mapping[bytes, object]) -> None:
        """One more; `deaths` has those that are not over."""
        self._count += 1
        if self._count > 64 + 4 * len(deaths):
            self._forget_old(deaths)
        self._keys.setdefault(subject, {})[key] = None

    def _forget_old(self, deaths: Mapping[bytes, object]) -> None:
        kept = {s: {k: None for k in keys if k in deaths} for s, keys in self._keys.items()}
        self._keys = {subject: keys for subject, keys in kept.items() if keys}
        self._count = sum(map(len, self._keys.values()))

    def take(self, subject: bytes) -> Iterable[bytes]:
        """Take out all of one."""
        keys = self._keys.pop(NodeId(subject), {})
        self._count -= len(keys)
        return keys


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
        self._queues = {kind: _Queue() for kind in RumourClass}
        self._rumours = tuple(queue.rumours for queue in self._queues.values())
        self._sequence = 0
        self._accused = _Accused()

    def __len__(self) -> int:
        return sum(len(queue.rumours) for queue in self._queues.values())

    def __bool__(self) -> bool:
        deaths, lives, records, offers = self._rumours
        return bool(deaths or lives or records or offers)

    def add(self, statement: Statement) -> None:
        """Spread a statement from now on."""
        kind, key = rumour_key(statement)
        if isinstance(statement, Accusation):
            self._accused.add(statement.subject, key, self._queues[kind].rumours)
        elif kind is RumourClass.DEATH:
            self._queues[RumourClass.LIFE].rumours.pop(key, None)
        elif kind is RumourClass.LIFE:
            self._queues[RumourClass.DEATH].rumours.pop(key, None)
        self._put(kind, key, statement.wire)

    def add_record(self, wire: bytes) -> None:
        """Spread an authority record from now on."""
        self._put(RumourClass.RECORD, wire, wire)

    def drop_record(self, wire: bytes) -> None:
        """A record counts no more: nobody need hear of it."""
        self._queues[RumourClass.RECORD].rumours.pop(wire, None)

    def drop_member(self, node: bytes) -> None:
        """Whoever is no member any more is neither spoken of nor heard; why it is none goes on."""
        for kind, queue in self._queues.items():
            if kind is RumourClass.RECORD:
                continue
            for key in [key for key in queue.rumours if node in key]:
                del queue.rumours[key]

    def clear(self) -> None:
        """There is nobody to tell: whoever comes later gets everything by push/pull."""
        for queue in self._queues.values():
            queue.clear()
        self._accused = _Accused()

    def drop_accusations(self, subject: bytes) -> None:
        """The subject has refuted, or is gone: nobody needs to hear the accusations any more."""
        deaths = self._queues[RumourClass.DEATH].rumours
        for key in self._accused.take(subject):
            deaths.pop(key, None)

    def _put(self, kind: RumourClass, key: bytes, wire: bytes) -> None:
        self._sequence += 1
        self._queues[kind].put(_Rumour(key, encode_rider(wire), self._sequence))

    def fill(self, budget: int, members: int) -> bytes:
        """Riders of at most `budget` bytes, counted as sent once more."""
        filling = {kind: _Filling(q) for kind, q in self._queues.items() if q.rumours}
        left, riders = budget, RIDERS_MAX
        for is_share in (True, False):
            for kind, one in filling.items():
                share = min(_SHARE_BYTES[kind], left) if is_share else left
                room = share if kind is RumourClass.OFFER else left
                count = len(one.chosen)
                left -= one.take(share, room, riders)
                riders -= len(one.chosen) - count
        return self._ride(filling, retransmit_limit(self._config, members))

    def _ride(self, filling: dict[RumourClass, "_Filling"], limit: int) -> bytes:
        # Records first: they are the premises of the statements in the same datagram. The rest in
        # the order in which this node learned it.
        riders: list[tuple[bool, int, bytes]] = []
        for kind, one in filling.items():
            for rumour in one.chosen:
                riders.append((kind is not RumourClass.RECORD, rumour.sequence, rumour.rider))
                rumour.sent += 1
                if rumour.sent >= limit:
                    del one.queue.rumours[rumour.key]
                else:
                    one.queue.push(rumour)
            for rumour in one.misfits:
                one.queue.push(rumour)
        riders.sort()
        return b"".join(rider for _, _, rider in riders)


class _Filling:
    """What one datagram takes from one queue."""

    __slots__ = ("chosen", "misfits", "queue")

    def __init__(self, queue: _Queue) -> None:
        self.queue = queue
        self.chosen: list[_Rumour] = []
        self.misfits: list[_Rumour] = []

    def take(self, share: int, room: int, riders: int) -> int:
        """Choose what fits into `share`, most urgent first; the bytes that it takes.

        The most urgent of all may take what `room` there is: else a life with many addresses would
        wait for as long as others die. (A large offer waits: it must not hold up who lives.)
        """
        taken, most = 0, len(self.chosen) + riders
        earlier, self.misfits = self.misfits, []
        for rumour in earlier:
            taken += self._choose(rumour, share - taken, most)
        while share - taken >= RIDER_BYTES_MIN and len(self.misfits) < MISFITS_MAX:
            following = self.queue.pop()
            if following is None:
                break
            is_first = not self.chosen and not self.misfits
            taken += self._choose(following, room if is_first else share - taken, most)
        return taken

    def _choose(self, rumour: _Rumour, room: int, most: int) -> int:
        size = len(rumour.rider)
        if size > room or len(self.chosen) >= most:
            self.misfits.append(rumour)
            return 0
        self.chosen.append(rumour)
        return size
