"""The one place for an answer that has begun and is known only as text, and how an upstream goes on
behind it. Pure.

A foreign server tells no token ids, so what has come of its answer becomes the conversation's last
message, or lengthens it where that is an assistant's already (assistant prefill); a plain prompt is
lengthened itself. Nothing that was sent changes. The rest is what such a server makes of that text,
which need not be what the broken run would have given: its tokens may be cut elsewhere.

Not gone on with: thoughts that are not at their end, for servers write them in different ways; a
call that has begun, for its text is no server's own; what keeps to a grammar or a schema, for these
begin at their root; an answer with logprobs.
"""

import dataclasses
import io
from typing import Final

from runtimes.base import ANY, ChatMessage, GenerateRequest, ModelCard, Request, RuntimeFailure
from runtimes.limits import PROMPT_BYTES_MAX, check_request
from runtimes.reply_form import CALL_MARKERS, PLAIN, THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm

FOREIGN_RUNTIMES: Final = ("openai",)
"""Their servers tell no token ids, and may refuse a seed that nobody asked for."""


class BegunText:
    """What has come of one answer, piece by piece."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._text = io.StringIO()
        self.tokens = 0
        """How many: upstreams send a piece for each, mostly."""
        self.bytes = 0
        """No token is less than one."""

    def add(self, text: str) -> None:
        """One more piece; it may be empty, for what is not shown."""
        self.tokens += 1
        self.bytes += max(1, len(text.encode("utf-8", "surrogatepass")))
        if self.bytes <= PROMPT_BYTES_MAX:
            self._text.write(text)
        else:
            self._text = io.StringIO()

    def request_behind(self, card: ModelCard, form: ReplyForm = PLAIN) -> GenerateRequest | None:
        """What to ask a server like that of `card`; None where it cannot go on. `form`: how the
        text is read.
        """
        request = self._request
        if not card.prefill or not isinstance(request, GenerateRequest):
            return None
        is_bound = bool(request.grammar or request.json_schema or request.must_call)
        if is_bound or request.logprobs is not None or request.continued_ids:
            return None
        if self.bytes > PROMPT_BYTES_MAX:
            return None
        behind = self._behind(request, form, card)
        try:
            if behind is not None:
                check_request(behind)
        except RuntimeFailure:  # it has become too long
            return None
        return behind

    def _behind(
        self, request: GenerateRequest, form: ReplyForm, card: ModelCard
    ) -> GenerateRequest | None:
        text, turns = self._text.getvalue(), request.messages
        if turns is None:
            lengthened = dataclasses.replace(request, prompt=f"{request.prompt}{text}")
            return lengthened if card.prefill == ANY else None
        if not text:
            return request
        last = turns[-1] if turns and turns[-1].role == "assistant" else None
        thoughts, content = "", text
        if last is None or not last.content:  # else thoughts are over
            thoughts, content = _parted(text, form)
        has_call = any(marker in content for marker in CALL_MARKERS.get(form.calls, ())[:1])
        if has_call or not content:
            return None
        if last is None:
            begun = ChatMessage(role="assistant", content=content, reasoning=thoughts)
            return dataclasses.replace(request, messages=(*turns, begun))
        begun = dataclasses.replace(
            last, content=last.content + content, reasoning=last.reasoning + thoughts
        )
        return dataclasses.replace(request, messages=(*turns[:-1], begun))


def goes_on_behind_text(
    card: ModelCard, like: ModelCard, request: Request, *, any_quantization: bool
) -> bool:
    """Whether `card`'s server can go on where `like`'s has ended. Their hashes tell nothing: it is
    the name that was asked for, and what else both tell of their weights.
    """
    is_plain = request.messages is None
    if card.runtime != like.runtime or not card.prefill or (is_plain and card.prefill != ANY):
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
