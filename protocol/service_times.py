"""The one place for how long requests take at one model, as it was seen, and what follows; pure.

Kept is one number, nanoseconds of a slot for each token of prompt and answer, and the usual length
of an answer; both smoothed. A slot's time holds whatever others cost it while they ran beside.
"""

from collections.abc import Sequence
from typing import Final

SMOOTHING: Final = 8
"""A new sample moves what is known by one part in so many."""
OUTPUT_SMOOTHING: Final = 16
OUTPUT_TOKENS: Final = 200
"""Of an answer, before any was seen."""
TOKENS_MIN: Final = 8
"""Of a request that says something about a speed."""


class ServiceTimes:
    """What was seen of one model."""

    def __init__(self) -> None:
        self._token_ns: int | None = None
        self.output_tokens = OUTPUT_TOKENS
        """What to expect of an answer."""

    def note(self, slot_ns: int, tokens: int) -> None:
        """A request had a slot for so long, and so many tokens of prompt and answer."""
        if tokens < TOKENS_MIN:
            return
        sample = max(1, slot_ns // tokens)
        known = self._token_ns
        self._token_ns = sample if known is None else known + (sample - known) // SMOOTHING

    def note_output(self, tokens: int) -> None:
        """An answer came to its own end after so many tokens."""
        self.output_tokens = max(1, self.output_tokens + _part(tokens - self.output_tokens))

    def wait_ns(self, running: Sequence[int], slots: int, ahead: int) -> int | None:
        """When the next slot is free for one before which `ahead` tokens are served; `running`: the
        tokens that are left of each that runs. None: nothing was seen yet.

        Work is poured into the slots as water, always where it is done first.
        """
        if self._token_ns is None:
            return None
        free = sorted(running)[-slots:]
        free = [0] * (slots - len(free)) + free
        level, filled = free[0], 0
        for count, upper in enumerate((*free[1:], None), 1):
            if upper is None or filled + (upper - level) * count >= ahead:
                return (level + (ahead - filled) // count) * self._token_ns
            filled += (upper - level) * count
            level = upper
        raise AssertionError("the last bound is open")


def _part(difference: int) -> int:
    """One part in OUTPUT_SMOOTHING of it, and never nothing of what is not nothing."""
    if difference == 0:
        return 0
    sign = 1 if difference > 0 else -1
    return sign * max(1, abs(difference) // OUTPUT_SMOOTHING)
