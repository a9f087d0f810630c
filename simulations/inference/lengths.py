"""The one place for how long prompts and answers are, in tokens."""

import dataclasses
import functools
import random
from typing import Final

from simulations.chance import below, exp, normal

_MEAN_DRAWS: Final = 1 << 14
"""Draws for the mean of a distribution that is cut off; its error is about 1 % with sigma 1."""


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """Always the same."""

    tokens: int

    def draw(self, rng: random.Random) -> int:
        """One length."""
        del rng
        return self.tokens

    def mean_milli(self) -> int:
        """Mean in thousandths of a token."""
        return self.tokens * 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class Uniform:
    """Any length from `low` to `high`."""

    low: int
    high: int

    def draw(self, rng: random.Random) -> int:
        """One length."""
        return self.low + below(rng, self.high - self.low + 1)

    def mean_milli(self) -> int:
        """Mean in thousandths of a token."""
        return (self.low + self.high) * 500


@dataclasses.dataclass(frozen=True, slots=True)
class LogNormal:
    """Its logarithm is normal around that of `median`; cut off at 1 and at `high`."""

    median: int
    sigma_ppm: int
    """Deviation of the logarithm, in millionths."""
    high: int

    def draw(self, rng: random.Random) -> int:
        """One length."""
        power = normal(rng) * self.sigma_ppm // 1_000_000
        return min(max(1, self.median * exp(power) >> 32), self.high)

    def mean_milli(self) -> int:
        """Mean in thousandths of a token, as drawn: what is cut off has no formula here."""
        return _drawn_mean_milli(self)


@functools.lru_cache(maxsize=64)
def _drawn_mean_milli(lengths: LogNormal) -> int:
    rng = random.Random(0)  # noqa: S311  # a fixed one: the mean is no matter of a run's seed
    return sum(lengths.draw(rng) for _ in range(_MEAN_DRAWS)) * 1_000 // _MEAN_DRAWS


@dataclasses.dataclass(frozen=True, slots=True)
class Empirical:
    """One of those that were seen, each as likely."""

    values: tuple[int, ...]

    def draw(self, rng: random.Random) -> int:
        """One length."""
        return self.values[below(rng, len(self.values))]

    def mean_milli(self) -> int:
        """Mean in thousandths of a token."""
        return sum(self.values) * 1_000 // len(self.values)


Lengths = Constant | Uniform | LogNormal | Empirical
