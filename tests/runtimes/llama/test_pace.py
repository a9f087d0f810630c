"""Prompt pieces are as long as time allows."""

from runtimes.llama.pace import (
    BATCH_TOKENS_MAX,
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
    assert pace.prompt_tokens(streams=0) == FIRST_PIECE_TOKENS
    decoded(pace, clock, FIRST_PIECE_TOKENS, 0.001)
    assert pace.prompt_tokens(streams=0) == BATCH_TOKENS_MAX
    assert pace.prompt_tokens(streams=8) == BATCH_TOKENS_MAX - 8


def test_a_slow_machine_takes_short_steps() -> None:
    """A quarter of a second beside streams, one second alone, in whole tiles of attention."""
    clock = Clock()
    pace = Pace(clock)
    for _ in range(20):
        decoded(pace, clock, 100, 0.25)
    assert pace.prompt_tokens(streams=4) == PIECE_TOKENS_MIN
    assert pace.prompt_tokens(streams=0) == 6 * PIECE_TOKENS_MIN
    for _ in range(20):
        decoded(pace, clock, 100, 60.0)
    assert pace.prompt_tokens(streams=4) == pace.prompt_tokens(streams=0) == PIECE_TOKENS_MIN


def test_a_decode_of_few_tokens_says_nothing() -> None:
    """Its time is that of reading the weights."""
    clock = Clock()
    pace = Pace(clock)
    decoded(pace, clock, 8, 5.0)
    assert pace.prompt_tokens(streams=0) == FIRST_PIECE_TOKENS
