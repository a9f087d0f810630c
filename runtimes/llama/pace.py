"""The one place that decides how many prompt tokens go into one decode: as many as time allows.

A decode cannot be interrupted. So while others wait for their next token, it has as many prompt
tokens as this machine works off in a quarter of a second; and a second's worth when nobody waits,
so that a request that comes, or a cancel, is seen soon.
"""

from collections.abc import Callable

BATCH_TOKENS = 512
"""Tokens in one decode, at most, where nobody says otherwise; on processors more are hardly faster
per token."""
PIECE_TOKENS_MIN = 64
"""llama.cpp's attention on processors works on tiles of so many tokens. Where a decode has fewer,
each of them costs up to five times as much, the more the longer the text before it is."""
FIRST_PIECE_TOKENS = 128
"""Before anything was measured."""
STEP_S = 1.0
STEP_BESIDE_STREAMS_S = 0.25
NEWEST_SHARE = 0.5
"""How much the last measurement counts."""


class Pace:
    """Measures decodes that have prompt tokens in them."""

    def __init__(self, clock: Callable[[], float], batch_tokens: int = BATCH_TOKENS) -> None:
        """`clock`: seconds from any start on; `batch_tokens`: in one decode, at most."""
        self._clock = clock
        self._batch_tokens = batch_tokens
        self._started = 0.0
        self._token_s: float | None = None

    def start(self) -> None:
        """A decode begins."""
        self._started = self._clock()

    def end(self, tokens: int) -> None:
        """It has ended, with so many tokens; few say little about many."""
        if tokens >= PIECE_TOKENS_MIN:
            newest = max(0.0, self._clock() - self._started) / tokens
            before = newest if self._token_s is None else self._token_s
            self._token_s = before + NEWEST_SHARE * (newest - before)

    def prompt_tokens(self, *, beside: int) -> int:
        """Prompt tokens for the next decode, beside so many tokens of those that generate."""
        room = self._batch_tokens - beside
        if self._token_s is None:
            return min(room, FIRST_PIECE_TOKENS)
        step_s = STEP_BESIDE_STREAMS_S if beside else STEP_S
        if self._token_s * room <= step_s:
            return room
        tiles = int(step_s / self._token_s) // PIECE_TOKENS_MIN
        return max(1, tiles) * PIECE_TOKENS_MIN
