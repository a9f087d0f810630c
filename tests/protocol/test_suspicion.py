"""The arithmetic of one suspicion."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import ProtocolConfig
from protocol.identity import NodeId
from protocol.suspicion import (
    CONFIRMATIONS_MAX,
    Suspicion,
    confirmations_wanted,
    log10_milli,
    suspicion_timeout,
    timeout_bounds,
)

S = 10**9


@pytest.mark.parametrize(
    ("members", "milli"),
    [(5, 1000), (10, 1000), (50, 1698), (100, 2000), (500, 2698), (1000, 3000)],
)
def test_memberlists_vectors_for_the_shortest_suspicion(members: int, milli: int) -> None:
    """suspicion(3, N, 1 s) / 3 of memberlist's own tests."""
    config = dataclasses.replace(ProtocolConfig(), suspicion_mult=3)
    shortest, longest = timeout_bounds(config, members)
    assert shortest == 3 * milli * S // 1000
    assert longest == 6 * shortest


@pytest.mark.parametrize(("confirmations", "seconds"), [(0, 30), (1, 16), (2, 7.81), (3, 2)])
def test_memberlists_vectors_for_confirmations(confirmations: int, seconds: float) -> None:
    """k = 3, from 2 s to 30 s: what memberlist's remainingSuspicionTime adds to what passed."""
    timeout = suspicion_timeout(2 * S, 30 * S, confirmations, 3)
    assert timeout == pytest.approx(seconds * S, abs=2 * S // 1000)


@pytest.mark.parametrize(("members", "wanted"), [(1, 0), (2, 0), (3, 0), (4, 2), (5, 2), (999, 2)])
def test_small_meshes_want_no_confirmations(members: int, wanted: int) -> None:
    """Where there are not enough others, one accuser's time-out is the shortest."""
    assert confirmations_wanted(ProtocolConfig(), members) == wanted


def test_wanted_confirmations_are_capped_by_the_table() -> None:
    """An absurd multiplier does not index outside the logarithms."""
    config = dataclasses.replace(ProtocolConfig(), suspicion_mult=100)
    assert confirmations_wanted(config, 10_000) == CONFIRMATIONS_MAX


@given(st.integers(1, 10**9))
def test_logarithms_by_integers(count: int) -> None:
    """Truncated to the third decimal, on every machine."""
    assert -1e-4 <= 1000 * math.log10(count) - log10_milli(count) < 1 + 1e-4


@given(st.integers(1, 10**6), st.integers(1, 50), st.integers(0, 7))
def test_timeouts_stay_in_bounds_and_fall(shortest: int, factor: int, wanted: int) -> None:
    """Every confirmation shortens (or keeps), none goes below the shortest."""
    longest = shortest * factor
    timeouts = [suspicion_timeout(shortest, longest, c, wanted) for c in range(10)]
    assert timeouts == sorted(timeouts, reverse=True)
    assert timeouts[0] == (longest if wanted else shortest)
    assert timeouts[-1] == shortest


def test_each_accuser_counts_once() -> None:
    """Two words of the same key are one suspicion; after enough there is nothing to pass on."""
    suspicion = Suspicion(1, 100, 4 * S, 24 * S, 2)
    one, two, three, four = (NodeId(bytes((n,)) * 32) for n in range(4))
    assert suspicion.confirm(one)
    assert suspicion.deadline_ns == 100 + 24 * S
    assert not suspicion.confirm(one)
    assert suspicion.deadline_ns == 100 + 24 * S
    assert suspicion.confirm(two)
    assert 100 + 4 * S < suspicion.deadline_ns < 100 + 24 * S
    assert suspicion.confirm(three)
    assert suspicion.deadline_ns == 100 + 4 * S
    assert not suspicion.confirm(four)
