"""The one place for how an upstream is asked to go on behind an assistant's last message.

A server is not told by what it lists, but by which software it is:

llama-server   behind its content, or amid its thoughts; its own word for it keeps it from repeating
               what it was given
vLLM           behind its content
others         as their owner says (`continue=1`), and then behind its content: whether Ollama or
               LM Studio do depends on each model's template
"""

from collections.abc import Mapping
from typing import Final

from runtimes.base import CONTENT, THOUGHTS, ChatMessage, GenerateRequest, RuntimeFailure

FIELDS: Final[Mapping[str, bool]] = {
    "continue_final_message": True,
    "add_generation_prompt": False,
}
"""vLLM's words, which llama-server and SGLang have, too."""
REPEATED_MIN: Final = 16
"""Characters: some llama-servers say all that they were given again, whatever they are told. Fewer
may be what the model says next."""
_KNOWN: Final[Mapping[str, str]] = {"llama-server": THOUGHTS, "vLLM": CONTENT}


def prefill_of(software: str, told: bool | None) -> str:
    """See `ModelCard.prefill`. `told`: by the upstream's owner."""
    known = _KNOWN.get(software, CONTENT if told else "")
    return "" if told is False else known


def begun(request: GenerateRequest) -> ChatMessage | None:
    """The message that is to go on, if there is one."""
    last = request.messages[-1] if request.messages else None
    return last if last is not None and last.role == "assistant" else None


def check_begun(request: GenerateRequest, prefill: str) -> None:
    """Raise RuntimeFailure `bad_request` for what such an upstream cannot go on with."""
    message = begun(request)
    if message is not None and message.reasoning and not message.content and prefill != THOUGHTS:
        raise RuntimeFailure("bad_request", "this upstream cannot go on amid thoughts")


class Repeated:
    """Leaves out what an upstream repeats of the text that it goes on behind."""

    def __init__(self, text: str) -> None:
        self._awaited = text if len(text) >= REPEATED_MIN else ""
        self._held = ""
        """As much of it as has come."""

    def new(self, text: str) -> str:
        """What is new of some more text."""
        if not self._awaited:
            return text
        held = self._held + text
        if self._awaited.startswith(held) and held != self._awaited:
            self._held = held
            return ""
        awaited, self._awaited, self._held = self._awaited, "", ""
        return held.removeprefix(awaited)

    def end(self) -> str:
        """What was held, where it was no repetition."""
        held, self._held = self._held, ""
        return held
