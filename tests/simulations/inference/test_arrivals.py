"""When requests come: as many as the rate says, and as unevenly as the kind says."""

import itertools
import random

import pytest

from protocol.config import SECOND
from simulations.inference.arrivals import DAY, MILLION, Bursty, Diurnal, Poisson, times

RATE_UHZ = 10 * MILLION
SPAN_S = 4_000


def _counts(kind: Poisson | Bursty | Diurnal, seed: int = 1) -> list[int]:
    """Requests in each second."""
    coming = times(kind.phases(random.Random(seed)), RATE_UHZ, random.Random(seed + 1))
    counts = [0] * SPAN_S
    for at_ns in itertools.takewhile(lambda at_ns: at_ns < SPAN_S * SECOND, coming):
        counts[at_ns // SECOND] += 1
    return counts


def _dispersion(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 for count in counts) / len(counts) / mean


def test_poisson_is_as_even_as_chance() -> None:
    """Its counts have their mean as variance, its gaps half below ln 2 of the mean."""
    counts = _counts(Poisson())
    assert sum(counts) / SPAN_S == pytest.approx(10, rel=0.02)
    assert _dispersion(counts) == pytest.approx(1, abs=0.1)
    coming = times(Poisson().phases(random.Random(1)), RATE_UHZ, random.Random(2))
    moments = list(itertools.islice(coming, 20_000))
    gaps = sorted(b - a for a, b in itertools.pairwise(moments))
    assert gaps[0] >= 0
    assert gaps[len(gaps) // 2] / SECOND == pytest.approx(0.0693, rel=0.03)


def test_bursts_keep_the_mean_and_are_uneven() -> None:
    """Silent in between where the factor is as large as it can be."""
    kind = Bursty(burst_ns=5 * SECOND, quiet_ns=15 * SECOND, factor_ppm=4 * MILLION)
    assert kind.quiet_ppm == 0
    counts = _counts(kind, 2)
    assert sum(counts) / SPAN_S == pytest.approx(10, rel=0.1)
    assert _dispersion(counts) > 10
    assert counts.count(0) / SPAN_S == pytest.approx(0.7, abs=0.1)
    mild = Bursty(burst_ns=5 * SECOND, quiet_ns=15 * SECOND, factor_ppm=2 * MILLION)
    assert mild.quiet_ppm == pytest.approx(666_666, abs=1)
    assert 1.5 < _dispersion(_counts(mild)) < _dispersion(counts)


def test_a_day_rises_and_falls() -> None:
    """Its parts have the mean as mean, noon nine times midnight."""
    assert sum(DAY) == len(DAY) * MILLION
    assert max(DAY) == DAY[12] == 9 * DAY[0]
    counts = _counts(Diurnal(period_ns=SPAN_S * SECOND // 2))
    assert sum(counts) / SPAN_S == pytest.approx(10, rel=0.02)
    hour = SPAN_S // 2 // 24
    night, noon = (sum(counts[part * hour : (part + 1) * hour]) for part in (0, 12))
    assert noon / night == pytest.approx(9, rel=0.25)


def test_one_seed_gives_the_same_times() -> None:
    """And another other ones."""
    kind = Bursty(burst_ns=SECOND, quiet_ns=SECOND, factor_ppm=2 * MILLION)
    assert _counts(kind, 7) == _counts(kind, 7) != _counts(kind, 8)
