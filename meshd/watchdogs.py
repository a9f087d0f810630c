"""The one place for how long a request may wait for what: limits that adapt to what was seen.

Two questions are kept apart. Does the serving node live? It says so itself, twice a second, while
it has nothing else to say: one that is silent for SILENCE_S is given up, however slow its model is,
and one that is heard is not, however long its queue is. Does its runtime get on? It has the time
that its prompt can need, then a multiple of the pace that it has shown.
"""

import math
from typing import Final

from protocol.speeds import Speed
from runtimes.base import Chunk, GenerateEvent, Started

CONTACT_S: Final = 3.0
"""To be connected, and to hand over a request of no size, where that is the only chance ..."""
BRISK_CONTACT_S: Final = 1.5
"""... and where it is not, beside what the way there takes:"""
ROUND_TRIPS: Final = 10
"""A connection, a handshake, the request; some of it twice."""
HEARTBEAT_S: Final = 0.5
"""A serving node is heard at least so often."""
SILENCE_S: Final = 1.8
"""It has missed three of them and more: stopped, hung, or out of reach."""
PREFILL_S_MIN: Final = 60.0
PREFILL_S_MAX: Final = 600.0
PREFILL_FACTOR: Final = 10
"""A prompt may take so many times as long as expected: other prompts share the machine."""
UNKNOWN_PREFILL_NS: Final = 100_000_000
"""Per token of a prompt, on a node of which nothing is known: a large model on an old processor."""
PACE_S_MIN: Final = 10.0
PACE_S_MAX: Final = 120.0
PACE_FACTOR: Final = 20
"""A token may take so many times as long as the slowest ones lately."""
_FADING: Final = 0.95
"""What one slow token counts at the next one."""


def contact_s(round_trip_ns: int, *, is_only_chance: bool) -> float:
    """How long a node may take to be reached; `is_only_chance`: nobody else could be
    asked, and nothing would be tried again.
    """
    if is_only_chance:
        return CONTACT_S
    return min(CONTACT_S, BRISK_CONTACT_S + ROUND_TRIPS * round_trip_ns / 1e9)


class TokenWatch:
    """How long the next event of one run may take. A run that waits for its slot is not watched:
    its queue moves, or its node is found to be gone.
    """

    def __init__(
        self, speed: Speed | None, tokens_before: int = 0, *, has_images: bool = False
    ) -> None:
        """`speed`: as learned of the node; `tokens_before`: what is prefilled beside the prompt,
        since another run has generated it; `has_images`: what no speed tells of.
        """
        self._prefill_ns = speed.prefill_ns if speed is not None else UNKNOWN_PREFILL_NS
        self._tokens_before = tokens_before
        self._prefill_s_min = PREFILL_S_MAX if has_images else PREFILL_S_MIN
        self._slowest_s: float | None = None
        """Of the tokens behind the first one, which had to wait for the prompt."""
        self.limit_s = math.inf
        """For the next event, in seconds."""

    def note(self, event: GenerateEvent, waited_s: float) -> None:
        """An event came, after so long."""
        match event:
            case Started(prompt_token_ids):
                tokens = len(prompt_token_ids) + self._tokens_before
                expected_s = tokens * self._prefill_ns / 1e9
                self.limit_s = _within(
                    PREFILL_FACTOR * expected_s, self._prefill_s_min, PREFILL_S_MAX
                )
            case Chunk():
                before_s = self._slowest_s
                self._slowest_s = 0.0 if before_s is None else max(waited_s, before_s * _FADING)
                self.limit_s = _within(PACE_FACTOR * self._slowest_s, PACE_S_MIN, PACE_S_MAX)


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
