"""The one place for the grammar of a whole answer: thoughts, then calls, or what keeps a schema.

Pure. Without tools and thoughts a schema's own grammar (`json_schema.py`) is all there is.
"""

import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable
from typing import Final, Optional

from runtimes.base import RuntimeFailure
from runtimes.llama.frames import Generate
from runtimes.llama.grammars.call_watch import CallWatch, Watched, call_marker
from runtimes.llama.grammars.json_schema import add_schema, quoted, written
from runtimes.llama.grammars.tagged_grammar import add_parameters
from runtimes.llama.grammars.up_to import add_up_to
from runtimes.reply_form import HARMONY, THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm
from runtimes.tagged_calls import TAGS

GRAMMAR_MAX: Final = 512 * 1024
"""Characters of all rules together: compiling them holds up everything else."""
REPEATS_MAX: Final = 100_000
"""Of all rules of a begun call together: llama.cpp's parser writes them out, in 70 ms, in the midst
of an answer."""
_REPEATED: Final = re.compile(r"\{(\d{1,4})(?:,(\d{0,4}))?\}")

_BEHIND_MARKER: Final = {
    "hermes": '"\\n"? call "\\n"? "</tool_call>"',
    "mistral": '" "? "[" call {more} "]"',
    "mistral_args": "call",
    "deepseek": 'call {more} "<｜tool▁calls▁end｜>"',
    "deepseek_v31": 'call {more} "<｜tool▁calls▁end｜>"',
    "qwen_coder": '"\\n" call "\\n</tool_call>"',
    "glm": 'call "</tool_call>"',
    HARMONY: "call",
}
"""What follows the marker that a call begins with. A Llama 3 writes none."""
_MORE: Final = {
    "hermes": '("\\n" one)*',
    "mistral": '("," space call)*',
    "mistral_args": "one*",
    "deepseek": '("\\n" call)*',
    "deepseek_v31": "call*",
    "qwen_coder": '("\\n" one)*',
    "glm": '("\\n" one)*',
}
"""Further calls; a Llama 3 makes one at a time, and so does Harmony."""
_CALL: Final = {
    "mistral_args": ("{name}[ARGS]", ""),
    "deepseek": (
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n",
        "\n```<｜tool▁call▁end｜>",
    ),
    "deepseek_v31": ("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    "qwen_coder": ("<function={name}>\n", "</function>"),
    "glm": ("{name}\n", ""),
    HARMONY: ("{name} <|constrain|>json<|message|>", ""),
}
"""What stands before and behind arguments."""
_MEMBER: Final = {"hermes": "arguments", "llama3": "parameters", "mistral": "arguments"}
"""What arguments are called where a call is an object."""


def with_reply_grammar(request: Generate, form: ReplyForm) -> Generate:
    """The request with the grammar that its tools and the form of its answer ask for.

    Where it must call, its answer is one call or several. Where it may, and has a JSON schema, it
    is a call or keeps the schema. Thoughts may come before. Raises RuntimeFailure `bad_request`
    for a schema that a grammar cannot promise.
    """
    thoughts = form.thoughts if request.with_markers else ""
    is_held = request.must_call or request.json_schema is not None
    if not is_held or not (request.tools or thoughts):
        return request
    rules: dict[str, str] = {}
    answers = []
    if request.tools:
        calls = [_held_call(rules, form, name, text) for name, _, text in request.tools]
        answers.append(_add_calls(rules, request, form, calls)[0])
    if not request.must_call and request.json_schema is not None:
        has_head = form.calls == HARMONY and thoughts
        head = quoted("<|channel|>final<|message|>") if has_head else ""
        answers.append(f"{head} {add_schema(rules, request.json_schema)}")
    before = _harmony_thoughts if form.calls == HARMONY else _thoughts
    rules["root"] = f"{before(rules, thoughts)} ({' | '.join(map(str.strip, answers))})"
    return dataclasses.replace(request, grammar=_text(rules), json_schema=None)


class BegunCalls:
    """The calls that a free answer may have, once one has begun by its marker."""

    def __init__(self, request: Generate, form: ReplyForm) -> None:
        self.watch = CallWatch(form)
        self._request = request
        self._form = form

    @classmethod
    def of(cls, request: Generate, form: ReplyForm) -> Optional["BegunCalls"]:
        """Those of a request whose answer is free; None where there are none, or no marker begins
        one.
        """
        is_held = request.must_call or not (request.json_schema is request.grammar is None)
        if is_held or not request.tools or not request.with_markers:
            return None
        return cls(request, form) if form.calls in _BEHIND_MARKER else None

    def root(self, watched: Watched) -> str:
        """The first rule of `source` where so much is known of the text."""
        return f"m{self.watch.marker_part(watched)}"

    @functools.cached_property
    def source(self) -> str | None:
        """The grammar of what comes then. What a grammar cannot promise of a function's arguments,
        or not beside those of the functions before it, is left open, for the answer was free to
        have them. None: it would be too large.
        """
        form = self._form
        rules: dict[str, str] = {}
        # First, while there is room.
        free = _add_arguments(rules, form, "{}" if form.calls in TAGS else '{"type": "object"}')
        calls = []
        repeats = 0
        for name, _, parameters in self._request.tools:
            arguments, added = free, dict(rules)
            with contextlib.suppress(RuntimeFailure):
                kept = _add_arguments(added, form, parameters)
                more = _repeats(itertools.islice(added.values(), len(rules), None))
                if repeats + more <= REPEATS_MAX:
                    arguments, rules, repeats = kept, added, repeats + more
            calls.append(_call(form, name, arguments))
        _, behind = _add_calls(rules, self._request, form, calls)
        add_up_to(rules, "m", self.watch.marker, behind)
        with contextlib.suppress(RuntimeFailure):
            return _text(rules)
        return None


def _repeats(rules: Iterable[str]) -> int:
    found = itertools.chain.from_iterable(map(_REPEATED.findall, rules))
    return sum(int(most or least) for least, most in found)


def _text(rules: dict[str, str]) -> str:
    grammar = written(rules)
    if len(grammar) > GRAMMAR_MAX:
        raise RuntimeFailure("bad_request", "the schemas of all tools together are too large")
    return grammar


def _held_call(rules: dict[str, str], form: ReplyForm, name: str, parameters: str) -> str:
    try:
        return _call(form, name, _add_arguments(rules, form, parameters))
    except RuntimeFailure as failure:
        raise RuntimeFailure("bad_request", f"tool {name!r}: {failure.message}") from None


def _add_calls(
    rules: dict[str, str], request: Generate, form: ReplyForm, calls: list[str]
) -> tuple[str, str]:
    """Add the rules of these calls, one for each tool; return what stands for all of an answer's,
    and for what comes behind the marker of the first.
    """
    rules["call"] = " | ".join(calls)
    more = _MORE.get(form.calls, "") if request.parallel_calls else ""
    behind = _BEHIND_MARKER.get(form.calls, "call")
    further = "" if "{more}" in behind else more
    behind = behind.format(more=more)
    marker = quoted(call_marker(form.calls)) if form.calls in _BEHIND_MARKER else ""
    rules["one"] = f"{marker} {behind}"
    # What a message of Harmony's has begun to say ends first.
    before = quoted("<|end|><|start|>assistant") if form == ReplyForm(HARMONY) else ""
    return f"{before} one {further}", f"{behind} {further}"


def _add_arguments(rules: dict[str, str], form: ReplyForm, parameters: str) -> str:
    if form.calls in TAGS:
        return add_parameters(rules, form.calls, parameters)
    return add_schema(rules, parameters)


def _call(form: ReplyForm, name: str, arguments: str) -> str:
    if form.calls in _MEMBER:
        parts = ('{"name":', f'"{name}",', f'"{_MEMBER[form.calls]}":')
        return ' " "? '.join((*map(quoted, parts), f'{arguments} "}}"'))
    begin, end = _CALL[form.calls]
    return f"{quoted(begin.format(name=name))} {arguments} {quoted(end)}"


def _thoughts(rules: dict[str, str], thoughts: str) -> str:
    """Any text up to the first end of thoughts, and space; none, or none of it, where it may be."""
    if not thoughts:
        return ""
    text = add_up_to(rules, "t", THOUGHTS_END, r"[ \n]{0,8}")
    return text if thoughts == "open" else f'("{THOUGHTS_BEGIN}" {text})?'


def _harmony_thoughts(rules: dict[str, str], thoughts: str) -> str:
    """The same as a message of its own."""
    if not thoughts:
        return ""
    text = add_up_to(rules, "t", "<|end|>", quoted("<|start|>assistant"))
    return text if thoughts == "open" else f'("<|channel|>analysis<|message|>" {text})?'
