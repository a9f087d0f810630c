"""The one place for the grammar of a whole answer: thoughts, then calls, or what keeps a schema.

Pure. Without tools and thoughts a schema's own grammar (`json_schema.py`) is all there is.
"""

import dataclasses
from typing import Final

from runtimes.base import RuntimeFailure
from runtimes.llama.frames import Generate
from runtimes.llama.json_schema import add_schema, quoted, written
from runtimes.reply_form import THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm

GRAMMAR_MAX: Final = 512 * 1024
"""Characters of all rules together: compiling them holds up everything else."""

_CALLS: Final = {
    "hermes": '"<tool_call>\\n" call "\\n</tool_call>"',
    "llama3": "call",
    "mistral": '"[TOOL_CALLS][" call {more} "]"',
    "mistral_args": '"[TOOL_CALLS]" call',
}
_MORE: Final = {"hermes": '("\\n" one)*', "mistral": '("," space call)*', "mistral_args": "one*"}
"""Further calls; a Llama 3 makes one at a time."""


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
        answers.append(_calls(rules, request, form))
    if not request.must_call and request.json_schema is not None:
        answers.append(add_schema(rules, request.json_schema))
    rules["root"] = f"{_thoughts(rules, thoughts)} ({' | '.join(answers)})"
    grammar = written(rules)
    if len(grammar) > GRAMMAR_MAX:
        raise RuntimeFailure("bad_request", "the schemas of all tools together are too large")
    return dataclasses.replace(request, grammar=grammar, json_schema=None)


def _calls(rules: dict[str, str], request: Generate, form: ReplyForm) -> str:
    calls = [_call(rules, form, name, parameters) for name, _, parameters in request.tools]
    rules["call"] = " | ".join(calls)
    more = _MORE.get(form.calls, "") if request.parallel_calls else ""
    rules["one"] = _CALLS[form.calls].format(more=more)
    return "one" if form.calls == "mistral" else f"one {more}"


def _call(rules: dict[str, str], form: ReplyForm, name: str, parameters: str) -> str:
    try:
        arguments = add_schema(rules, parameters)
    except RuntimeFailure as failure:
        raise RuntimeFailure("bad_request", f"tool {name!r}: {failure.message}") from None
    if form.calls == "mistral_args":
        return f"{quoted(name + '[ARGS]')} {arguments}"
    key = "parameters" if form.calls == "llama3" else "arguments"
    begin = f'{{"name": "{name}", "{key}": '
    return f'{quoted(begin)} {arguments} "}}"'


def _thoughts(rules: dict[str, str], thoughts: str) -> str:
    """Any text up to the first end of thoughts, and space; none, or none of it, where it may be."""
    if not thoughts:
        return ""
    # One rule for each letter of the end: after another letter than that it begins anew.
    for at, letter in enumerate(THOUGHTS_END):
        then = f"t{at + 1}" if at + 1 < len(THOUGHTS_END) else r"[ \n]{0,8}"
        anew = '| "<" t1' if at > 0 else ""
        rules[f"t{at}"] = f'"{letter}" {then} {anew} | [^<{letter}] t0'
    return "t0" if thoughts == "open" else f'("{THOUGHTS_BEGIN}" t0)?'
