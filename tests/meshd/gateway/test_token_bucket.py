"""So many at once, so many per second on average."""

import pytest

from meshd.gateway.token_bucket import TokenBuckets


def take(buckets: TokenBuckets, now: float, key: str = "k") -> float:
    """From a bucket of three that fills by one in two seconds."""
    return buckets.take(key, now, burst=3, per_s=0.5)


def test_a_burst_and_then_the_rate() -> None:
    """What is left is what was saved; the wait is exact."""
    buckets = TokenBuckets()
    assert [take(buckets, 100.0) for _ in range(3)] == [0.0] * 3
    assert take(buckets, 100.0) == 2.0
    assert take(buckets, 101.5) == pytest.approx(0.5)
    assert take(buckets, 102.0) == 0.0
    assert take(buckets, 102.0) == pytest.approx(2.0)


def test_a_refusal_costs_nothing() -> None:
    """Who asks too often is served as soon as who waits."""
    buckets = TokenBuckets()
    for _ in range(3):
        take(buckets, 0.0)
    for tenth in range(1, 20):
        assert take(buckets, tenth / 10) > 0.0
    assert take(buckets, 2.0) == 0.0


def test_no_more_than_a_burst_is_saved() -> None:
    """However long nothing came."""
    buckets = TokenBuckets()
    take(buckets, 0.0)
    assert [take(buckets, 1e9) > 0.0 for _ in range(4)] == [False, False, False, True]


def test_keys_do_not_share() -> None:
    """Each has a bucket of its own."""
    buckets = TokenBuckets()
    for _ in range(3):
        take(buckets, 0.0, "a")
    assert take(buckets, 0.0, "a") > 0.0
    assert take(buckets, 0.0, "b") == 0.0


def test_the_table_is_bounded() -> None:
    """The one that was longest not used is forgotten."""
    buckets = TokenBuckets(3)
    for key in "abc":
        for _ in range(3):
            take(buckets, 0.0, key)
    assert take(buckets, 0.0, "a") > 0.0  # used last now
    take(buckets, 0.0, "d")
    assert len(buckets) == 3
    assert take(buckets, 0.0, "a") > 0.0
    assert take(buckets, 0.0, "b") == 0.0
    assert len(buckets) == 3
