"""The one place for how an upstream is asked to go on behind an assistant's last message.

A server is not told by what it lists, but by which software it is:

llama-server   goes on; its own word for it keeps it from repeating what it was given
vLLM           goes on
others         as their owner says (`continue=1`), and in chats alone: whether Ollama or LM Studio
               do depends on each model's template, and Ollama words plain prompts anew
"""

from collections.abc import Mapping
from typing import Final

from runtimes.base import ANY, CHAT, GenerateRequest

FIELDS: Final[Mapping[str, bool]] = {
    "continue_final_message": True,
    "add_generation_prompt": False,
}
"""vLLM's words, which llama-server and SGLang have, too."""
REPEATED_MIN: Final = 16
"""Characters. Fewer may be what the model says next."""
_KNOWN: Final = ("llama-server", "vLLM")


def prefill_of(software: str, told: bool | None) -> str:
    """See `ModelCard.prefill`. `told`: by the upstream's owner."""
    if told is False:
        return ""
    return ANY if software in _KNOWN else CHAT if told else ""


def begun(request: GenerateRequest, prefill: str) -> str:
    """What is said in the message that is to go on; empty where nothing is, or it cannot."""
    last = request.messages[-1] if request.messages else None
    return last.content if prefill and last is not None and last.role == "assistant" else ""


class Repeated:
    """Leaves out what an upstream repeats of the text that it goes on behind: some llama-servers
    say it all again, whatever they are told, in one piece with the first token.
    """

    def __init__(self, text: str) -> None:
        self._text = text if len(text) >= REPEATED_MIN else ""

    def new(self, piece: str) -> str:
        """What is new in a piece. Only the first one can repeat anything."""
        if not self._text or not piece:
            return piece
        text, self._text = self._text, ""
        return piece.removeprefix(text)
