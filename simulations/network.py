"""The one place for what a network does to datagrams and streams on the way."""

import dataclasses
import random

from protocol.config import MILLISECOND


@dataclasses.dataclass(slots=True, kw_only=True)
class NetworkOptions:
    """One-way delays in nanoseconds, shares in parts per million."""

    delay_min_ns: int = MILLISECOND // 2
    delay_max_ns: int = 2 * MILLISECOND
    loss_ppm: int = 0
    duplicate_ppm: int = 0
    stream_round_trips: int = 4
    """How many delays a stream exchange takes (TCP, TLS, request, answer)."""
    stream_timeout_ns: int = 5_000 * MILLISECOND


class Network:
    """Decides delays, loss and cuts; draws only from its own generator."""

    def __init__(self, options: NetworkOptions, rng: random.Random) -> None:
        self.options = options
        self._rng = rng
        self._sides: dict[int, int] = {}

    def cut(self, sides: dict[int, int]) -> None:
        """Partition: hosts with different side numbers do not reach each other; {} heals."""
        self._sides = dict(sides)

    def is_connected(self, source: int, target: int) -> bool:
        """Whether a path exists now."""
        return self._sides.get(source, 0) == self._sides.get(target, 0)

    def delays(self, source: int, target: int) -> list[int]:
        """One-way delays of the copies that arrive: none when lost, two when duplicated."""
        if not self.is_connected(source, target):
            return []
        copies = 1 + (self._rng.getrandbits(20) * 1_000_000 >> 20 < self.options.duplicate_ppm)
        arriving = [self._delay() for _ in range(copies)]
        return [
            delay
            for delay in arriving
            if self._rng.getrandbits(20) * 1_000_000 >> 20 >= self.options.loss_ppm
        ]

    def stream_delay(self, source: int, target: int) -> int | None:
        """Time from opening a stream until its request is read; None when there is no path."""
        if not self.is_connected(source, target):
            return None
        return sum(self._delay() for _ in range(self.options.stream_round_trips - 1))

    def _delay(self) -> int:
        low, high = self.options.delay_min_ns, self.options.delay_max_ns
        return low + (self._rng.getrandbits(32) * (high - low) >> 32)
