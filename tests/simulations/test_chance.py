"""Samplers against theory: their moments and quantiles, in integers only."""

import math
import random

import pytest

from simulations.chance import ONE, below, exp, exponential, normal, shuffle

DRAWS = 40_000


def _quantiles(values: list[int], *shares: float) -> list[float]:
    ordered = sorted(values)
    return [ordered[int(len(ordered) * share)] / ONE for share in shares]


def test_the_exponential_is_one() -> None:
    """Mean, deviation and quantiles."""
    rng = random.Random(1)
    values = [exponential(rng) for _ in range(DRAWS)]
    mean = sum(values) / DRAWS / ONE
    assert mean == pytest.approx(1, abs=0.02)
    assert sum((v / ONE - mean) ** 2 for v in values) / DRAWS == pytest.approx(1, abs=0.05)
    shares = (0.1, 0.5, 0.9, 0.99)
    theory = [-math.log(1 - share) for share in shares]
    assert _quantiles(values, *shares) == pytest.approx(theory, rel=0.06)


def test_the_normal_is_one() -> None:
    """Mean, deviation and quantiles, on both sides."""
    rng = random.Random(2)
    values = [normal(rng) for _ in range(DRAWS)]
    assert sum(values) / DRAWS / ONE == pytest.approx(0, abs=0.02)
    assert sum((v / ONE) ** 2 for v in values) / DRAWS == pytest.approx(1, abs=0.03)
    found = _quantiles(values, 0.01, 0.1587, 0.5, 0.8413, 0.99)
    assert found == pytest.approx([-2.326, -1, 0, 1, 2.326], abs=0.06)


@pytest.mark.parametrize("power", [-20.0, -3.5, -1.0, 0.0, 0.1, 1.0, 2.718, 10.0, 20.0])
def test_exp_is_right(power: float) -> None:
    """To eight digits from 1 on; below to the last bits of its unit."""
    found = exp(round(power * ONE)) / ONE
    assert found == pytest.approx(math.exp(power), rel=3e-8, abs=2e-8)


def test_exp_has_bounds() -> None:
    """Nothing grows without end."""
    assert exp(10**6 * ONE) < 1 << 80
    assert exp(-(10**6) * ONE) == 0


def test_every_order_is_as_likely() -> None:
    """And nothing is lost."""
    rng = random.Random(3)
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(6_000):
        items = [0, 1, 2]
        shuffle(items, rng)
        seen[tuple(items)] = seen.get(tuple(items), 0) + 1
    assert len(seen) == 6
    assert all(900 < count < 1_100 for count in seen.values())
    assert sorted({below(rng, 3) for _ in range(100)}) == [0, 1, 2]
