"""The one place for prompts that are long enough to have beginnings with a name."""

from runtimes.base import ChatMessage, GenerateRequest, Tool
from runtimes.images import Image

LONG = "0123456789abcdef" * 256
"""Four blocks."""
ROOM = 100_000


def plain(text: str) -> GenerateRequest:
    """A plain prompt."""
    return GenerateRequest(model="m", prompt=text)


def chat(
    *said: str, tools: tuple[Tool, ...] = (), images: tuple[Image, ...] = ()
) -> GenerateRequest:
    """A conversation, whose turns alternate."""
    roles = ("user", "assistant")
    turns = (ChatMessage(role=roles[n % 2], content=text) for n, text in enumerate(said))
    return GenerateRequest(model="m", messages=tuple(turns), tools=tools, images=images)
