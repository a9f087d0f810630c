"""How long requests take, and what follows for who waits."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.service_times import OUTPUT_TOKENS, ServiceTimes


def _known(token_ns: int = 10) -> ServiceTimes:
    times = ServiceTimes()
    times.note(1_000 * token_ns, 1_000)
    return times


def test_nothing_is_said_before_anything_was_seen() -> None:
    """Nor from a request too short to tell."""
    times = ServiceTimes()
    times.note(10**9, 3)
    assert times.wait_ns([100], 1, 0) is None
    assert times.output_tokens == OUTPUT_TOKENS


def test_what_is_seen_is_smoothed() -> None:
    """The first sample counts whole, later ones move it by an eighth."""
    times = _known(100)
    assert times.wait_ns([10], 1, 0) == 1_000
    times.note(180 * 1_000, 1_000)
    assert times.wait_ns([10], 1, 0) == 1_100


def test_the_usual_answer_is_learned() -> None:
    """It comes near to what answers are, and stays there."""
    times = ServiceTimes()
    for _ in range(1_000):
        times.note_output(20)
    assert times.output_tokens == 20


def test_waits_pour_work_into_the_slots() -> None:
    """A free slot first, then where it is done first."""
    times = _known()
    assert times.wait_ns([], 1, 0) == 0
    assert times.wait_ns([50], 2, 0) == 0, "a slot is free"
    assert times.wait_ns([50], 2, 30) == 300, "what is ahead goes there"
    assert times.wait_ns([50], 2, 70) == 600, "50 beside the other one, then 10 each"
    assert times.wait_ns([10, 20, 60], 3, 0) == 100
    assert times.wait_ns([10, 20, 60], 3, 30) == 300
    assert times.wait_ns([10, 20, 60], 2, 0) == 200, "one more runs than may"


def test_waits_are_put_right_by_how_they_went() -> None:
    """Half as long again as computed, or less; never by more than twice; the latest count most."""
    times = _known()
    assert times.expected_ns(1_000) == 1_000
    for _ in range(10):
        times.note_wait(1_000, 1_500)
    assert 1_490 <= times.expected_ns(1_000) <= 1_500
    for _ in range(200):
        times.note_wait(1_000, 900)
    assert 890 <= times.expected_ns(1_000) <= 910
    for _ in range(1_000):
        times.note_wait(1_000, 10**9)
    assert times.expected_ns(1_000) == 2_000
    for _ in range(1_000):
        times.note_wait(1_000, 0)
    assert times.expected_ns(1_000) == 500


@given(st.lists(st.integers(0, 10_000), max_size=8), st.integers(1, 8), st.integers(0, 10**6))
def test_more_work_is_never_a_shorter_wait(running: list[int], slots: int, ahead: int) -> None:
    """And all the work that there is takes no longer than one slot would."""
    times = _known(1)
    wait, longer = times.wait_ns(running, slots, ahead), times.wait_ns(running, slots, ahead + 100)
    assert wait is not None
    assert longer is not None
    assert 0 <= wait <= longer <= sum(running) + ahead + 100
