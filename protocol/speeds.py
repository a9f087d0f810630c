"""The one place for how fast nodes turned out to be, learned from one's own requests; pure.

Decode: nanoseconds per token between the first and the last one, smoothed. Prefill: nanoseconds per
prompt token until the first one came, which holds waiting and the way there, too; so the least of
what was seen counts, and is forgotten slowly.
"""

import dataclasses
from collections.abc import Iterable
from typing import Final

from protocol.identity import NodeId

ENTRIES_MAX: Final = 4_096
SMOOTHING: Final = 4
"""A new decode sample moves what is known by one part in so many."""
FORGETTING: Final = 20
"""A slower prefill moves what is known up by at most one part in so many."""
TOKENS_MIN: Final = 4
"""Of an answer from which a speed is learned."""
_NS_MIN: Final = 1_000
_NS_MAX: Final = 60_000_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Speed:
    """Of one model on one node, for one request."""

    prefill_ns: int
    """Per token of the prompt."""
    decode_ns: int
    """Per token of the answer."""


UNKNOWN: Final = Speed(prefill_ns=2_000_000, decode_ns=30_000_000)
"""What is assumed where nothing is known of anybody: some 33 tokens a second."""


class Speeds:
    """What one node has learned of all others and of itself, by node and model. Bounded; the one
    that was not heard of for longest is forgotten.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[NodeId, str], Speed] = {}

    def of(self, node: NodeId, model: str) -> Speed | None:
        """What is known of a model on a node."""
        return self._known.get((node, model))

    def note(
        self,
        node: NodeId,
        model: str,
        *,
        prompt_tokens: int,
        first_ns: int,
        output_tokens: int,
        rest_ns: int,
    ) -> None:
        """A request was answered: its first token after `first_ns`, the others in `rest_ns`."""
        if output_tokens < TOKENS_MIN or prompt_tokens < 1:
            return
        decode_ns = _bounded(rest_ns // (output_tokens - 1))
        self._learn(node, model, _bounded(first_ns // prompt_tokens), decode_ns)

    def note_texts(self, node: NodeId, model: str, *, tokens: int, all_ns: int) -> None:
        """Texts of so many tokens were embedded, which is a prompt without an answer."""
        if tokens >= 1:
            self._learn(node, model, _bounded(all_ns // tokens), UNKNOWN.decode_ns)

    def _learn(self, node: NodeId, model: str, prefill_ns: int, decode_ns: int) -> None:
        before = self._known.pop((node, model), None)
        if before is not None:
            decode_ns = before.decode_ns + (decode_ns - before.decode_ns) // SMOOTHING
            slowest_ns = before.prefill_ns + before.prefill_ns // FORGETTING + 1
            prefill_ns = min(prefill_ns, slowest_ns)
        elif len(self._known) >= ENTRIES_MAX:
            del self._known[next(iter(self._known))]
        self._known[node, model] = Speed(prefill_ns, decode_ns)


def typical(speeds: Iterable[Speed | None]) -> Speed:
    """The median of those that are known: what to assume of a node that is not."""
    known = [speed for speed in speeds if speed is not None]
    if not known:
        return UNKNOWN
    prefill = sorted(speed.prefill_ns for speed in known)
    decode = sorted(speed.decode_ns for speed in known)
    return Speed(prefill[len(known) // 2], decode[len(known) // 2])


def _bounded(value: int) -> int:
    return min(max(value, _NS_MIN), _NS_MAX)
