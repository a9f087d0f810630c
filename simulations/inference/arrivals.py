"""The one place for when requests come.

Every process but a trace is a Poisson process whose rate changes: it is a sequence of phases, each
with its length and its rate as a share of the mean. Time runs from the scenario's beginning.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Final

from protocol.config import SECOND
from simulations.chance import exponential

MILLION: Final = 1_000_000
_ONE_ARRIVAL: Final = MILLION * SECOND
"""Microhertz times nanoseconds in which one arrival is expected."""

Phase = tuple[int, int]
"""(length in ns, rate in millionths of the mean rate)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Poisson:
    """Independent users: gaps are exponential."""

    def phases(self, rng: random.Random) -> Iterator[Phase]:
        """The same rate always."""
        del rng
        return itertools.repeat((3_600 * SECOND, MILLION))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bursty:
    """Bursts and quiet times, each of exponential length (a Markov-modulated Poisson process)."""

    burst_ns: int
    """Mean length of a burst."""
    quiet_ns: int
    """Mean length of the time between two."""
    factor_ppm: int
    """Rate in a burst over the mean rate, at most (burst + quiet) / burst: then quiet is silent."""

    @property
    def quiet_ppm(self) -> int:
        """Rate between bursts, so that the mean is the mean."""
        cycle_ns = self.burst_ns + self.quiet_ns
        return (MILLION * cycle_ns - self.factor_ppm * self.burst_ns) // self.quiet_ns

    def phases(self, rng: random.Random) -> Iterator[Phase]:
        """It begins anywhere in a cycle."""
        cycle_ns = self.burst_ns + self.quiet_ns
        is_burst = rng.getrandbits(32) * cycle_ns >> 32 < self.burst_ns
        while True:
            mean_ns, share = (
                (self.burst_ns, self.factor_ppm) if is_burst else (self.quiet_ns, self.quiet_ppm)
            )
            yield mean_ns * exponential(rng) >> 32, share
            is_burst = not is_burst


_RISE: Final = (200_000, 227_000, 307_000, 434_000, 600_000, 793_000)
_NOON: Final = (1_000_000, 1_207_000, 1_400_000, 1_566_000, 1_693_000, 1_773_000)
DAY: Final = (*_RISE, *_NOON, 1_800_000, *_NOON[:0:-1], 1_000_000, *_RISE[:0:-1])
"""Twenty-four parts of a day, 1 - 0.8 cos(part / 24 of a turn): it begins in the night."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Diurnal:
    """A day's rise and fall, over and over."""

    period_ns: int
    """Length of the day."""

    def phases(self, rng: random.Random) -> Iterator[Phase]:
        """Hour after hour."""
        del rng
        return itertools.cycle([(self.period_ns // len(DAY), share) for share in DAY])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request of a trace."""

    at_ns: int
    prompt_tokens: int
    output_tokens: int
    user: int
    gateway: int
    """Among the gateways, from 0."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """What came once comes again: times, lengths, users and gateways."""

    rows: tuple[Recorded, ...]
    """In order of time."""


Arrivals = Poisson | Bursty | Diurnal | Trace


def times(phases: Iterable[Phase], rate_uhz: int, rng: random.Random) -> Iterator[int]:
    """When requests come, in ns, without end; `rate_uhz` is the mean in requests per 10**6 s.

    One exponential is used up by what the rate adds to as time passes.
    """
    now, due = 0, _ONE_ARRIVAL * exponential(rng) >> 32
    for length_ns, share in phases:
        rate, end = rate_uhz * share // MILLION, now + length_ns
        while rate and due <= (end - now) * rate:
            now += due // rate
            yield now
            due = _ONE_ARRIVAL * exponential(rng) >> 32
        due -= (end - now) * rate
        now = end
