"""The one place that reads a streamed answer: events to text, reason and counts. Pure.

Where markers are wanted, thoughts and calls are written into the text as Hermes writes them: peers
and gateways know one way to read them. Else thoughts are left out.

Counts are the upstream's own where it states them (`usage`, or llama-server's `timings`). Where it
does not, the completion counts its deltas, which most servers send one a token, and the prompt 0.
"""

import json
from typing import Any

from runtimes.base import Finished
from runtimes.openai.failures import from_event, malformed
from runtimes.openai.prefill import Repeated
from runtimes.reply_form import THOUGHTS_BEGIN, THOUGHTS_END

COUNT_MAX = 2**31 - 1
_CUT = ("length", "max_tokens", "model_length")
_FAILED = ("error", "abort", "aborted")


class Reply:
    """What one answer has said so far."""

    def __init__(self, begun: str = "", *, with_markers: bool = False) -> None:
        """`begun`: what is said already, and it goes on behind."""
        self._with_markers = with_markers
        self._written = "content" if begun else ""
        """What was written last: `thoughts`, `content`, a `call`, or its `arguments`."""
        self._goes_on = bool(begun)
        self._begun = Repeated(begun)
        self._has_spoken = False
        """Whether anything but thoughts has come."""
        self._reason: str | None = None
        self._deltas = 0
        self._prompt_tokens: int | None = None
        self._completion_tokens: int | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the last token has come; counts may still follow."""
        return self._reason is not None

    def take(self, payload: bytes) -> str | None:
        """Take one event: the text that it brings, None when it brings no token.

        A token without text for the reader is an empty text. Raises RuntimeFailure for
        the upstream's error, or `crashed` for what makes no sense.
        """
        try:
            event = json.loads(payload)
        except (ValueError, RecursionError):
            raise malformed("an event is no JSON") from None
        if not isinstance(event, dict):
            raise malformed("an event is no object")
        if event.get("error"):
            raise from_event(event["error"])
        self._take_counts(event)
        choices = event.get("choices")
        if choices is None or choices == []:
            return None
        if not isinstance(choices, list) or not isinstance(choices[0], dict):
            raise malformed("its choices are no list of objects")
        return self._take_choice(choices[0])

    def finished(self) -> Finished:
        """The answer's end. Raises RuntimeFailure `crashed` when it was not at its end."""
        if self._reason is None:
            raise malformed("it ends in the middle")
        if self._reason in _FAILED:
            raise malformed(f"it ends with {self._reason!r}")
        if self._goes_on and self._deltas and not self._has_spoken:
            raise malformed("it thinks anew behind an answer that had begun")
        completion_tokens = self._completion_tokens
        return Finished(
            "length" if self._reason in _CUT else "stop",
            self._prompt_tokens or 0,
            self._deltas if completion_tokens is None else completion_tokens,
        )

    def _take_choice(self, choice: dict[str, Any]) -> str | None:
        reason = choice.get("finish_reason")
        if reason is not None and self._reason is None:
            self._reason = reason if isinstance(reason, str) else "stop"
        delta = choice.get("delta")
        if delta is None:
            delta = {"content": choice.get("text")}
        if not isinstance(delta, dict):
            raise malformed("a delta is no object")
        text = delta.get("content")
        if text is not None and not isinstance(text, str):
            raise malformed("a delta's content is no text")
        text = self._begun.new(text or "")
        thoughts = delta.get("reasoning_content") or delta.get("reasoning")
        calls = (delta.get("tool_calls") if self._with_markers else None) or []
        if not isinstance(calls, list):
            raise malformed("a delta's tool calls are no list")
        written = self._thoughts(thoughts) if thoughts else ""
        if text:
            written += self._turn_to("content") + text
        for call in calls:
            written += self._call(call)
        if reason is not None and reason not in _CUT:
            written += self._turn_to("")
        is_token = bool(text or thoughts or calls)
        self._has_spoken |= bool(text or calls)
        self._deltas += is_token
        return _complete(written) if is_token or written else None

    def _thoughts(self, thoughts: object) -> str:
        """Thoughts are text before all other text; elsewhere they only show that more is coming."""
        may_be_written = self._with_markers and self._written in ("", "thoughts")
        if not may_be_written or not isinstance(thoughts, str):
            return ""
        return self._turn_to("thoughts") + thoughts

    def _call(self, call: object) -> str:
        """Some of a call: its function begins it, pieces of arguments follow."""
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise malformed("a tool call has no function")
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise malformed("a tool call's function is no text")
        written = ""
        if name:
            begin = f'<tool_call>{{"name": {json.dumps(name)}, "arguments": '
            written = self._turn_to("call") + begin
        elif self._written not in ("call", "arguments"):
            raise malformed("a tool call has no name")
        if arguments:
            self._written = "arguments"
        return written + arguments

    def _turn_to(self, kind: str) -> str:
        """End what was written before, where something else follows; what begins it."""
        before, self._written = self._written, kind
        if before == kind and kind != "call":
            return ""
        ends = {"thoughts": THOUGHTS_END, "call": "{}}</tool_call>", "arguments": "}</tool_call>"}
        return ends.get(before, "") + (THOUGHTS_BEGIN if kind == "thoughts" else "")

    def _take_counts(self, event: dict[str, Any]) -> None:
        usage = event.get("usage")
        if isinstance(usage, dict):
            prompt_tokens = _count(usage.get("prompt_tokens"))
            completion_tokens = _count(usage.get("completion_tokens"))
        elif isinstance(timings := event.get("timings"), dict) and self._prompt_tokens is None:
            fresh, cached = _count(timings.get("prompt_n")), _count(timings.get("cache_n"))
            prompt_tokens = None if fresh is None else min(COUNT_MAX, fresh + (cached or 0))
            completion_tokens = _count(timings.get("predicted_n"))
        else:
            return
        if prompt_tokens is not None:
            self._prompt_tokens = prompt_tokens
        if completion_tokens is not None:
            self._completion_tokens = completion_tokens


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None


def _complete(text: str) -> str:
    """`text` as valid Unicode: halves of a character are put together, or replaced."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
