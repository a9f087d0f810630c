"""The one place that decides how many tokens are proposed for one sequence: as many as are usually
accepted in a row. Pure.

A proposal that is refused costs time: on a processor a decode of two tokens takes 1.4 times as long
as one of one token, each further token a quarter more (tests.benchmarks.draft), and the draft its
own share. When a share p of the proposed tokens is accepted, p / (1 - p) of them are accepted, on
average, before the first that is not; proposing about so many is close to the best that can be
done. Where p is less than a half, none is worth its price.
"""

from typing import Final

FIRST_SHARE: Final = 2 / 3
"""Before anything was seen: two tokens are tried."""
LEAST_SHARE: Final = 0.45
"""However much was refused: one token that is accepted is enough to go on from here."""
WORTH_IT: Final = 1 / 2
NEWEST: Final = 0.1
"""How much the last token that was tried counts."""
REST_STEPS: Final = 8
"""So long nothing is proposed when it is not worth it; twice as long each time that one more try
was in vain."""
REST_STEPS_MAX: Final = 256


class DraftLength:
    """What became of the tokens that were proposed for one sequence."""

    def __init__(self, most: int) -> None:
        """`most`: tokens in one proposal; 0: none is ever made."""
        self._most = most
        self._share = FIRST_SHARE
        self._rest = REST_STEPS
        self._steps_to_rest = 0

    @property
    def tokens(self) -> int:
        """How many to propose in the next step."""
        if self._steps_to_rest:
            return 0
        return min(self._most, max(1, round(self._share / (1 - self._share))))

    def note(self, proposed: int, accepted: int) -> None:
        """A step is over. Behind the first token that is refused none was tried."""
        if not proposed:
            self._steps_to_rest = max(0, self._steps_to_rest - 1)
            return
        for outcome in [1] * accepted + [0] * (accepted < proposed):
            self._share += NEWEST * (outcome - self._share)
        self._share = min(max(self._share, LEAST_SHARE), 0.99)
        if self._share >= WORTH_IT:
            self._rest = REST_STEPS
        else:
            self._steps_to_rest = self._rest
            self._rest = min(2 * self._rest, REST_STEPS_MAX)
