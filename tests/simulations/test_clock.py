"""A host's own clock."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.config import SECOND
from simulations.clock import Clock


def test_a_clock_drifts_from_when_it_is_told_to() -> None:
    """And not before; ended, it keeps what it gained."""
    clock = Clock(5 * SECOND)
    clock.drift(100_000, 10 * SECOND)
    assert clock.read(10 * SECOND) == 15 * SECOND
    assert clock.read(20 * SECOND) == 26 * SECOND
    clock.drift(0, 20 * SECOND)
    assert clock.read(30 * SECOND) == 36 * SECOND


@given(
    offset=st.integers(-(10**15), 10**15),
    drift=st.integers(-500_000, 500_000),
    since=st.integers(0, 10**15),
    shown_later=st.integers(0, 10**13),
)
def test_when_is_the_first_moment_at_which_it_shows_that(
    offset: int, drift: int, since: int, shown_later: int
) -> None:
    """So that no deadline is reached too soon, or later than need be."""
    clock = Clock(offset)
    clock.drift(drift, since)
    shown = clock.read(since) + shown_later
    when = clock.when(shown)
    assert clock.read(when) >= shown
    assert when <= since or clock.read(when - 1) < shown
