"""The one place for what a node knows, as sums that two nodes can compare, and extracts of it.

    digest = the sum, modulo 2^64, of one hash for every thing that is known

A present member counts with its life and its offers, one that left with its goodbye, a record with
its bytes. A dead one does not count: a death is each view's own verdict, and a newcomer never
hears of it. Suspicions and load do not count either: they come and go.
The same sums are kept for 64 buckets of members and 64 of records, so that two nodes whose digests
differ find out where with 1 KiB. A sum changes by subtraction and addition: whatever happens costs
one hash per offer of one member, however large the mesh is.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from protocol.authority import Authority
from protocol.codec import BUCKETS, ENTRIES_MAX, ID_BYTES, PREMISES_MAX, STREAM_BYTES_MAX
from protocol.identity import NodeId, short_id
from protocol.members import Members, State
from protocol.messages import Entry
from protocol.offers import Offers
from protocol.records import Record, Revocation
from protocol.statements import Accusation

PRESENT: Final = 0
DEAD: Final = 1
LEFT: Final = 2
"""`Entry.state`; a suspect counts as present."""
EVERYTHING_BYTES_MAX: Final = STREAM_BYTES_MAX - 2**20
"""Of all records and statements in one message: what is framed stays within the limit."""
_MODULUS: Final = 2**64
_PURPOSE: Final = b"meshd digest"
_ITEM_BYTES: Final = 3
"""Length prefix of one item, at most."""

_WIRE_STATES: Final = {
    State.ALIVE: PRESENT,
    State.SUSPECT: PRESENT,
    State.DEAD: DEAD,
    State.LEFT: LEFT,
}


class Room:
    """How many bytes of items still fit into a message."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, wires: Sequence[bytes]) -> bool:
        """Whether all of these fit; then their room is taken."""
        size = sum(map(len, wires)) + _ITEM_BYTES * len(wires)
        if size > self._left:
            return False
        self._left -= size
        return True


@dataclasses.dataclass(slots=True)
class _Index:
    """The records that count, by their ids. Shared as `authority._Tables` are."""

    records: dict[bytes, Record] = dataclasses.field(default_factory=dict)
    """In the order in which they came to count: premises first."""
    ids: list[dict[bytes, None]] = dataclasses.field(
        default_factory=lambda: [{} for _ in range(BUCKETS)]
    )
    """Of each bucket."""
    is_shared: bool = False

    def copy(self) -> "_Index":
        return _Index(dict(self.records), list(map(dict, self.ids)))


class Knowledge:
    """Everything that one node knows, summed up."""

    def __init__(
        self,
        authority: Authority,
        members: Members,
        offers: Offers,
        accusation_of: Callable[[NodeId], Accusation | None],
    ) -> None:
        """`accusation_of`: what we hold against a member, signed."""
        self._authority = authority
        self._members = members
        self._offers = offers
        self._accusation_of = accusation_of
        self._member_sums = [0] * BUCKETS
        self._contents: list[dict[NodeId, int]] = [{} for _ in range(BUCKETS)]
        """Per bucket everybody in the view, with what each one counts."""
        self._shared_contents = 0
        """Bit i: another view holds the table of bucket i; then it is copied before it changes."""
        self._record_sums = [0] * BUCKETS
        self._index = _Index()
        self._settled = 0
        self.total = 0
        """The digest: 64 bits over all of it."""
        self.last_change_ns = 0
        """When the digest last changed."""

    def settle(self, now: int) -> None:
        """An event is dealt with: note whether it has changed the digest."""
        if self.total != self._settled:
            self._settled = self.total
            self.last_change_ns = now

    # ---- keeping the sums ----

    def rebuild(self) -> None:
        """Count everything that came in without a word to us (from disk)."""
        for record in self._authority.records():
            self.add_record(record)
        for node in self._members.all():
            self.touch(node)

    def touch(self, node: NodeId) -> None:
        """Something about a member has changed: its life, how we see it, or its offers."""
        bucket = bucket_of(node)
        contents = self._own_contents(bucket)
        before = contents.pop(node, 0)
        state = self._members.state(node)
        after = self._content(node, state)
        if state is not None:
            contents[node] = after
        self._member_sums[bucket] = (self._member_sums[bucket] + after - before) % _MODULUS
        self.total = (self.total + after - before) % _MODULUS

    def _own_contents(self, bucket: int) -> dict[NodeId, int]:
        """To be written to."""
        if self._shared_contents >> bucket & 1:
            self._shared_contents ^= 1 << bucket
            self._contents[bucket] = dict(self._contents[bucket])
        return self._contents[bucket]

    def _content(self, node: NodeId, state: State | None) -> int:
        match state:
            case State.ALIVE | State.SUSPECT:
                alive = self._members.alive_record(node)
                assert alive is not None  # else it would not be present
                wires = [alive.wire, *(offer.wire for offer in self._offers.held(node))]
                return sum(map(self._hash, wires)) % _MODULUS
            case State.LEFT:
                # Not over its bytes: of two goodbyes under one number either may be here.
                incarnation = self._members.incarnation(node)
                return self._hash(b"left" + node + incarnation.to_bytes(8, "big"))
            case _:
                return 0

    def add_record(self, record: Record) -> None:
        """A record counts from now on; once, however often this is called."""
        name = self._name(record.wire)
        if name in self._index.records or not self._authority.is_counting(record.wire):
            return
        index = self._own_index()
        index.records[name] = record
        index.ids[bucket_of(name)][name] = None
        self._count_record(name, 1)

    def drop_record(self, record: Record) -> None:
        """A record counts no more."""
        name = self._name(record.wire)
        if name not in self._index.records:
            return
        index = self._own_index()
        del index.records[name]
        del index.ids[bucket_of(name)][name]
        self._count_record(name, -1)

    def _own_index(self) -> _Index:
        """To be written to."""
        if self._index.is_shared:
            self._index = self._index.copy()
        return self._index

    def share(self, other: "Knowledge") -> None:
        """Count what another member counts, of which our parts know all now: a simulation that
        begins in the middle.
        """
        other._index.is_shared = True
        self._index = other._index
        self._contents = list(other._contents)
        self._shared_contents = other._shared_contents = (1 << BUCKETS) - 1
        self._member_sums = list(other._member_sums)
        self._record_sums = list(other._record_sums)
        self.total = self._settled = other.total

    def _count_record(self, name: bytes, sign: int) -> None:
        value = sign * int.from_bytes(name, "big")
        bucket = bucket_of(name)
        self._record_sums[bucket] = (self._record_sums[bucket] + value) % _MODULUS
        self.total = (self.total + value) % _MODULUS

    def _hash(self, data: bytes) -> int:
        return int.from_bytes(self._name(data), "big")

    def _name(self, data: bytes) -> bytes:
        """64 bits over some bytes, in this mesh: the id of a record."""
        mesh = self._authority.mesh
        return hashlib.blake2b(data, digest_size=ID_BYTES, key=mesh, person=_PURPOSE).digest()

    # ---- comparing ----

    def sums(self) -> tuple[bytes, bytes]:
        """The sums of all buckets, of members and of records, as they travel."""
        return _packed(self._member_sums), _packed(self._record_sums)

    def differing(self, members: bytes, records: bytes) -> tuple[int, int]:
        """Where another's sums differ from ours: bit i for bucket i, of members and of records."""
        own_members, own_records = self.sums()
        return _differing(own_members, members), _differing(own_records, records)

    def entries(self, buckets: int) -> tuple[int, tuple[Entry, ...]]:
        """Everybody in these buckets, and which of them are listed: whole ones, within the limit.

        From the first bucket on; the rest comes when these agree.
        """
        listed, entries = 0, list[Entry]()
        for bucket in _indexes(buckets):
            contents = self._contents[bucket]
            if len(entries) + len(contents) > ENTRIES_MAX:
                break
            listed |= 1 << bucket
            entries.extend(map(self._entry, contents))
        return listed, tuple(entries)

    def _entry(self, node: NodeId) -> Entry:
        state = self._members.state(node)
        assert state is not None  # `touch` keeps only who is in the view
        content = self._contents[bucket_of(node)][node]
        incarnation = self._members.incarnation(node)
        return Entry(short_id(node), _WIRE_STATES[state], incarnation, content)

    def record_ids(self, buckets: int) -> tuple[bytes, ...]:
        """The ids of all records in these buckets."""
        return tuple(name for bucket in _indexes(buckets) for name in self._index.ids[bucket])

    # ---- extracts ----

    def everything(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Records, premises first, and statements: all that a newcomer may know.

        Of the dead only what we hold against them, so that a newcomer never meets a ghost. In a
        mesh that is too large for one message offers come last, and the rest is pulled.
        """
        room = Room(EVERYTHING_BYTES_MAX)
        records = tuple(r.wire for r in self._authority.records() if room.take((r.wire,)))
        rows = [self._life(node) for node in self._members.all()]
        rows += [self._offered(node) for node in self._members.present()]
        return records, _chosen(rows, room)

    def about(self, nodes: Iterable[NodeId], room: Room) -> tuple[bytes, ...]:
        """All statements that make up what we know of these members, as far as there is room."""
        return _chosen((self._all_of(node) for node in nodes), room)

    def _all_of(self, node: NodeId) -> list[bytes]:
        """Here also the last life of a dead member: who asks knows the member already."""
        wires = self._life(node)
        match self._members.state(node):
            case State.DEAD:
                alive = self._members.alive_record(node)
                assert alive is not None  # a death is declared only of a life that we saw
                return [alive.wire, *wires]
            case State.LEFT | None:
                return wires
            case _:
                return wires + self._offered(node)

    def _life(self, node: NodeId) -> list[bytes]:
        wires: list[bytes] = []
        gone = self._members.gone(node)
        alive = self._members.alive_record(node)
        left = gone.left if gone is not None else None
        if left is not None:
            wires.append(left.wire)
        if alive is not None and (gone is None or left is not None):
            wires.append(alive.wire)
        accusation = self._accusation_of(node)
        if accusation is not None:
            role = self._authority.role_of(accusation.author)
            if role is not None and role.may_admit:  # else nobody would hear it
                wires.append(accusation.wire)
        return wires

    def _offered(self, node: NodeId) -> list[bytes]:
        return [offer.wire for offer in self._offers.held(node)]

    def records_named(self, names: Iterable[bytes], room: Room) -> tuple[bytes, ...]:
        """These records, premises first, as far as there is room; unknown ids are ignored."""
        wanted = dict.fromkeys(names)
        if not wanted:
            return ()
        found = [record for name, record in self._index.records.items() if name in wanted]
        # Revocations last: who has them first takes the acts that they honour one at a time.
        found.sort(key=lambda record: isinstance(record, Revocation))
        return tuple(record.wire for record in found if room.take((record.wire,)))

    def premises(self, node: NodeId) -> tuple[bytes, ...]:
        """The records that a member's admission rests on, premises first, and itself."""
        return self._authority.premises(node, PREMISES_MAX)


def bucket_of(name: bytes) -> int:
    """The bucket of a node id or of a record's id."""
    return name[0] >> 2


def _packed(sums: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(8, "big") for value in sums)


def _differing(own: bytes, other: bytes) -> int:
    pairs = ((own[8 * i : 8 * i + 8], other[8 * i : 8 * i + 8]) for i in range(BUCKETS))
    return sum(1 << i for i, (one, two) in enumerate(pairs) if one != two)


def _indexes(buckets: int) -> Iterator[int]:
    return (bucket for bucket in range(BUCKETS) if buckets >> bucket & 1)


def _chosen(rows: Iterable[Sequence[bytes]], room: Room) -> tuple[bytes, ...]:
    """The rows that fit, each whole or not at all, in order."""
    return tuple(wire for row in rows if room.take(row) for wire in row)
