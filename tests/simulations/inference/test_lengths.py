"""How long prompts and answers are: means and quantiles against theory."""

import math
import random

import pytest

from simulations.inference.lengths import Constant, Empirical, Lengths, LogNormal, Uniform


def _drawn(lengths: Lengths, count: int = 20_000) -> list[int]:
    rng = random.Random(5)
    return sorted(lengths.draw(rng) for _ in range(count))


@pytest.mark.parametrize(
    ("lengths", "mean"),
    [
        (Constant(7), 7),
        (Uniform(10, 30), 20),
        (LogNormal(200, 500_000, 10**6), 200 * math.exp(0.125)),
        (LogNormal(300, 1_000_000, 10**6), 300 * math.exp(0.5)),
        (Empirical((1, 2, 9)), 4),
    ],
)
def test_means_are_those_of_theory(lengths: Lengths, mean: float) -> None:
    """What is stated, and what is drawn."""
    assert lengths.mean_milli() / 1_000 == pytest.approx(mean, rel=0.02)
    values = _drawn(lengths)
    assert sum(values) / len(values) == pytest.approx(mean, rel=0.03)


def test_the_log_normal_has_its_quantiles_and_bounds() -> None:
    """Median, one deviation up and down; never below 1, never above its bound."""
    values = _drawn(LogNormal(200, 1_000_000, 10**6))
    found = [values[int(len(values) * share)] for share in (0.1587, 0.5, 0.8413)]
    assert found == pytest.approx([200 / math.e, 200, 200 * math.e], rel=0.05)
    bounded = _drawn(LogNormal(2, 3_000_000, 50))
    assert (bounded[0], bounded[-1]) == (1, 50)


def test_uniform_and_empirical_give_only_what_they_have() -> None:
    """All of it."""
    assert sorted(set(_drawn(Uniform(3, 6)))) == [3, 4, 5, 6]
    assert sorted(set(_drawn(Empirical((5, 8))))) == [5, 8]
