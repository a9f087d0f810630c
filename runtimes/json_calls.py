"""The one place that reads answers whose calls are JSON behind a marker. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Final

from runtimes.json_extent import MORE, NONSENSE, JsonExtent
from runtimes.reply_form import ReplyForm
from runtimes.reply_reader import HEAD_MAX, SPACE_MAX, JsonArgumentsReader

HELD_MAX: Final = 16 * 1024
"""Characters of a call whose function is not known: more is content."""

_NAME: Final = r"(?P<name>[A-Za-z0-9_.-]{1,128})"
_OPENERS: Final = {
    "hermes": re.compile(r"\s*"),
    "llama3": re.compile(r"\s*"),
    "mistral": re.compile(r"\s*\[\s*"),
    "mistral_args": re.compile(rf"\s*{_NAME}(\[CALL_ID\]\w{{1,64}})?(\[ARGS\])?\s*"),
    "deepseek": re.compile(
        rf"\s*<｜tool▁call▁begin｜>\s*\w*<｜tool▁sep｜>\s*{_NAME}\s*```(json)?\s*"
    ),
    "deepseek_v31": re.compile(rf"\s*<｜tool▁call▁begin｜>\s*{_NAME}\s*<｜tool▁sep｜>\s*"),
}
"""What stands between a call's marker and its first brace."""
_SEPARATORS: Final = {
    "llama3": re.compile(rf";?\s{{0,{SPACE_MAX}}}"),
    "mistral": re.compile(rf",\s{{0,{SPACE_MAX}}}"),
}
"""What stands between a call and a next one without a marker."""
_TAILS: Final = {
    "deepseek": ("```", "<｜tool▁call▁end｜>"),
    "deepseek_v31": ("<｜tool▁call▁end｜>",),
}
"""What stands between a call and the end marker of all."""
_ENDS: Final = {
    "hermes": "</tool_call>",
    "mistral": "]",
    "deepseek": "<｜tool▁calls▁end｜>",
    "deepseek_v31": "<｜tool▁calls▁end｜>",
}
_NEXT: Final = {
    "deepseek": "<｜tool▁call▁begin｜>",
    "deepseek_v31": "<｜tool▁call▁begin｜>",
}
"""What a next call begins with, where that is not the marker."""
_ARGUMENTS_FOLLOW = re.compile(r'"(arguments|parameters)"\s*:\s*\Z')


class JsonCallReader(JsonArgumentsReader):
    """Reads one answer of a family in `_OPENERS`."""

    def __init__(
        self, form: ReplyForm, functions: Mapping[str, str], calls_max: int | None
    ) -> None:
        super().__init__(form, functions, calls_max)
        self._may_be_bare = self._family == "llama3"
        """A call may begin without a marker: nothing has been said yet."""

    # ---- steps ----

    def _content(self, is_end: bool) -> bool:
        if self._may_be_bare and not self._is_full:
            self._drop_space()
            text = self._rest.lstrip()
            self._at = len(self._rest) - len(text)
            if not text and self._at <= SPACE_MAX and not is_end:
                return False
            self._may_be_bare = False
            if text.startswith("{") and self._at <= SPACE_MAX:
                return self._begin_object(self._at)
        return super()._content(is_end)

    def _head(self, is_end: bool) -> bool:
        brace = self._rest.find("{", self._at, self._at + HEAD_MAX)
        if brace < 0 and len(self._rest) < self._at + HEAD_MAX and not is_end:
            return False
        opener = brace >= 0 and _OPENERS[self._family].fullmatch(self._rest, self._at, brace)
        if not opener:
            return self._is_no_call(self._at)
        name = opener.groupdict().get("name")
        if name is None:
            return self._begin_object(brace)
        if name not in self._functions:
            return self._is_no_call(self._at)
        self._extent = JsonExtent()
        self._begin_arguments(name, brace, read=0)
        return True

    def _object(self, is_end: bool) -> bool:
        """Inside of what may be a call, until its function is known."""
        end = self._at + HELD_MAX
        text = self._rest[:end]
        while True:
            self._read, met = self._extent.advance(text, self._read)
            if met == NONSENSE:
                return self._is_no_call(self._read)
            if met == MORE:
                return (len(text) == end or is_end) and self._is_no_call(len(text))
            if met == "{" and self._extent.depth == 2:
                brace = self._read - 1
                name = self._name_before(text[self._at : brace])
                if name is not None:
                    self._depth_around = 1
                    self._begin_arguments(name, brace, read=1)
                    return True
            if self._extent.depth == 0:
                call = self._call_of(text[self._at : self._read])
                if call is None:
                    return self._is_no_call(self._read)
                self._begin_call(call[0])
                self._say_arguments(call[1])
                self._rest = self._rest[self._read :]
                self._step = self._behind
                return True

    def _behind(self, is_end: bool) -> bool:
        """Behind a call: an end marker, or another call."""
        self._rest = rest = self._rest.lstrip()
        tails = _TAILS.get(self._family, ())
        end = _ENDS.get(self._family, "")
        following = _NEXT.get(self._family, "")
        for tail in tails:
            if rest.startswith(tail):
                self._rest = rest.removeprefix(tail)
                return True
        if end and rest.startswith(end):
            self._rest = rest.removeprefix(end)
            self._skips_space = True
            self._step = self._content
            return True
        separator = _SEPARATORS.get(self._family)
        found = separator.match(rest) if separator else None
        may_come = any(marker.startswith(rest) for marker in (*tails, end, following))
        is_undecided = not rest or may_come or (found and found.end() == len(rest))
        if is_undecided and not is_end:
            return False
        if may_come:  # cut short in a marker, which nobody wants to read
            self._rest = ""
            return False
        if not self._is_full:
            if found and rest.startswith("{", found.end()):
                return self._begin_object(found.end())
            if following and rest.startswith(following):
                self._at = 0
                self._step = self._head
                return True
        self._step = self._content
        return True

    # ---- what steps do ----

    def _begin_object(self, brace: int) -> bool:
        self._at = self._read = brace
        self._extent = JsonExtent()
        self._step = self._object
        return True

    def _name_before(self, head: str) -> str | None:
        """The function in the members before its arguments, if it is there."""
        if len(head) > HEAD_MAX or not _ARGUMENTS_FOLLOW.search(head):
            return None
        try:
            name = json.loads(head + "0}").get("name")
        except ValueError:
            return None
        return name if isinstance(name, str) and name in self._functions else None

    def _call_of(self, text: str) -> tuple[str, str] | None:
        """Name and arguments of a whole call; None for what is none."""
        try:
            members = json.loads(text)
            name = members.get("name")
            arguments = members.get("arguments", members.get("parameters"))
            if isinstance(arguments, str):  # some write JSON into a string
                arguments = json.loads(arguments)
            arguments = json.dumps({} if arguments is None else arguments, allow_nan=False)
        except (ValueError, RecursionError):
            return None
        is_call = isinstance(name, str) and name in self._functions and arguments.startswith("{")
        return (name, arguments) if is_call else None
