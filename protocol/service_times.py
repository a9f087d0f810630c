"""The one place for how long requests take at one model, as it was seen, and what follows; pure.

Kept is one number, nanoseconds of a slot for each token of prompt and answer, and the usual length
of an answer; both smoothed. A slot's time holds whatever others cost it while they ran beside.
What is foretold of a wait knows nothing of those who come later and have their turn before; so it
is put right by how much longer waits lately were than foretold, within bounds.
"""

from collections.abc import Sequence
from typing import Final

SMOOTHING: Final = 8
"""A new sample moves what is known by one part in so many."""
OUTPUT_SMOOTHING: Final = 16
OUTPUT_TOKENS: Final = 200
"""Of an answer, before any was seen."""
WAIT_SMOOTHING: Final = 32
WAIT_FACTOR_MAX: Final = 2
"""By so much at most a wait that was computed is corrected, up and down."""
TOKENS_MIN: Final = 8
"""Of a request that says something about a speed."""


class ServiceTimes:
    """What was seen of one model."""

    def __init__(self) -> None:
        self._token_ns: int | None = None
        self.output_tokens = OUTPUT_TOKENS
        """What to expect of an answer."""
        self._computed_ns = self._waited_ns = 0
        """Waits as they were computed and as they became, the latest with most weight."""

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

    def note_wait(self, computed_ns: int, waited_ns: int) -> None:
        """A request had its turn, `waited_ns` after it came."""
        self._computed_ns += computed_ns - self._computed_ns // WAIT_SMOOTHING
        self._waited_ns += waited_ns - self._waited_ns // WAIT_SMOOTHING

    def expected_ns(self, computed_ns: int) -> int:
        """A wait that was computed, corrected by how such waits went lately."""
        if self._computed_ns == 0:
            return computed_ns
        expected_ns = computed_ns * self._waited_ns // self._computed_ns
        return min(max(expected_ns, computed_ns // WAIT_FACTOR_MAX), computed_ns * WAIT_FACTOR_MAX)

    def wait_ns(self, running: Sequence[int], slots: int, ahead: int) -> int | None:
        """Computed: when the next slot is free for one before which `ahead` tokens are served;
        `running`: the tokens that are left of each that runs. None: nothing was seen yet.

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
