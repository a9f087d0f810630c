"""The one place that reads answers in OpenAI's Harmony form. Pure.

Such an answer is several messages, each with a head that says its channel and to whom it goes, and
a body. The first head has begun in the prompt. A body in the channel `analysis` is thoughts, one to
a known function is its arguments, any other is content. Heads are never passed on, but text that
begins no head is content.
"""

import re
from collections.abc import Mapping
from typing import Final

from runtimes.json_extent import JsonExtent
from runtimes.reply_delta import Content, Thoughts
from runtimes.reply_form import ReplyForm
from runtimes.reply_reader import HEAD_MAX, JsonArgumentsReader, before_part

_BODY: Final = "<|message|>"
START: Final = "<|start|>"
ENDS: Final = ("<|end|>", "<|call|>", "<|return|>")
"""What a message ends with, and what the next one begins with."""
_TO: Final = "to=functions."
_HEADS: Final = (*ENDS, START, "<|channel|>", _BODY, _TO)
"""What text begins with that is a head, space before it left out."""
_BODY_ENDS: Final = re.compile("|".join(map(re.escape, (*ENDS, START))))
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT: Final = re.compile(r"\bto=functions\.([A-Za-z0-9_.-]{1,128})")


class HarmonyReader(JsonArgumentsReader):
    """Reads one answer."""

    def __init__(
        self, form: ReplyForm, functions: Mapping[str, str], calls_max: int | None
    ) -> None:
        super().__init__(form, functions, calls_max)
        self._name = ""
        """The function that the message goes to."""
        steps = {"may": self._behind, "open": self._thoughts}
        self._step = steps.get(form.thoughts, self._content)

    # ---- steps ----

    def _behind(self, is_end: bool) -> bool:
        """Behind a message: the end marker, or the next one's head."""
        text = self._rest.lstrip()
        for end in ENDS:
            if text.startswith(end):
                self._rest = text.removeprefix(end)
                return True
        body = self._rest.find(_BODY, 0, HEAD_MAX)
        if not may_be_head(text) or (body < 0 and len(self._rest) >= HEAD_MAX):
            is_start = text.startswith(START)  # which would end a body before it begins
            return self._is_no_call(self._rest.index(START) + len(START) if is_start else 0)
        if body < 0:
            if is_end and not text.startswith(("<", _TO)):
                self._step = self._content
                return True
            if is_end:
                self._rest = ""
            return False
        self._begin_body(self._rest[:body].rpartition(START)[2])
        self._rest = self._rest[body + len(_BODY) :]
        return True

    def _thoughts(self, is_end: bool) -> bool:
        return self._body(Thoughts, is_end)

    def _content(self, is_end: bool) -> bool:
        return self._body(Content, is_end)

    def _before_arguments(self, is_end: bool) -> bool:
        self._rest = self._rest.lstrip()
        if self._rest.startswith("{"):
            self._extent = JsonExtent()
            self._begin_arguments(self._name, 0, read=0)
            return True
        if self._rest:
            self._step = self._content
        return bool(self._rest)

    # ---- what steps do ----

    def _begin_body(self, head: str) -> None:
        recipient, channel = _RECIPIENT.search(head), _CHANNEL.search(head)
        if recipient and recipient[1] in self._functions and not self._is_full:
            self._name = recipient[1]
            self._step = self._before_arguments
        elif channel and channel[1] == "analysis":
            self._step = self._thoughts
        else:
            self._step = self._content

    def _body(self, kind: type[Content | Thoughts], is_end: bool) -> bool:
        found = _BODY_ENDS.search(self._rest)
        if found:
            end = found.start()
        elif is_end:
            end = len(self._rest)
        else:
            end = min(before_part(self._rest, marker) for marker in (*ENDS, START))
        self._say(kind(self._rest[:end]))
        self._rest = self._rest[end:]
        if found:
            self._step = self._behind
        return found is not None


def may_be_head(text: str) -> bool:
    """Whether text between messages, space before it left out, begins a head or may come to."""
    return any(text.startswith(head) or head.startswith(text) for head in _HEADS)
