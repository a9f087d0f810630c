"""The one place for the grammar of answers that are calls, in the form of each family. Pure."""

import dataclasses
from typing import Final

from runtimes.base import RuntimeFailure
from runtimes.llama.frames import Generate
from runtimes.llama.json_schema import add_schema, quoted, written
from runtimes.reply_form import ReplyForm

_CALLS: Final = {
    "hermes": '"<tool_call>\\n" call "\\n</tool_call>"',
    "llama3": "call",
    "mistral": '"[TOOL_CALLS][" call {more} "]"',
    "mistral_args": '"[TOOL_CALLS]" call',
}
_MORE: Final = {"hermes": '("\\n" one)*', "mistral": '("," space call)*', "mistral_args": "one*"}
"""Further calls; a Llama 3 makes one at a time."""
_THOUGHTS: Final = {
    # Any text without the end of thoughts in it, more or less.
    "open": '([^<] | "<"+ [^/<])* "</think>" [ \\n]{0,8} ',
    "may": '("<think>" ([^<] | "<"+ [^/<])* "</think>" [ \\n]{0,8})? ',
}


def with_call_grammar(request: Generate, form: ReplyForm) -> Generate:
    """The request with the grammar that its tools ask for.

    Where it must call, its answer is one call or several. Where it may, and has a JSON schema, it
    is a call or keeps the schema. Raises RuntimeFailure `bad_request` for a schema that a grammar
    cannot promise.
    """
    if not request.tools or not (request.must_call or request.json_schema):
        return request
    rules: dict[str, str] = {}
    calls = [_call(rules, form, name, parameters) for name, _, parameters in request.tools]
    rules["call"] = " | ".join(calls)
    more = _MORE.get(form.calls, "") if request.parallel_calls else ""
    rules["one"] = _CALLS[form.calls].format(more=more)
    answer = f"one {'' if form.calls == 'mistral' else more}"
    if not request.must_call and request.json_schema:
        answer = f"({answer} | {add_schema(rules, request.json_schema)})"
    rules["root"] = _THOUGHTS.get(form.thoughts, "") + answer
    return dataclasses.replace(request, grammar=written(rules), json_schema=None)


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
