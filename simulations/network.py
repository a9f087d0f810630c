"""The one place for what a network does to datagrams and streams on the way."""

import dataclasses
import random
from collections.abc import Collection, Sequence

from protocol.config import MILLISECOND
from protocol.identity import Address
from simulations.chance import MILLION, between, is_drawn
from simulations.host import Host
from simulations.latency import DRAW_BITS, Delay, Path, Regions, even
from simulations.lines import DATAGRAM_OVERHEAD_BYTES, Line, LineOptions
from simulations.nat import Nat, NatKind


@dataclasses.dataclass(slots=True, kw_only=True)
class NetworkOptions:
    """Times in nanoseconds, shares in parts per million."""

    delay: Delay = even(MILLISECOND // 2, 2 * MILLISECOND)  # noqa: RUF009  # it is immutable
    """One way, where no pair of regions says otherwise."""
    loss_ppm: int = 0
    """Of datagrams, everywhere. Streams are TCP: they lose nothing."""
    duplicate_ppm: int = 0
    reorder_ppm: int = 0
    """Of datagrams: so many are held up ..."""
    reorder_ns: tuple[int, int] = (MILLISECOND, 20 * MILLISECOND)
    """... by so much beside their delay, so that later ones overtake them."""
    stream_round_trips: int = 4
    """How many delays a stream exchange takes (TCP, TLS, request, answer)."""
    stream_timeout_ns: int = 5_000 * MILLISECOND
    """After this an exchange without an answer has failed."""
    regions: Regions = dataclasses.field(default_factory=Regions)
    line: LineOptions = LineOptions()  # noqa: RUF009  # it is immutable
    nat_ppm: tuple[tuple[NatKind, int], ...] = ()
    """Which share of the hosts is behind which translator: the last ones, so never host 0."""


class Network:
    """Decides delays, loss and cuts; draws only from its own generator."""

    def __init__(
        self, options: NetworkOptions, rng: random.Random, hosts: Sequence[Host] = ()
    ) -> None:
        self.options = options
        self._rng = rng
        self._by_address = {host.address: host for host in hosts}
        size = len(hosts)
        self._region_of = options.regions.places(size) if options.regions else []
        line = options.line
        self._up = self._down = {}
        if line.is_limited:
            self._up = {n: Line(line.up_bytes_per_s, line.queue_bytes) for n in range(size)}
            self._down = {n: Line(line.down_bytes_per_s, line.queue_bytes) for n in range(size)}
        self._nats: dict[int, Nat] = {}
        self._mapped: dict[Address, Host] = {}
        for kind, ppm in options.nat_ppm:
            first = size - len(self._nats)
            count = min(size * ppm // MILLION, first - 1)
            self._nats.update((host, Nat(kind)) for host in range(first - count, first))
        self._is_healed = False
        """Whether paths lose nothing any more."""
        self._sides: dict[int, int] = {}
        self._cuts: dict[int, tuple[int, ...]] = {}
        """By which cuts a host is cut off: only who is inside the same ones reaches it."""
        self._cuts_made = 0
        self._blocks: dict[tuple[int, int], int] = {}
        self._host_loss_ppm: dict[int, int] = {}
        self._slow_readers: dict[int, Line] = {}
        """What hosts take in of all streams together."""
        self._unplugged: dict[int, None] = {}

    def move(self, host: Host) -> None:
        """A host takes an address that it never had."""
        del self._by_address[host.address]
        host.move()
        self._by_address[host.address] = host

    # ---- faults ----

    def cut(self, sides: dict[int, int]) -> None:
        """Partition: hosts with different side numbers do not reach each other; {} heals."""
        self._sides = dict(sides)

    def block(self, sources: Collection[int], targets: Collection[int]) -> None:
        """One-way cut, on top of those there are: nothing from `sources` reaches `targets`. A way
        that is cut twice is open when both have ended.
        """
        for source in sources:
            for target in targets:
                if target != source:
                    way = (source, target)
                    self._blocks[way] = self._blocks.get(way, 0) + 1

    def unblock(self, sources: Collection[int] = (), targets: Collection[int] = ()) -> None:
        """End these one-way cuts, or all."""
        if not sources:
            self._blocks.clear()
        for source in sources:
            for target in targets:
                left = self._blocks.pop((source, target), 0) - 1
                if left > 0:
                    self._blocks[source, target] = left

    def separate(self, hosts: Collection[int]) -> int:
        """Cut these off from all others, but not from each other, on top of the cuts there are.
        What this returns is for `rejoin`.
        """
        self._cuts_made += 1
        for host in hosts:
            self._cuts[host] = (*self._cuts.get(host, ()), self._cuts_made)
        return self._cuts_made

    def rejoin(self, cut: int) -> None:
        """The end of one `separate`; of one that has ended, nothing."""
        for host, cuts in list(self._cuts.items()):
            left = tuple(number for number in cuts if number != cut)
            if left:
                self._cuts[host] = left
            else:
                del self._cuts[host]

    def set_host_loss(self, host: int, loss_ppm: int) -> None:
        """A bad line: this share of its datagrams is lost, in each direction; 0 mends it."""
        if loss_ppm:
            self._host_loss_ppm[host] = loss_ppm
        else:
            self._host_loss_ppm.pop(host, None)

    def set_reading(self, host: int, bytes_per_s: int | None) -> None:
        """Its process takes so much from its streams, whatever the line carries; None: all at once.
        Datagrams are read as ever.
        """
        if bytes_per_s is None:
            self._slow_readers.pop(host, None)
        else:
            self._slow_readers[host] = Line(bytes_per_s, 0)

    def unplug(self, host: int) -> None:
        """Its own interface is down: nothing comes, and its system refuses to send."""
        self._unplugged[host] = None

    def plug_in(self, host: int) -> None:
        """The end of `unplug`."""
        self._unplugged.pop(host, None)

    def heal(self) -> None:
        """End every fault: nothing is cut, lost, doubled or overtaken. Delays, access lines and
        translators stay as they are.
        """
        options = self.options
        options.loss_ppm = options.duplicate_ppm = options.reorder_ppm = 0
        self._is_healed = True
        self._sides.clear()
        self._cuts.clear()
        self._blocks.clear()
        self._host_loss_ppm.clear()
        self._slow_readers.clear()
        self._unplugged.clear()

    # ---- ways ----

    def is_connected(self, source: int, target: int) -> bool:
        """Whether a path exists now, in this direction."""
        if not (self._sides or self._cuts or self._blocks or self._unplugged):
            return True
        if self._sides.get(source, 0) != self._sides.get(target, 0):
            return False
        if self._cuts.get(source) != self._cuts.get(target):
            return False
        if (source, target) in self._blocks:
            return False
        return source not in self._unplugged and target not in self._unplugged

    def is_unplugged(self, host: int) -> bool:
        """Whether a host's own interface is down."""
        return host in self._unplugged

    def carry(
        self, source: Host, to: Address, size: int, now: int
    ) -> tuple[Host | None, Address, list[int]]:
        """A datagram of `size` bytes is sent: whose door it comes to, from which address it seems
        to be, and when its copies arrive, after `now`: none when lost, two when duplicated.
        """
        seen = self._translated(source, to, now) if self._nats else source.address
        target = self._by_address.get(to) or self._mapped.get(to)
        if target is None:
            return None, seen, []
        nat = self._nats.get(target.index) if self._nats else None
        if nat is not None and not nat.lets_in(target.address, to, seen, now):
            return target, seen, []
        delays = self.delays(source.index, target.index)
        if self._up and delays:
            delays = self._queued(source.index, target.index, size, now, delays)
        return target, seen, delays

    def _translated(self, source: Host, to: Address, now: int) -> Address:
        """From where a datagram seems to be, behind the sender's translator if it has one."""
        nat = self._nats.get(source.index)
        if nat is None:
            return source.address
        seen = nat.send(source.address, to, now)
        self._mapped[seen] = source
        return seen

    def _queued(
        self, source: int, target: int, size: int, now: int, delays: list[int]
    ) -> list[int]:
        """What waiting before both access lines makes of these delays."""
        size += DATAGRAM_OVERHEAD_BYTES
        up_ns = self._up[source].datagram(size, now)
        if up_ns is None:
            return []
        down = self._down[target]
        arriving: list[int] = []
        for delay in delays:
            down_ns = down.datagram(size, now + up_ns + delay)
            if down_ns is not None:
                arriving.append(up_ns + delay + down_ns)
        return arriving

    def delays(self, source: int, target: int) -> list[int]:
        """One-way delays of the copies that arrive: none when lost, two when duplicated."""
        if not self.is_connected(source, target):
            return []
        options = self.options
        path = self._path(source, target) if self._region_of else None
        arriving = [] if self._is_lost(source, target, path) else [self._delay(path)]
        is_doubled = is_drawn(self._rng, options.duplicate_ppm)
        if is_doubled and not self._is_lost(source, target, path):
            arriving.append(self._delay(path))
        if options.reorder_ppm:
            for copy, delay in enumerate(arriving):
                if is_drawn(self._rng, options.reorder_ppm):
                    arriving[copy] = delay + between(self._rng, options.reorder_ns)
        return arriving

    def stream_delay(self, source: Host, target: Host, size: int, now: int) -> int | None:
        """Time from opening a stream until its request of `size` bytes is read, or from the answer
        until it is read; None when there is no path, or lines are too full for it to come in time.
        TCP needs both directions.
        """
        one, other = source.index, target.index
        if not (self.is_connected(one, other) and self.is_connected(other, one)):
            return None
        path = self._path(one, other) if self._region_of else None
        delay = sum(self._delay(path) for _ in range(self.options.stream_round_trips - 1))
        patience_ns = self.options.stream_timeout_ns
        if (reader := self._slow_readers.get(other)) is not None:
            read_ns = reader.stream(size, now + delay, patience_ns)
            if read_ns is None:
                return None
            delay += read_ns
        if not self._up:
            return delay
        up_ns = self._up[one].stream(size, now, patience_ns)
        if up_ns is None:
            return None
        down_ns = self._down[other].stream(size, now + delay + up_ns, patience_ns)
        return None if down_ns is None else delay + up_ns + down_ns

    def lets_streams_in(self, target: Host) -> bool:
        """Whether others can open streams to it: not through a translator."""
        return target.index not in self._nats

    def _path(self, source: int, target: int) -> Path | None:
        return self.options.regions.path(self._region_of[source], self._region_of[target])

    def _is_lost(self, source: int, target: int, path: Path | None) -> bool:
        if is_drawn(self._rng, self.options.loss_ppm):
            return True
        if path is not None and not self._is_healed and is_drawn(self._rng, path.loss_ppm):
            return True
        if not self._host_loss_ppm:
            return False
        return any(
            is_drawn(self._rng, self._host_loss_ppm.get(host, 0)) for host in (source, target)
        )

    def _delay(self, path: Path | None) -> int:
        delay = self.options.delay if path is None else path.delay
        return delay.at(self._rng.getrandbits(DRAW_BITS))
