"""The one place that answers `POST /v1/completions`, and words what it answers."""

import codecs
import dataclasses
from collections.abc import Sequence
from typing import Any

from meshd.gateway.exchange import Exchange
from meshd.gateway.generating import Generating
from meshd.gateway.openai import ChoiceAnswer, Completion, Likely, finish_reason
from runtimes.base import Finished, Logprob
from runtimes.reply_delta import Content, Delta


class CompletionEndpoint:
    """Completions of a text, in OpenAI's older dialect, by the mesh."""

    def __init__(self, generating: Generating) -> None:
        self._generating = generating

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request. Raises Refusal and RequestFailed."""
        # Pydantic and its models are a fifth of the daemon's memory: not before they are needed.
        from meshd.gateway.completion_request import parse_completion

        await self._generating.answer(exchange, parse_completion, TextCompletion)


class TokenTable:
    """The tokens of one choice as the dialect lists them, wherever its pieces begin and end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def rows(self, likely: Sequence[Likely]) -> dict[str, Any] | None:
        """The next tokens; those without text (the end of the turn) are left out."""
        shown = [each for each in likely if each[0].data]
        if not shown:
            return None
        offsets = []
        for own, *_ in shown:
            offsets.append(self._characters)
            self._characters += len(self._decoder.decode(own.data))
        return {
            "tokens": [_text(own) for own, *_ in shown],
            "token_logprobs": [own.logprob for own, *_ in shown],
            "top_logprobs": [_by_text(each) for each in shown] if len(shown[0]) > 1 else None,
            "text_offset": offsets,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextCompletion(Completion):
    """Of a text that goes on."""

    id_prefix = "cmpl"
    whole_kind = piece_kind = "text_completion"

    _tables: dict[int, TokenTable] = dataclasses.field(default_factory=dict)
    """By choice."""

    def opening(self, choice: int = 0) -> bytes:
        """See `Completion.opening`: nobody's turn has to be told."""
        del choice
        return b""

    def events(
        self, deltas: Sequence[Delta], likely: Sequence[Likely] = (), choice: int = 0
    ) -> bytes:
        """See `Completion.events`."""
        if not (deltas or likely):
            return b""
        return self._piece(self._told(choice, _joined(deltas), likely, None))

    def closing(self, finished: Finished, *, has_calls: bool = False, choice: int = 0) -> bytes:
        """See `Completion.closing`."""
        reason = finish_reason(finished, has_calls=has_calls)
        return self._piece(self._told(choice, "", (), reason))

    def _choice(self, choice: int, answer: ChoiceAnswer) -> dict[str, Any]:
        reason = finish_reason(answer.finished, has_calls=False)
        return self._told(choice, _joined(answer.deltas), answer.likely, reason)

    def _told(
        self, choice: int, text: str, likely: Sequence[Likely], reason: str | None
    ) -> dict[str, Any]:
        table = self._tables.setdefault(choice, TokenTable())
        return {
            "index": choice,
            "text": text,
            "logprobs": table.rows(likely),
            "finish_reason": reason,
        }


def _joined(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Content))


def _text(likely: Logprob) -> str:
    return likely.data.decode("utf-8", "replace")


def _by_text(likely: Likely) -> dict[str, float]:
    """The likeliest tokens, and the one that came; of those written alike the likeliest."""
    found: dict[str, float] = {}
    for each in sorted(likely, key=lambda each: -each.logprob):
        found.setdefault(_text(each), each.logprob)
    return found
