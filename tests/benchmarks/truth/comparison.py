"""The one place for what two series of runs have in common: medians, how sure they are, the error.

From one fault to the first suspicion it takes as long as chance wants (an interval and an almost
exponential wait), so medians of 20 runs differ by a tenth by themselves. The steps after it hardly
vary; they are compared for themselves, and are what shows whether the simulator is right.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Final

from tests.benchmarks.membership.cases import Row

WITHIN_PERCENT: Final = 10.0
STEPS: Final = (("first suspect s", "first dead s"), ("first dead s", "last dead s"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure, of real daemons and of simulated ones."""

    figure: str
    real: float
    real_interval: tuple[float, float]
    """Where the true median is, 95 times of 100: by order statistics, whatever the distribution."""
    real_runs: int
    simulated: float
    simulated_runs: int

    @property
    def error_percent(self) -> float:
        """Of the prediction, signed."""
        return 100 * (self.simulated - self.real) / self.real

    @property
    def is_within(self) -> bool:
        """Whether the medians are near enough."""
        return abs(self.error_percent) <= WITHIN_PERCENT

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.is_within:
            return "pass"
        low, high = self.real_interval
        return "miss (within what chance does)" if low <= self.simulated <= high else "MISS"


def compare(real: Sequence[Row], simulated: Sequence[Row]) -> list[Comparison]:
    """Every time that both have, and the steps between; runs where it never came do not count."""
    real, simulated = [[_with_steps(row) for row in rows] for rows in (real, simulated)]
    figures: list[Comparison] = []
    for figure in dict.fromkeys(key for row in simulated for key in row):
        seen, foretold = _values(real, figure), _values(simulated, figure)
        if seen and foretold and statistics.median(seen) > 0:
            figures.append(
                Comparison(
                    figure=figure,
                    real=statistics.median(seen),
                    real_interval=median_interval(seen),
                    real_runs=len(seen),
                    simulated=statistics.median(foretold),
                    simulated_runs=len(foretold),
                )
            )
    return figures


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of values, equally far from both ends, that has the true median between
    them with 95 %; the least and the most where there are too few.
    """
    ordered = sorted(values)
    count = len(ordered)
    below, ways, drop = 0.0, 1, 0
    while drop < count // 2:
        below += ways / 2**count
        if 2 * below > 0.05:
            break
        drop += 1
        ways = ways * (count - drop + 1) // drop
    first = max(0, drop - 1)
    return ordered[first], ordered[count - 1 - first]


def _values(rows: Sequence[Row], figure: str) -> list[float]:
    return [value for row in rows if (value := row.get(figure)) is not None]


def _with_steps(row: Row) -> Row:
    steps: Row = {}
    for begin, end in STEPS:
        one, other = row.get(begin), row.get(end)
        if one is not None and other is not None:
            steps[f"{begin.removesuffix(' s')} to {end}"] = other - one
    return {**row, **steps}
