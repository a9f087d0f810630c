"""The one place that words answers in the OpenAI dialect. Pure: values in, JSON objects out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from meshd.gateway.encoding import sse_event
from runtimes.base import Finished, Logprob

DONE = b"data: [DONE]\n\n"

Likely = tuple[Logprob, ...]
"""Of one token: itself, then the likeliest in its place."""


def model_object(row: Mapping[str, Any], *, created: int) -> dict[str, Any]:
    """One row of `Mesh.models` as an OpenAI model; `created` in seconds of Unix time."""
    details = ("nodes", "context_tokens", "quantization", "size_bytes", "runtime", "hash")
    return {
        "id": row["name"],
        "object": "model",
        "created": created,
        "owned_by": ",".join(row["nodes"]),
        "meshd": {name: row[name] for name in details},
    }


def usage(finished: Finished) -> dict[str, Any]:
    """Token counts, exactly as the runtime counted them."""
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finished.cached_tokens},
    }


def logprobs(likely: Sequence[Likely]) -> dict[str, Any] | None:
    """How likely tokens were, those without text (the end of the turn) left out."""
    content = [
        {**_likely_object(own), "top_logprobs": [_likely_object(each) for each in top]}
        for own, *top in likely
        if own.data
    ]
    return {"content": content, "refusal": None} if content else None


def _likely_object(likely: Logprob) -> dict[str, Any]:
    return {
        "token": likely.data.decode("utf-8", "replace"),
        "logprob": likely.logprob,
        "bytes": list(likely.data),
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletion:
    """What all pieces of one chat answer have in common."""

    request_id: str
    created: int
    """Seconds of Unix time."""
    model: str
    with_usage: bool = False
    """A streamed answer ends with a chunk that has the token counts."""

    def whole(self, text: str, finished: Finished, likely: Sequence[Likely] = ()) -> dict[str, Any]:
        """The answer in one piece."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": logprobs(likely),
            "finish_reason": finished.finish_reason,
        }
        return self._object("chat.completion", [choice], usage=usage(finished))

    def opening(self) -> bytes:
        """The event that comes first: whose turn it is."""
        return self._delta({"role": "assistant", "content": ""}, None)

    def piece(self, text: str, likely: Sequence[Likely] = ()) -> bytes:
        """The event of some more text."""
        return self._delta({"content": text}, None, likely)

    def closing(self, finished: Finished) -> bytes:
        """The events after the last text: why it ended and, if asked for, the token counts."""
        ending = self._delta({}, finished.finish_reason)
        if not self.with_usage:
            return ending
        counts = self._object("chat.completion.chunk", [], usage=usage(finished))
        return ending + sse_event(counts)

    def _delta(
        self, delta: dict[str, str], finish_reason: str | None, likely: Sequence[Likely] = ()
    ) -> bytes:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": logprobs(likely),
            "finish_reason": finish_reason,
        }
        # With counts to come, the dialect has a null in all chunks before them.
        extra = {"usage": None} if self.with_usage else {}
        return sse_event(self._object("chat.completion.chunk", [choice], **extra))

    def _object(self, kind: str, choices: list[dict[str, Any]], **extra: object) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **extra,
        }
