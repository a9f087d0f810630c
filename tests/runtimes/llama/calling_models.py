"""The one place for models with random weights that write calls in the manner of a family."""

import json
import pathlib
from typing import Any

import pytest

from runtimes.llama.frames import Generate
from runtimes.reply_delta import CallArguments, CallBegin, Content, Thoughts
from runtimes.reply_form import CALL_MARKERS, HARMONY, ReplyForm
from runtimes.reply_parser import ReplyParser
from tests.helpers import tool_templates
from tests.runtimes.llama.engines import generate

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Köln", "Bonn"]},
        "days": {"$ref": "#/$defs/days"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 7}},
}
TOOLS = (
    ("weather", "Tells the weather.", json.dumps(SCHEMA)),
    ("roll", "", '{"type": "object", "properties": {"sides": {"enum": [6, 20]}}}'),
)
CHAT = (("user", "Will it rain?"),)
NO_ANALYSIS = ((ord("a"), -100.0), (257, -100.0))
"""Keeps random weights from endless thoughts in Harmony: the tokens `a` and `an`."""


def write_model(path: pathlib.Path, family: str, *merges: str) -> pathlib.Path:
    """The family's template, and its markers as tokens that are no text; with more tokens than the
    usual ones, from 265 on.
    """
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "CHAT_TEMPLATE", tool_templates.BY_FAMILY[family])
        patch.setattr(build, "SPECIALS", [*CALL_MARKERS[family], *build.SPECIALS])
        patch.setattr(build, "MERGES", [*build.MERGES, *merges])
        build.write(path)
    return path


def asked(number: int, **changes: object) -> Generate:
    """A request that must call."""
    fields: dict[str, object] = {
        "prompt": None,
        "messages": CHAT,
        "tools": TOOLS,
        "must_call": True,
        "with_markers": True,
        "max_tokens": 400,
        "seed": number,
        "temperature": 1.5,
        "bias_tokens": tuple(token for token, _ in NO_ANALYSIS),
        "bias_values": tuple(bias for _, bias in NO_ANALYSIS),
    }
    return generate(number, **(fields | changes))


def form_of(family: str) -> ReplyForm:
    """Of an answer to `CHAT`."""
    return ReplyForm(family, "may" if family == HARMONY else "")


def calls_in(family: str, text: str, *, is_cut: bool = False) -> list[tuple[str, object]]:
    """The calls of an answer, which is nothing else; `is_cut`: but for an unfinished one."""
    parser = ReplyParser(form_of(family), {name: parameters for name, _, parameters in TOOLS})
    calls: list[tuple[str, str]] = []
    for delta in [*parser.push(text), *parser.finish()]:
        match delta:
            case CallBegin(_, name):
                calls.append((name, ""))
            case CallArguments(_, more):
                calls[-1] = (calls[-1][0], calls[-1][1] + more)
            case Content() | Thoughts():
                assert is_cut, text
                return [(name, json.loads(arguments)) for name, arguments in calls]
    if is_cut:
        calls.pop()
    return [(name, json.loads(arguments)) for name, arguments in calls]


def assert_valid(name: str, arguments: object) -> None:
    """It keeps its function's schema."""
    assert isinstance(arguments, dict)
    if name == "weather":
        assert arguments.keys() == {"city", "days"}
        assert arguments["city"] in ("Köln", "Bonn")
        assert 1 <= arguments["days"] <= 7
    else:
        assert name == "roll"
        assert arguments.get("sides", 6) in (6, 20)
