"""The one place that reads the text of an answer: thoughts, content and calls. Pure.

Text goes in as it comes, deltas come out as soon as they are decided. Where the text was cut makes
no difference, so an answer that another node went on with reads like an unbroken one. Any text is
read: what looks like a call and is none comes out as content, every character of it (but for
Harmony's heads of messages). A call begins to come out when its function is known, so that long
arguments can be followed; if they turn out to be none, the call ends there and what follows is
content.

What marks thoughts and calls is not passed on, nor is the space behind it and before it (of that,
the last SPACE_MAX characters), nor what a call's object has beside name and arguments.
"""

import json
from collections.abc import Mapping

from runtimes.harmony import HarmonyReader
from runtimes.json_calls import JsonCallReader
from runtimes.reply_delta import CallArguments, CallBegin, Delta
from runtimes.reply_form import CALL_MARKERS, HARMONY, ReplyForm
from runtimes.reply_reader import ReplyReader
from runtimes.tagged_calls import TAGS, TaggedCallReader


class ReplyParser:
    """Reads one answer."""

    def __init__(
        self, form: ReplyForm, functions: Mapping[str, str], calls_max: int | None = None
    ) -> None:
        """`functions`: those that can be called, by name the JSON schema of their arguments as
        text; everything else is content. `calls_max`: so many calls at most, what comes behind them
        is content.
        """
        reader = ReplyReader
        if form.calls == HARMONY:
            reader = HarmonyReader
        elif form.calls in TAGS:
            reader = TaggedCallReader
        elif form.calls in CALL_MARKERS:
            reader = JsonCallReader
        self._reader = reader(form, functions, calls_max)

    @property
    def has_calls(self) -> bool:
        """Whether a call has come."""
        return self._reader.has_calls

    def push(self, text: str) -> list[Delta]:
        """Take more of the answer; return what is decided by now."""
        return self._reader.push(text)

    def finish(self) -> list[Delta]:
        """The answer is over; return what was not decided."""
        return self._reader.finish()


def calls_in_prompt(prompt: str, name: str, arguments: object) -> str:
    """The family in whose form a call of `name` with these arguments stands in a prompt; empty when
    it is none.
    """
    for family in CALL_MARKERS:
        # A Llama 3 writes no marker: the call is all of its turn.
        for turn in prompt.split("<|end_header_id|>"):
            if (name, arguments) in _calls(family, turn, name):
                return family
    return ""


def _calls(family: str, text: str, name: str) -> list[tuple[str, object]]:
    parser = ReplyParser(ReplyForm(family), {name: "{}"})
    calls: list[tuple[str, str]] = []
    for delta in [*parser.push(text), *parser.finish()]:
        match delta:
            case CallBegin(_, begun):
                calls.append((begun, ""))
            case CallArguments(index, more):
                calls[index] = (calls[index][0], calls[index][1] + more)
            case _:
                pass
    return [(begun, _value(arguments)) for begun, arguments in calls]


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
