"""The one place for the grammar of a whole answer: thoughts, then calls, or what keeps a schema.

Pure. Without tools and thoughts a schema's own grammar (`json_schema.py`) is all there is.
"""

import dataclasses
from typing import Final

from runtimes.base import RuntimeFailure
from runtimes.llama.frames import Generate
from runtimes.llama.json_schema import add_schema, quoted, written
from runtimes.llama.tagged_grammar import add_parameters
from runtimes.llama.up_to import add_up_to
from runtimes.reply_form import CALL_MARKERS, HARMONY, THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm
from runtimes.tagged_calls import TAGS

GRAMMAR_MAX: Final = 512 * 1024
"""Characters of all rules together: compiling them holds up everything else."""

_BEHIND_MARKER: Final = {
    "hermes": '"\\n" call "\\n</tool_call>"',
    "mistral": '"[" call {more} "]"',
    "mistral_args": "call",
    "deepseek": 'call {more} "<｜tool▁calls▁end｜>"',
    "deepseek_v31": 'call {more} "<｜tool▁calls▁end｜>"',
    "qwen_coder": '"\\n" call "\\n</tool_call>"',
    "glm": 'call "</tool_call>"',
    HARMONY: '"commentary to=functions." call',
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
    "hermes": ('{{"name": "{name}", "arguments": ', "}}"),
    "llama3": ('{{"name": "{name}", "parameters": ', "}}"),
    "mistral": ('{{"name": "{name}", "arguments": ', "}}"),
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
        has_head = form.calls == HARMONY and thoughts
        head = quoted("<|channel|>final<|message|>") if has_head else ""
        answers.append(f"{head} {add_schema(rules, request.json_schema)}")
    before = _harmony_thoughts if form.calls == HARMONY else _thoughts
    rules["root"] = f"{before(rules, thoughts)} ({' | '.join(answers)})"
    return dataclasses.replace(request, grammar=_text(rules), json_schema=None)


def _text(rules: dict[str, str]) -> str:
    grammar = written(rules)
    if len(grammar) > GRAMMAR_MAX:
        raise RuntimeFailure("bad_request", "the schemas of all tools together are too large")
    return grammar


def _calls(rules: dict[str, str], request: Generate, form: ReplyForm) -> str:
    calls = [_call(rules, form, name, parameters) for name, _, parameters in request.tools]
    rules["call"] = " | ".join(calls)
    more = _MORE.get(form.calls, "") if request.parallel_calls else ""
    behind = _BEHIND_MARKER.get(form.calls)
    if behind is None:
        rules["one"] = "call"
    else:
        rules["one"] = f"{quoted(CALL_MARKERS[form.calls][0])} {behind.format(more=more)}"
    if form == ReplyForm(HARMONY):  # what it has begun to say ends first
        return f"{quoted('<|end|><|start|>assistant')} one"
    return "one" if behind and "{more}" in behind else f"one {more}"


def _call(rules: dict[str, str], form: ReplyForm, name: str, parameters: str) -> str:
    begin, end = _CALL[form.calls]
    try:
        if form.calls in TAGS:
            arguments = add_parameters(rules, form.calls, parameters)
        else:
            arguments = add_schema(rules, parameters)
    except RuntimeFailure as failure:
        raise RuntimeFailure("bad_request", f"tool {name!r}: {failure.message}") from None
    return f"{quoted(begin.format(name=name))} {arguments} {quoted(end.format())}"


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
