"""The one place that turns a request into the tokens of its prompt, and says where images are."""

import dataclasses
from typing import Final

from runtimes.base import ChatMessage, RuntimeFailure, Tool
from runtimes.llama.engine.chat_template import ChatTemplate
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.frames import Generate
from runtimes.llama.images.image_tokens import PlacedImage
from runtimes.llama.images.vision import Vision
from runtimes.reply_form import PLAIN, ReplyForm

TEXT_BYTES_PER_TOKEN_MAX: Final = 256
"""Longer than the longest token of any vocabulary: a prompt beyond this per token of context is
too long without being tokenized."""


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """What a sequence begins with."""

    tokens: list[int]
    form: ReplyForm
    """How the text behind it is to be read."""
    images: tuple[PlacedImage, ...] = ()


class PromptWriter:
    """Writes the prompts of one model."""

    def __init__(self, model: LoadedModel, vision: Vision | None, context_tokens: int) -> None:
        self._model = model
        self._vision = vision
        self._context_tokens = context_tokens
        self._template = ChatTemplate(model.chat_template, bos=model.bos_text, eos=model.eos_text)

    def write(self, request: Generate) -> Prompt:
        """The prompt, which leaves room for what is to come; other ids are of the vocabulary, too.

        Raises RuntimeFailure `bad_request` or `context_too_long`.
        """
        prompt = self._written(request)
        if not prompt.tokens:
            raise RuntimeFailure("bad_request", "the prompt is empty")
        if prompt.tokens[-1] < 0:
            raise RuntimeFailure(
                "bad_request", "the prompt ends with an image; say something of it"
            )
        count = len(prompt.tokens) + len(request.continued_ids)
        if self._context_tokens - count < (0 if request.continued_ids else 1):
            raise self._too_long(f"{count} tokens")
        for name in ("continued_ids", "stop_token_ids"):
            if any(token >= self._model.tokens_known for token in getattr(request, name)):
                raise RuntimeFailure("bad_request", f"{name} are of another model")
        return prompt

    def _written(self, request: Generate) -> Prompt:
        text, form = request.prompt or "", PLAIN
        if request.messages is not None:
            rendered = self._template.render(
                self._turns(request),
                tuple(
                    Tool(name=name, description=description, parameters=parameters)
                    for name, description, parameters in request.tools
                ),
            )
            text = rendered.prompt
            # A grammar holds for all of the text: it has neither thoughts nor calls.
            form = rendered.form if request.grammar is None else PLAIN
        text_bytes = len(text.encode())
        if text_bytes > self._context_tokens * TEXT_BYTES_PER_TOKEN_MAX:
            raise self._too_long(f"{text_bytes} bytes")
        if not request.images:
            is_rendered = request.messages is not None
            return Prompt(self._model.tokenize(text, is_rendered=is_rendered), form)
        assert self._vision is not None, "the daemon knows what the model is made for"
        tokens, images = self._vision.tokenize(
            text, request.images, add_special=not self._model.begins(text)
        )
        return Prompt(tokens, form, images)

    def _turns(self, request: Generate) -> tuple[ChatMessage, ...]:
        """The messages, a marker in each place where an image is."""
        turns = [ChatMessage.of_texts(texts) for texts in request.messages or ()]
        marker = "" if self._vision is None else self._vision.marker
        for message, at in reversed(request.image_places):  # so that places before it stay
            content = turns[message].content
            shown = content[:at] + marker + content[at:]
            turns[message] = dataclasses.replace(turns[message], content=shown)
        return tuple(turns)

    def _too_long(self, size: str) -> RuntimeFailure:
        return RuntimeFailure(
            "context_too_long",
            f"the prompt has {size}, and the context holds {self._context_tokens} tokens",
        )
