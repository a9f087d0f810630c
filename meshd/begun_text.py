"""The one place for an answer that has begun and is known only as text, and how an upstream goes on
behind it. Pure.

A foreign server tells no token ids, so what has come of its answer becomes the conversation's last
message, or lengthens it where that is an assistant's already (assistant prefill); a plain prompt is
lengthened itself. Nothing that was sent changes. The rest is what such a server makes of that text,
which need not be what the broken run would have given: its tokens may be cut elsewhere.

Not gone on behind: a call that has begun, for its text is no server's own; what keeps to a grammar
or a schema, for these begin at their root; an answer with logprobs.
"""

import dataclasses
from typing import Final

from runtimes.base import THOUGHTS, ChatMessage, GenerateRequest, ModelCard, Request
from runtimes.limits import PROMPT_BYTES_MAX
from runtimes.reply_form import CALL_MARKERS, PLAIN, THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm

FOREIGN_RUNTIMES: Final = ("openai",)
"""Their servers tell no token ids, and may refuse a seed that nobody asked for."""


class BegunText:
    """What has come of one answer, piece by piece."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._pieces: list[str] = []
        self.tokens = 0
        """How many: upstreams send a piece for each, mostly."""
        self.bytes = 0
        """No token is less than one."""

    def add(self, text: str) -> None:
        """One more piece; it may be empty, for what is not shown."""
        self.tokens += 1
        size = len(text.encode("utf-8", "surrogatepass"))
        self.bytes += max(1, size)
        if text and self.bytes <= PROMPT_BYTES_MAX:
            self._pieces.append(text)

    def request_behind(self, card: ModelCard, form: ReplyForm = PLAIN) -> GenerateRequest | None:
        """What to ask the next server, which is one like that of `card`; None where it cannot go
        on. `form`: how the text is read.
        """
        request = self._request
        if not card.prefill:
            return None
        if not isinstance(request, GenerateRequest) or self.bytes > PROMPT_BYTES_MAX:
            return None
        if request.grammar or request.json_schema or request.must_call:
            return None
        if request.logprobs is not None or request.continued_ids:
            return None
        text = "".join(self._pieces)
        if request.messages is None:
            return dataclasses.replace(request, prompt=f"{request.prompt}{text}")
        thoughts, content = _parted(text, form)
        if any(marker in content for marker in CALL_MARKERS.get(form.calls, ())[:1]):
            return None
        if thoughts and not content and card.prefill != THOUGHTS:
            return None
        return dataclasses.replace(request, messages=_behind(request.messages, thoughts, content))


def goes_on_behind_text(card: ModelCard, like: ModelCard, *, any_quantization: bool) -> bool:
    """Whether `card`'s server can go on where `like`'s has ended. Their hashes tell nothing: it is
    the name that was asked for, and what else both tell of their weights.
    """
    if card.runtime != like.runtime or card.prefill not in (like.prefill, THOUGHTS):
        return False
    told = [(card.parameters, like.parameters)]
    if not any_quantization:
        told.append((card.size_bytes, like.size_bytes))
    return all(mine == theirs or 0 in (mine, theirs) for mine, theirs in told)


def _parted(text: str, form: ReplyForm) -> tuple[str, str]:
    """Thoughts and content."""
    if not form.thoughts or not text.startswith(THOUGHTS_BEGIN):
        return "", text
    thoughts, _, content = text.removeprefix(THOUGHTS_BEGIN).partition(THOUGHTS_END)
    return thoughts, content


def _behind(
    messages: tuple[ChatMessage, ...], thoughts: str, content: str
) -> tuple[ChatMessage, ...]:
    if not thoughts and not content:
        return messages
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant":
        begun = ChatMessage(role="assistant", content=content, reasoning=thoughts)
        return (*messages, begun)
    lengthened = dataclasses.replace(
        last, content=last.content + content, reasoning=last.reasoning + thoughts
    )
    return (*messages[:-1], lengthened)
