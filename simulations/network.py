"""The one place for what a network does to datagrams and streams on the way."""

import dataclasses
import random
from collections.abc import Collection
from typing import Final

from protocol.config import MILLISECOND

_MILLION: Final = 1_000_000


@dataclasses.dataclass(slots=True, kw_only=True)
class NetworkOptions:
    """One-way delays in nanoseconds, shares in parts per million."""

    delay_min_ns: int = MILLISECOND // 2
    delay_max_ns: int = 2 * MILLISECOND
    loss_ppm: int = 0
    """Of datagrams, everywhere. Streams are TCP: they lose nothing."""
    duplicate_ppm: int = 0
    stream_round_trips: int = 4
    """How many delays a stream exchange takes (TCP, TLS, request, answer)."""
    stream_timeout_ns: int = 5_000 * MILLISECOND
    """After this an exchange without an answer has failed."""


class Network:
    """Decides delays, loss and cuts; draws only from its own generator."""

    def __init__(self, options: NetworkOptions, rng: random.Random) -> None:
        self.options = options
        self._rng = rng
        self._sides: dict[int, int] = {}
        self._blocks: dict[tuple[int, int], None] = {}
        self._host_loss_ppm: dict[int, int] = {}
        self._unplugged: dict[int, None] = {}

    # ---- faults ----

    def cut(self, sides: dict[int, int]) -> None:
        """Partition: hosts with different side numbers do not reach each other; {} heals."""
        self._sides = dict(sides)

    def block(self, sources: Collection[int], targets: Collection[int]) -> None:
        """One-way cut, on top of those there are: nothing from `sources` reaches `targets`."""
        for source in sources:
            self._blocks.update(((source, target), None) for target in targets if target != source)

    def unblock(self, sources: Collection[int] = (), targets: Collection[int] = ()) -> None:
        """End these one-way cuts, or all."""
        if not sources:
            self._blocks.clear()
        for source in sources:
            for target in targets:
                self._blocks.pop((source, target), None)

    def separate(self, hosts: Collection[int]) -> None:
        """Cut these off from all others, but not from each other."""
        side = 1 + max(self._sides.values(), default=0)
        self._sides.update(dict.fromkeys(hosts, side))

    def rejoin(self, hosts: Collection[int]) -> None:
        """The end of `separate`."""
        for host in hosts:
            self._sides.pop(host, None)

    def set_host_loss(self, host: int, loss_ppm: int) -> None:
        """A bad line: this share of its datagrams is lost, in each direction; 0 mends it."""
        if loss_ppm:
            self._host_loss_ppm[host] = loss_ppm
        else:
            self._host_loss_ppm.pop(host, None)

    def unplug(self, host: int) -> None:
        """Its own interface is down: nothing comes, and its system refuses to send."""
        self._unplugged[host] = None

    def plug_in(self, host: int) -> None:
        """The end of `unplug`."""
        self._unplugged.pop(host, None)

    # ---- ways ----

    def is_connected(self, source: int, target: int) -> bool:
        """Whether a path exists now, in this direction."""
        if not (self._sides or self._blocks or self._unplugged):
            return True
        if self._sides.get(source, 0) != self._sides.get(target, 0):
            return False
        if (source, target) in self._blocks:
            return False
        return source not in self._unplugged and target not in self._unplugged

    def is_unplugged(self, host: int) -> bool:
        """Whether a host's own interface is down."""
        return host in self._unplugged

    def delays(self, source: int, target: int) -> list[int]:
        """One-way delays of the copies that arrive: none when lost, two when duplicated."""
        if not self.is_connected(source, target):
            return []
        arriving = [] if self._is_lost(source, target) else [self._delay()]
        duplicate_ppm = self.options.duplicate_ppm
        if duplicate_ppm and self._is_drawn(duplicate_ppm) and not self._is_lost(source, target):
            arriving.append(self._delay())
        return arriving

    def stream_delay(self, source: int, target: int) -> int | None:
        """Time from opening a stream until its request is read; None when there is no path.

        TCP needs both directions.
        """
        if not (self.is_connected(source, target) and self.is_connected(target, source)):
            return None
        return sum(self._delay() for _ in range(self.options.stream_round_trips - 1))

    def _is_lost(self, source: int, target: int) -> bool:
        loss_ppm = self.options.loss_ppm
        if loss_ppm and self._is_drawn(loss_ppm):
            return True
        if not self._host_loss_ppm:
            return False
        return any(
            host in self._host_loss_ppm and self._is_drawn(self._host_loss_ppm[host])
            for host in (source, target)
        )

    def _is_drawn(self, ppm: int) -> bool:
        return ppm > 0 and self._rng.getrandbits(20) * _MILLION >> 20 < ppm

    def _delay(self) -> int:
        low, high = self.options.delay_min_ns, self.options.delay_max_ns
        return low + (self._rng.getrandbits(32) * (high - low) >> 32)
