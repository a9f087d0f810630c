"""Prompt pieces are as long as time allows."""

from hypothesis import given
from hypothesis import strategies as st

from runtimes.llama.engine.batch import fair_shares
from runtimes.llama.pace import (
    BATCH_TOKENS,
    FIRST_PIECE_TOKENS,
    PIECE_TOKENS_MIN,
    Pace,
)


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


def decoded(pace: Pace, clock: Clock, tokens: int, seconds: float) -> None:
    """One decode that took so long."""
    pace.start()
    clock.now += seconds
    pace.end(tokens)


def test_a_fast_machine_fills_its_batches() -> None:
    """Careful at first, then all that a batch holds beside one token for each stream."""
    clock = Clock()
    pace = Pace(clock)
    assert pace.prompt_tokens(beside=0) == FIRST_PIECE_TOKENS
    decoded(pace, clock, FIRST_PIECE_TOKENS, 0.001)
    assert pace.prompt_tokens(beside=0) == BATCH_TOKENS
    assert pace.prompt_tokens(beside=8) == BATCH_TOKENS - 8
    larger = Pace(clock, 4 * BATCH_TOKENS)
    decoded(larger, clock, FIRST_PIECE_TOKENS, 0.001)
    assert larger.prompt_tokens(beside=8) == 4 * BATCH_TOKENS - 8


def test_a_slow_machine_takes_short_steps() -> None:
    """A quarter of a second beside streams, one second alone, in whole tiles of attention."""
    clock = Clock()
    pace = Pace(clock)
    for _ in range(20):
        decoded(pace, clock, 100, 0.25)
    assert pace.prompt_tokens(beside=4) == PIECE_TOKENS_MIN
    assert pace.prompt_tokens(beside=0) == 6 * PIECE_TOKENS_MIN
    for _ in range(20):
        decoded(pace, clock, 100, 60.0)
    assert pace.prompt_tokens(beside=4) == pace.prompt_tokens(beside=0) == PIECE_TOKENS_MIN


def test_a_decode_of_few_tokens_says_nothing() -> None:
    """Its time is that of reading the weights."""
    clock = Clock()
    pace = Pace(clock)
    decoded(pace, clock, 8, 5.0)
    assert pace.prompt_tokens(beside=0) == FIRST_PIECE_TOKENS


@given(st.lists(st.integers(1, 600), max_size=8), st.integers(0, 512), st.integers(1, 64))
def test_shares_are_fair_and_leave_no_crumbs(needs: list[int], room: int, least: int) -> None:
    """Never more than there is; who gets less than another needs less or keeps a whole piece."""
    shares = fair_shares(needs, room, least)
    assert sum(shares) <= room
    for need, share in zip(needs, shares, strict=True):
        assert 0 <= share <= need
        assert share + least >= min(need, max(shares))


def test_the_last_piece_is_a_whole_one() -> None:
    """500 of 520 would leave 20, each of which would cost as much as three."""
    assert fair_shares([520], 500, 64) == [456]
    assert fair_shares([520], 500) == [500]
    assert fair_shares([520, 100], 500, 64) == [400, 100]
