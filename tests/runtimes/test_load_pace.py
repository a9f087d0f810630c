"""How long a load is thought to take."""

from runtimes.load_pace import BYTES_PER_S, START_S, LoadPace

GB = 10**9


def test_before_anything_was_seen_a_slow_disk_is_assumed() -> None:
    """And a worker takes a moment to begin."""
    assert LoadPace().expected_s(0) == START_S
    assert LoadPace().expected_s(3 * BYTES_PER_S) == START_S + 3


def test_it_learns_from_loads_that_say_something() -> None:
    """Not from small ones, whose time is that of the worker's beginning."""
    pace = LoadPace()
    pace.note(1_000, 30.0)
    assert pace.expected_s(GB) == LoadPace().expected_s(GB)
    for _ in range(10):
        pace.note(4 * GB, START_S + 2.0)
    assert START_S + 0.74 < pace.expected_s(GB) < START_S + 0.76


def test_a_load_that_took_no_time_promises_no_wonders() -> None:
    """What was in the page cache says little of 40 GB on a disk."""
    pace = LoadPace()
    pace.note(60_000_000, 0.9)
    assert pace.expected_s(40 * GB) > 100
    for _ in range(50):
        pace.note(1_000 * GB, 0.001)
    assert pace.expected_s(40 * GB) > START_S + 3.9


def test_what_is_left_follows_from_what_is_done() -> None:
    """Once enough is done to tell; before that, from what is expected; it is never nothing."""
    pace = LoadPace()
    assert pace.left_s(3 * BYTES_PER_S, 1.0, 0.0) == 3.0
    assert pace.left_s(3 * BYTES_PER_S, 90.0, 0.05) == START_S
    assert pace.left_s(3 * BYTES_PER_S, 30.0, 0.75) == 10.0
