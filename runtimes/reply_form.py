"""The one place for the forms in which models write thoughts and calls into their text.

A model writes calls as its chat template writes them, which tells the family; the text of an answer
is then read by `reply_parser.py`, wherever the answer is worded for an app.
"""

import dataclasses
from typing import Final

THOUGHTS_BEGIN: Final = "<think>"
THOUGHTS_END: Final = "</think>"


@dataclasses.dataclass(frozen=True, slots=True)
class ReplyForm:
    """How the text of one answer is to be read."""

    calls: str = ""
    """A key of `CALL_MARKERS`; empty: there are none. An unknown one means none, too."""
    thoughts: str = ""
    """`may`: the text may begin with thoughts; `open`: it does, and the prompt has opened them."""

    @property
    def markers(self) -> tuple[str, ...]:
        """What has to be visible in the text."""
        thoughts = (THOUGHTS_BEGIN, THOUGHTS_END) if self.thoughts else ()
        return (*thoughts, *CALL_MARKERS.get(self.calls, ()))


PLAIN: Final = ReplyForm()

CALL_MARKERS: Final[dict[str, tuple[str, ...]]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]",),
    "mistral_args": ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
}
"""By family; a call begins with the first.

    hermes        <tool_call>{"name": ..., "arguments": {...}}</tool_call>, Qwen too
    llama3        {"name": ..., "parameters": {...}}, at the beginning or behind the marker
    mistral       [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
    mistral_args  [TOOL_CALLS]name[ARGS]{...}
"""
