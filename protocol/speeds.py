"""The one place for how fast nodes are: as each tells of itself, and as others find it; pure.

A node tells of each model what it has measured of all requests that it served (`ServedSpeed`); who
has asked it knows by own requests (`Speeds`), and believes those.

Decode: nanoseconds per token between the first and the last one, smoothed. Prefill: nanoseconds per
prompt token, from the moment at which the request had a slot until its first token; prompts that
are prefilled at a time hold each other up, so of what others show the least counts, and is
forgotten slowly.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

from protocol.identity import NodeId

ENTRIES_MAX: Final = 4_096
SMOOTHING: Final = 4
"""A new decode sample moves what is known by one part in so many."""
FORGETTING: Final = 20
"""A slower prefill moves what is known up by at most one part in so many."""
TOKENS_MIN: Final = 4
"""Of an answer from which a speed is learned."""
TOLD_PERCENT: Final = 125
"""What is measured is told anew when it is so much more or less than what was told ..."""
TOLD_EVERY_NS: Final = 30_000_000_000
"""... and this long after that at the soonest: everybody hears of it."""
MEASURED_SMOOTHING: Final = 32
"""Of what was measured before, one part in so many is forgotten with each request."""
_NS_MIN: Final = 1_000
_NS_MAX: Final = 60_000_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Speed:
    """Of one model on one node, for one request."""

    prefill_ns: int
    """Per token of the prompt."""
    decode_ns: int
    """Per token of the answer."""

    @classmethod
    def of_times(cls, prefill_ns: int, decode_ns: int) -> "Speed":
        """Whatever was measured, within what can be told."""
        return cls(_bounded(prefill_ns), _bounded(decode_ns))

    def to_fields(self) -> dict[str, int]:
        """As a part of the offer of a model."""
        return {"prefill_ns": self.prefill_ns, "decode_ns": self.decode_ns}


def speed_in(fields: Mapping[str, object]) -> Speed | None:
    """What the offer of a model tells of its speed, if anything that makes sense."""
    prefill_ns, decode_ns = fields.get("prefill_ns"), fields.get("decode_ns")
    if type(prefill_ns) is not int or type(decode_ns) is not int:
        return None
    if not (_NS_MIN <= prefill_ns <= _NS_MAX and _NS_MIN <= decode_ns <= _NS_MAX):
        return None
    return Speed(prefill_ns, decode_ns)


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
        waited_ns: int,
    ) -> None:
        """A request was answered: its first token `first_ns` after it had a slot, the others in
        `rest_ns`. Of that `waited_ns` were waited for them, and they waited to be read in what is
        left: then all that is seen of the node is that it was no faster than the one, and no slower
        than the other.
        """
        if output_tokens < TOKENS_MIN or prompt_tokens < 1:
            return
        before = self.of(node, model) or UNKNOWN
        rest_ns = _within(before.decode_ns * (output_tokens - 1), waited_ns, rest_ns)
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


class ServedSpeed:
    """What one node has measured of one of its models, and what of that it has told others."""

    def __init__(self) -> None:
        self._prefill = _Rate()
        self._decode = _Rate()
        self._told_ns: int | None = None
        self.told: Speed | None = None

    def note(
        self,
        *,
        prompt_tokens: int,
        prefill_ns: int,
        output_tokens: int,
        rest_ns: int,
        waited_ns: int,
    ) -> None:
        """A request was served: of its prompt so many tokens were prefilled in so long, and the
        answer's others followed the first one in `rest_ns`; `waited_ns` of it is not its asker's,
        as in `Speeds.note`.
        """
        self._prefill.note(prefill_ns, prompt_tokens)
        decode_ns = self._decode.token_ns or UNKNOWN.decode_ns
        rest_ns = _within(decode_ns * (output_tokens - 1), waited_ns, rest_ns)
        self._decode.note(rest_ns, output_tokens - 1)

    def news(self, now: int) -> Speed | None:
        """What is to be told now, if it is: `told` from now on."""
        prefill_ns, decode_ns = self._prefill.token_ns, self._decode.token_ns
        if prefill_ns is None or decode_ns is None:
            return None
        known, told = Speed(prefill_ns, decode_ns), self.told
        if told is not None and self._told_ns is not None:
            is_news = _differ(known.prefill_ns, told.prefill_ns) or _differ(
                known.decode_ns, told.decode_ns
            )
            if not is_news or now - self._told_ns < TOLD_EVERY_NS:
                return None
        self.told, self._told_ns = known, now
        return known


class _Rate:
    """Nanoseconds per token, the latest with most weight, and long requests with more."""

    def __init__(self) -> None:
        self._ns = 0
        self._micro_tokens = 0
        """Millionths, so that both are forgotten alike."""

    def note(self, ns: int, tokens: int) -> None:
        if tokens < TOKENS_MIN:
            return
        self._ns += ns - self._ns // MEASURED_SMOOTHING
        self._micro_tokens += 1_000_000 * tokens - self._micro_tokens // MEASURED_SMOOTHING

    @property
    def token_ns(self) -> int | None:
        many = self._micro_tokens
        return _bounded(self._ns * 1_000_000 // many) if many else None


def _differ(known: int, told: int) -> bool:
    return known * 100 > told * TOLD_PERCENT or told * 100 > known * TOLD_PERCENT


def typical(speeds: Iterable[Speed | None]) -> Speed:
    """The median of those that are known: what to assume of a node that is not."""
    known = [speed for speed in speeds if speed is not None]
    if not known:
        return UNKNOWN
    prefill = sorted(speed.prefill_ns for speed in known)
    decode = sorted(speed.decode_ns for speed in known)
    return Speed(prefill[len(known) // 2], decode[len(known) // 2])


def _within(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def _bounded(value: int) -> int:
    return _within(value, _NS_MIN, _NS_MAX)
