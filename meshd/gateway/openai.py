"""The one place that words answers in the OpenAI dialect. Pure: values in, JSON objects out."""

import base64
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from meshd.gateway.encoding import sse_event
from runtimes.base import Finished, Logprob
from runtimes.reply_parser import CallArguments, CallBegin, Content, Delta, Thoughts

DONE = b"data: [DONE]\n\n"

Likely = tuple[Logprob, ...]
"""Of one token: itself, then the likeliest in its place."""


def model_object(row: Mapping[str, Any], *, created: int) -> dict[str, Any]:
    """One row of `Mesh.models` as an OpenAI model; `created` in seconds of Unix time."""
    details = ("nodes", "context_tokens", "quantization", "size_bytes", "runtime", "hash", "tasks")
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


def finish_reason(finished: Finished, *, has_calls: bool) -> str:
    """Why an answer ended, as the dialect says it."""
    is_call = has_calls and finished.finish_reason == "stop"
    return "tool_calls" if is_call else finished.finish_reason


def call_id(request_id: str, index: int) -> str:
    """The id of an answer's call: always the same one, and no other answer's.

    Nine letters and digits: some models' templates take no other ids back.
    """
    digest = hashlib.blake2b(f"{request_id}:{index}".encode(), digest_size=6).digest()
    return base64.b32encode(digest).decode().lower()[:9]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletion:
    """What all pieces of one chat answer have in common."""

    request_id: str
    created: int
    """Seconds of Unix time."""
    model: str
    with_usage: bool = False
    """A streamed answer ends with a chunk that has the token counts."""

    def whole(
        self, deltas: Sequence[Delta], finished: Finished, likely: Sequence[Likely] = ()
    ) -> dict[str, Any]:
        """The answer in one piece."""
        thoughts = "".join(delta.text for delta in deltas if isinstance(delta, Thoughts))
        calls = self._calls(deltas)
        content = "".join(delta.text for delta in deltas if isinstance(delta, Content))
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if thoughts:
            message["reasoning_content"] = thoughts
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": logprobs(likely),
            "finish_reason": finish_reason(finished, has_calls=bool(calls)),
        }
        return self._object("chat.completion", [choice], usage=usage(finished))

    def opening(self) -> bytes:
        """The event that comes first: whose turn it is."""
        return self._delta({"role": "assistant", "content": ""}, None)

    def events(self, deltas: Sequence[Delta], likely: Sequence[Likely] = ()) -> bytes:
        """The events of some more of the answer. The first one says how likely its tokens were."""
        if likely and not deltas:  # what they say is not decided yet
            deltas = [Content("")]
        events = (self._event(delta, () if at else likely) for at, delta in enumerate(deltas))
        return b"".join(events)

    def closing(self, finished: Finished, *, has_calls: bool = False) -> bytes:
        """The events after the last text: why it ended and, if asked for, the token counts."""
        ending = self._delta({}, finish_reason(finished, has_calls=has_calls))
        if not self.with_usage:
            return ending
        counts = self._object("chat.completion.chunk", [], usage=usage(finished))
        return ending + sse_event(counts)

    def _event(self, delta: Delta, likely: Sequence[Likely]) -> bytes:
        match delta:
            case Content(text):
                return self._delta({"content": text}, None, likely)
            case Thoughts(text):
                return self._delta({"reasoning_content": text}, None, likely)
            case CallBegin(index, name):
                call: dict[str, object] = {"index": index, **self._call(index, name, "")}
            case CallArguments(index, text):
                call = {"index": index, "function": {"arguments": text}}
        return self._delta({"tool_calls": [call]}, None, likely)

    def _calls(self, deltas: Sequence[Delta]) -> list[dict[str, object]]:
        names = [delta.name for delta in deltas if isinstance(delta, CallBegin)]
        arguments = [""] * len(names)
        for delta in deltas:
            if isinstance(delta, CallArguments):
                arguments[delta.index] += delta.text
        parts = zip(names, arguments, strict=True)
        return [self._call(index, *part) for index, part in enumerate(parts)]

    def _call(self, index: int, name: str, arguments: str) -> dict[str, object]:
        function = {"name": name, "arguments": arguments}
        return {"id": call_id(self.request_id, index), "type": "function", "function": function}

    def _delta(
        self, delta: dict[str, Any], finish_reason: str | None, likely: Sequence[Likely] = ()
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
