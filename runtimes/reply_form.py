"""The one place for the forms in which models write thoughts and calls into their text.

A model writes calls as its chat template writes them, which tells the family; the text of an answer
is then read by `reply_parser.py`, wherever the answer is worded for an app.
"""

import dataclasses
from typing import Final

THOUGHTS_BEGIN: Final = "<think>"
THOUGHTS_END: Final = "</think>"

HARMONY: Final = "harmony"
"""The family whose answers are several messages, each in a channel, with or without calls."""


@dataclasses.dataclass(frozen=True, slots=True)
class ReplyForm:
    """How the text of one answer is to be read."""

    calls: str = ""
    """A key of `CALL_MARKERS`; empty: there are none. An unknown one means none, too."""
    thoughts: str = ""
    """`may`: the text may begin with thoughts; `open`: it does, and the prompt has opened them.
    In Harmony's form: with a message's head; inside of its thoughts; empty: inside of the answer.
    """

    @property
    def markers(self) -> tuple[str, ...]:
        """What has to be visible in the text."""
        thoughts = (THOUGHTS_BEGIN, THOUGHTS_END) if self.thoughts else ()
        return (*thoughts, *CALL_MARKERS.get(self.calls, ()))


PLAIN: Final = ReplyForm()

_DEEPSEEK: Final = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
)
CALL_MARKERS: Final[dict[str, tuple[str, ...]]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]",),
    "mistral_args": ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    "deepseek": _DEEPSEEK,
    "deepseek_v31": _DEEPSEEK,
    "qwen_coder": ("<tool_call>", "</tool_call>"),
    "glm": (
        *("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>"),
        *("<arg_value>", "</arg_value>"),
    ),
    HARMONY: (
        *("<|channel|>", "<|message|>", "<|constrain|>", "<|start|>"),
        *("<|end|>", "<|call|>", "<|return|>"),
    ),
}
"""By family; a call begins with the first.

    hermes        <tool_call>{"name": ..., "arguments": {...}}</tool_call>, Qwen too
    llama3        {"name": ..., "parameters": {...}}, at the beginning or behind the marker
    mistral       [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
    mistral_args  [TOOL_CALLS]name[ARGS]{...}
    deepseek      <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>name, then {...}
                  as a Markdown block of JSON, <｜tool▁call▁end｜>, more, <｜tool▁calls▁end｜>
    deepseek_v31  the same of name<｜tool▁sep｜>{...}
    qwen_coder    <tool_call><function=name><parameter=key>value</parameter></function></tool_call>
    glm           <tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>
    harmony       <|channel|>commentary to=functions.name <|constrain|>json<|message|>{...}<|call|>

With `qwen_coder` and `glm` a value is the text itself where the function's schema wants a string
there, else JSON.
"""
