"""The one place that reads answers whose calls have a tag for each parameter. Pure.

Their values are no JSON by themselves: what they mean stands in the function's schema. So the
arguments are written anew, value by value; a string goes on as it comes, everything else when it is
whole. Arguments of a call that was cut short, or that something else follows in the middle, are
never closed: nobody takes them for whole.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Final

from runtimes.parameter_kinds import TEXT, parameter_kinds, value_text
from runtimes.reply_form import ReplyForm
from runtimes.reply_reader import HEAD_MAX, SPACE_MAX, ReplyReader, before_part

HELD_MAX: Final = 16 * 1024
"""Characters of a value that is no string by its schema: one that has more is a string."""
CALL_END: Final = "</tool_call>"


@dataclasses.dataclass(frozen=True, slots=True)
class Tags:
    """How a family writes a call."""

    head: re.Pattern[str]
    """Behind the marker, up to a first `>`: the function; `next`: what is none of its head."""
    key: re.Pattern[str]
    """Before a value."""
    key_part: re.Pattern[str]
    """Any beginning of that."""
    value_end: str
    end: str
    """Behind the last value."""
    is_on_lines: bool
    """A value has a line break before and behind it."""


def _part(text: str, then: str = "") -> str:
    """A pattern for any beginning of `text`, and for what `then` is for behind all of it."""
    for letter in reversed(text):
        then = f"(?:{re.escape(letter)}{then})?"
    return then


TAGS: Final = {
    "qwen_coder": Tags(
        re.compile(r"\s*<function=(?P<name>[A-Za-z0-9_.-]{1,128})>(?P<next>)"),
        re.compile(r"<parameter=(?P<key>[^<>\n]{1,128})>"),
        re.compile(_part("<parameter=", r"[^<>\n]{0,128}")),
        "</parameter>",
        "</function>",
        is_on_lines=True,
    ),
    "glm": Tags(
        re.compile(
            r"\s*(?P<name>[A-Za-z0-9_.-]{1,128})\s*(?P<next><arg_key>|</tool_call>)",
        ),
        re.compile(
            rf"<arg_key>(?P<key>[^<]{{1,128}})</arg_key>\s{{0,{SPACE_MAX}}}<arg_value>",
        ),
        re.compile(
            _part(
                "<arg_key>",
                "(?:[^<]{1,128}"
                + _part("</arg_key>", rf"\s{{0,{SPACE_MAX}}}" + _part("<arg_value>"))
                + ")?",
            )
        ),
        "</arg_value>",
        CALL_END,
        is_on_lines=False,
    ),
}


class TaggedCallReader(ReplyReader):
    """Reads one answer of a family in `TAGS`."""

    def __init__(
        self, form: ReplyForm, functions: Mapping[str, str], calls_max: int | None
    ) -> None:
        super().__init__(form, functions, calls_max)
        self._tags = TAGS[self._family]
        self._schemas: dict[str, object] = {}
        """By function; those that were needed."""
        self._schema: object = None
        """Of all arguments of the call that is read."""
        self._kinds = TEXT
        """Of the value that is read."""
        self._has_values = False
        self._skips_line = False
        """A line break that comes now is none of the value."""
        self._read = 0
        """In the rest: no value ends before."""

    # ---- steps ----

    def _head(self, is_end: bool) -> bool:
        end = self._rest.find(">", self._at, self._at + HEAD_MAX)
        if end < 0 and len(self._rest) < self._at + HEAD_MAX and not is_end:
            return False
        found = self._tags.head.fullmatch(self._rest, self._at, end + 1) if end >= 0 else None
        if found is None or found["name"] not in self._functions:
            return self._is_no_call(self._at)
        self._begin_call(found["name"])
        self._say_arguments("{")
        self._schema = self._schema_of(found["name"])
        self._has_values = False
        self._rest = self._rest[found.start("next") :]
        self._step = self._between
        return True

    def _between(self, is_end: bool) -> bool:
        """Before a parameter or the call's end."""
        self._rest = self._rest.lstrip()
        if self._rest.startswith(self._tags.end):
            self._say_arguments("}")
            if self._tags.end != CALL_END:
                self._rest = self._rest.removeprefix(self._tags.end)
            self._step = self._behind
            return True
        found = self._tags.key.match(self._rest)
        if found is not None:
            self._begin_value(found["key"].strip(), found.end())
            return True
        if self._tags.end.startswith(self._rest) or self._tags.key_part.fullmatch(self._rest):
            if is_end:  # cut short in a tag, which nobody wants to read
                self._rest = ""
            return False
        self._step = self._content
        return True

    def _value(self, is_end: bool) -> bool:
        """Inside of what is no string, until it is whole."""
        at = self._rest.find(self._tags.value_end, self._read, HELD_MAX)
        if at < 0:
            if len(self._rest) >= HELD_MAX:
                self._begin_text()
                return True
            if is_end:
                self._rest = ""
            self._read = max(0, len(self._rest) - len(self._tags.value_end))
            return False
        text = self._rest[:at]
        if self._tags.is_on_lines:
            text = text.removeprefix("\n").removesuffix("\n")
        self._say_arguments(value_text(text, self._kinds))
        return self._end_value(at)

    def _text(self, is_end: bool) -> bool:
        """Inside of a string."""
        if self._skips_line and self._rest:
            self._rest = self._rest.removeprefix("\n")
            self._skips_line = False
        at = end = self._rest.find(self._tags.value_end)
        if at < 0:
            end = len(self._rest) if is_end else before_part(self._rest, self._tags.value_end)
        is_whole = at < 0 and is_end
        if self._tags.is_on_lines and not is_whole and self._rest.endswith("\n", 0, end):
            end -= 1
        self._say_arguments(json.dumps(self._rest[:end], ensure_ascii=False)[1:-1])
        if at < 0:
            self._rest = self._rest[end:]
            return False
        self._say_arguments('"')
        return self._end_value(at)

    def _behind(self, is_end: bool) -> bool:
        """Behind a call: its end marker."""
        self._rest = self._rest.lstrip()
        if self._rest.startswith(CALL_END):
            self._rest = self._rest.removeprefix(CALL_END)
            self._skips_space = True
        elif CALL_END.startswith(self._rest):
            if is_end:
                self._rest = ""
            return False
        self._step = self._content
        return True

    # ---- what steps do ----

    def _schema_of(self, name: str) -> object:
        if name not in self._schemas:
            try:
                self._schemas[name] = json.loads(self._functions[name])
            except (ValueError, RecursionError):
                self._schemas[name] = None
        return self._schemas[name]

    def _begin_value(self, key: str, start: int) -> None:
        comma = ", " if self._has_values else ""
        self._say_arguments(f"{comma}{json.dumps(key, ensure_ascii=False)}: ")
        self._has_values = True
        self._rest = self._rest[start:]
        self._kinds = parameter_kinds(self._schema, key)
        if self._kinds == TEXT:
            self._begin_text()
        else:
            self._read = 0
            self._step = self._value

    def _begin_text(self) -> None:
        self._say_arguments('"')
        self._skips_line = self._tags.is_on_lines
        self._step = self._text

    def _end_value(self, at: int) -> bool:
        self._rest = self._rest[at + len(self._tags.value_end) :]
        self._step = self._between
        return True
