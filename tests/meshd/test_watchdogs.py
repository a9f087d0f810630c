"""How long a request may wait: limits that follow what was seen."""

import math

import pytest

from meshd.watchdogs import (
    BRISK_CONTACT_S,
    CONTACT_S,
    PACE_FACTOR,
    PACE_S_MAX,
    PACE_S_MIN,
    PREFILL_FACTOR,
    PREFILL_S_MAX,
    PREFILL_S_MIN,
    TokenWatch,
    contact_s,
)
from protocol.speeds import Speed
from runtimes.base import Chunk, Started

TOKEN = Chunk((1,), "x")


def _prompt(tokens: int) -> Started:
    return Started((1,) * tokens)


def test_a_queue_is_not_watched() -> None:
    """However long it takes: its node is heard meanwhile, or found to be gone."""
    assert TokenWatch(None).limit_s == math.inf


@pytest.mark.parametrize(
    ("tokens", "before", "prefill_ms", "limit_s"),
    [
        (10, 0, 1, PREFILL_S_MIN),
        (10_000, 0, 1, PREFILL_FACTOR * 10.0),
        (4_000, 6_000, 1, PREFILL_FACTOR * 10.0),
        (10_000, 0, 100, PREFILL_S_MAX),
    ],
)
def test_a_long_prompt_on_a_slow_node_has_its_time(
    tokens: int, before: int, prefill_ms: int, limit_s: float
) -> None:
    """By the speed that was learned; what another run has generated is prefilled too."""
    watch = TokenWatch(Speed(prefill_ms * 1_000_000, 1), before)
    watch.note(_prompt(tokens), 5.0)
    assert watch.limit_s == limit_s


def test_where_nothing_is_known_the_worst_is_assumed() -> None:
    """A large model on an old processor."""
    watch = TokenWatch(None)
    watch.note(_prompt(4_000), 0.0)
    assert watch.limit_s == PREFILL_S_MAX


def test_images_have_their_time() -> None:
    """Speeds are learned of text: how long one is encoded does not follow from them."""
    watch = TokenWatch(Speed(1, 1), has_images=True)
    watch.note(_prompt(10), 0.0)
    assert watch.limit_s == PREFILL_S_MAX


def test_tokens_are_waited_for_by_the_pace_that_was_shown() -> None:
    """Not by the wait for the first one; slow ones count for a while; floor and ceiling hold."""
    watch = TokenWatch(None)
    watch.note(_prompt(10), 0.0)
    watch.note(TOKEN, 50.0)
    assert watch.limit_s == PACE_S_MIN
    watch.note(TOKEN, 2.0)
    assert watch.limit_s == PACE_FACTOR * 2.0
    watch.note(TOKEN, 0.1)
    assert PACE_S_MIN < watch.limit_s < PACE_FACTOR * 2.0
    for _ in range(100):
        watch.note(TOKEN, 0.1)
    assert watch.limit_s == PACE_S_MIN
    watch.note(TOKEN, 1_000.0)
    assert watch.limit_s == PACE_S_MAX


def test_a_node_far_away_has_longer_to_be_reached() -> None:
    """And one beside which nobody could be asked has all the time there is."""
    near, far = (
        contact_s(1_000_000, is_only_chance=False),
        contact_s(150_000_000, is_only_chance=False),
    )
    assert BRISK_CONTACT_S < near < far <= CONTACT_S
    assert contact_s(10**10, is_only_chance=False) == contact_s(0, is_only_chance=True) == CONTACT_S
