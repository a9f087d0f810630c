"""Measured round trips, and the patience that follows from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import MILLISECOND, ProtocolConfig
from protocol.identity import NodeId
from protocol.round_trips import RoundTrips

MIN, MAX = 100 * MILLISECOND, 500 * MILLISECOND
ONE, TWO, THREE = (NodeId(bytes((n,)) * 32) for n in range(3))


def _round_trips() -> RoundTrips:
    return RoundTrips(MIN, MAX)


def test_the_defaults_leave_room_for_helpers() -> None:
    """The least patience is below the most, and that below the interval."""
    config = ProtocolConfig()
    assert config.probe_timeout_min_ns < config.probe_timeout_ns < config.probe_interval_ns


def test_unknown_members_get_the_longest_time() -> None:
    """Nothing is measured: nothing may be concluded."""
    assert _round_trips().smoothed_ns(ONE) is None
    assert _round_trips().timeout_ns(ONE) == MAX


def test_samples_are_smoothed_as_rfc_6298_says() -> None:
    """An eighth of the new sample into the mean, a quarter of the surprise into the deviation."""
    trips = RoundTrips(0, 10**12)
    trips.learn(ONE, 800)
    assert trips.smoothed_ns(ONE) == 800
    assert trips.timeout_ns(ONE) == 800 + 4 * 400
    trips.learn(ONE, 1600)
    assert trips.smoothed_ns(ONE) == 900
    # The surprise is measured against the mean before the sample: (3 * 400 + 800) / 4.
    assert trips.timeout_ns(ONE) == 900 + 4 * 500


@pytest.mark.parametrize(
    ("sample", "timeout"),
    [
        (MILLISECOND, MIN),
        (MIN // 3, MIN),
        (50 * MILLISECOND, 150 * MILLISECOND),
        (MAX // 3 + 2, MAX),
        (3600 * MAX, MAX),
    ],
)
def test_patience_is_bounded_both_ways(sample: int, timeout: int) -> None:
    """A near member's machine may be busy; a far one gets no more than the configured time."""
    trips = _round_trips()
    trips.learn(ONE, sample)
    assert trips.timeout_ns(ONE) == timeout


def test_who_moves_is_unknown_again() -> None:
    """What was measured elsewhere says nothing; forgetting a stranger is nothing."""
    trips = _round_trips()
    trips.learn(ONE, MILLISECOND)
    trips.forget(ONE)
    trips.forget(ONE)
    assert trips.smoothed_ns(ONE) is None
    assert trips.timeout_ns(ONE) == MAX


def test_too_many_members_push_out_the_longest_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is bounded, and a member that answers stays in it."""
    monkeypatch.setattr("protocol.round_trips.ROUND_TRIPS_MAX", 2)
    trips = _round_trips()
    for node in (ONE, TWO, ONE, THREE):
        trips.learn(node, MILLISECOND)
    assert trips.smoothed_ns(TWO) is None
    assert trips.smoothed_ns(ONE) == trips.smoothed_ns(THREE) == MILLISECOND
    for node in (THREE, ONE, ONE):
        trips.learn(node, MILLISECOND)
        assert trips.smoothed_ns(ONE) == trips.smoothed_ns(THREE) == MILLISECOND


@given(st.lists(st.integers(1, 2**40), min_size=1))
def test_the_mean_stays_among_the_samples(samples: list[int]) -> None:
    """Integers alone, and within what was measured (but for what rounding takes)."""
    trips = _round_trips()
    for sample in samples:
        trips.learn(ONE, sample)
    mean = trips.smoothed_ns(ONE)
    assert mean is not None
    assert min(samples) - 8 <= mean <= max(samples)
    assert MIN <= trips.timeout_ns(ONE) <= MAX
