"""The one place that words answers in the OpenAI dialect. Pure: values in, JSON objects out."""

import abc
import base64
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from meshd.gateway.encoding import sse_event
from runtimes.base import Finished, Logprob
from runtimes.reply_delta import CallArguments, CallBegin, Content, Delta, Thoughts

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


def usage(finished: Sequence[Finished]) -> dict[str, Any]:
    """Token counts of all choices, as the runtime counted them; their prompt counts once."""
    first, completion_tokens = finished[0], sum(each.completion_tokens for each in finished)
    return {
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": first.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": first.cached_tokens},
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


def choice_id(request_id: str, choice: int) -> str:
    """The id of the request that one choice of several is to the mesh."""
    return f"{request_id}-{choice}" if choice else request_id


def call_id(request_id: str, index: int) -> str:
    """The id of an answer's call: always the same one, and no other answer's.

    Nine letters and digits: some models' templates take no other ids back.
    """
    digest = hashlib.blake2b(f"{request_id}:{index}".encode(), digest_size=6).digest()
    return base64.b32encode(digest).decode().lower()[:9]


@dataclasses.dataclass(frozen=True, slots=True)
class ChoiceAnswer:
    """One choice, whole."""

    deltas: Sequence[Delta]
    likely: Sequence[Likely]
    finished: Finished


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completion(abc.ABC):
    """What all pieces of one answer have in common, whichever choice they are of."""

    request_id: str
    created: int
    """Seconds of Unix time."""
    model: str
    with_usage: bool = False
    """A streamed answer ends with a chunk that has the token counts."""

    id_prefix: ClassVar[str]
    whole_kind: ClassVar[str]
    piece_kind: ClassVar[str]
    """What the dialect calls the answer in one piece, and a piece of a streamed one."""

    def whole(self, answers: Sequence[ChoiceAnswer]) -> dict[str, Any]:
        """The answer in one piece: its choices in order."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        counts = usage([answer.finished for answer in answers])
        return self._object(self.whole_kind, choices, usage=counts)

    @abc.abstractmethod
    def _choice(self, choice: int, answer: ChoiceAnswer) -> dict[str, Any]:
        """One choice in one piece."""

    @abc.abstractmethod
    def opening(self, choice: int = 0) -> bytes:
        """The events that come first of a choice, with its first text."""

    @abc.abstractmethod
    def events(
        self, deltas: Sequence[Delta], likely: Sequence[Likely] = (), choice: int = 0
    ) -> bytes:
        """The events of some more of a choice. The first one says how likely its tokens were."""

    @abc.abstractmethod
    def closing(self, finished: Finished, *, has_calls: bool = False, choice: int = 0) -> bytes:
        """The event after a choice's last text: why it ended."""

    def counts(self, finished: Sequence[Finished]) -> bytes:
        """The event after all choices, if it was asked for: the token counts."""
        if not self.with_usage:
            return b""
        return sse_event(self._object(self.piece_kind, [], usage=usage(finished)))

    def _piece(self, told: dict[str, Any]) -> bytes:
        """An event of one choice."""
        # With counts to come, the dialect has a null in all chunks before them.
        extra = {"usage": None} if self.with_usage else {}
        return sse_event(self._object(self.piece_kind, [told], **extra))

    def _object(self, kind: str, choices: list[dict[str, Any]], **extra: object) -> dict[str, Any]:
        return {
            "id": f"{self.id_prefix}-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **extra,
        }


class ChatCompletion(Completion):
    """Of a chat."""

    __slots__ = ()
    id_prefix = "chatcmpl"
    whole_kind = "chat.completion"
    piece_kind = "chat.completion.chunk"

    def _choice(self, choice: int, answer: ChoiceAnswer) -> dict[str, Any]:
        deltas = answer.deltas
        thoughts = "".join(delta.text for delta in deltas if isinstance(delta, Thoughts))
        calls = self._calls(choice, deltas)
        content = "".join(delta.text for delta in deltas if isinstance(delta, Content))
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if thoughts:
            message["reasoning_content"] = thoughts
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        return {
            "index": choice,
            "message": message,
            "logprobs": logprobs(answer.likely),
            "finish_reason": finish_reason(answer.finished, has_calls=bool(calls)),
        }

    def opening(self, choice: int = 0) -> bytes:
        """See `Completion.opening`: whose turn it is."""
        return self._delta(choice, {"role": "assistant", "content": ""}, None)

    def events(
        self, deltas: Sequence[Delta], likely: Sequence[Likely] = (), choice: int = 0
    ) -> bytes:
        """See `Completion.events`."""
        if likely and not deltas:  # what they say is not decided yet
            deltas = [Content("")]
        return b"".join(
            self._event(choice, delta, () if at else likely) for at, delta in enumerate(deltas)
        )

    def closing(self, finished: Finished, *, has_calls: bool = False, choice: int = 0) -> bytes:
        """See `Completion.closing`."""
        return self._delta(choice, {}, finish_reason(finished, has_calls=has_calls))

    def _event(self, choice: int, delta: Delta, likely: Sequence[Likely]) -> bytes:
        match delta:
            case Content(text):
                return self._delta(choice, {"content": text}, None, likely)
            case Thoughts(text):
                return self._delta(choice, {"reasoning_content": text}, None, likely)
            case CallBegin(index, name):
                call: dict[str, object] = {"index": index, **self._call(choice, index, name, "")}
            case CallArguments(index, text):
                call = {"index": index, "function": {"arguments": text}}
        return self._delta(choice, {"tool_calls": [call]}, None, likely)

    def _calls(self, choice: int, deltas: Sequence[Delta]) -> list[dict[str, object]]:
        names = [delta.name for delta in deltas if isinstance(delta, CallBegin)]
        arguments = [""] * len(names)
        for delta in deltas:
            if isinstance(delta, CallArguments):
                arguments[delta.index] += delta.text
        parts = zip(names, arguments, strict=True)
        return [self._call(choice, index, *part) for index, part in enumerate(parts)]

    def _call(self, choice: int, index: int, name: str, arguments: str) -> dict[str, object]:
        function = {"name": name, "arguments": arguments}
        its_id = call_id(choice_id(self.request_id, choice), index)
        return {"id": its_id, "type": "function", "function": function}

    def _delta(
        self,
        choice: int,
        delta: dict[str, Any],
        finish_reason: str | None,
        likely: Sequence[Likely] = (),
    ) -> bytes:
        told = {
            "index": choice,
            "delta": delta,
            "logprobs": logprobs(likely),
            "finish_reason": finish_reason,
        }
        return self._piece(told)
