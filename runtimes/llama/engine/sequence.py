"""The one place for one request on its way through the engine: its tokens, its text, its end."""

import dataclasses
from collections.abc import Iterable

from runtimes.base import Logprob
from runtimes.completion_text import CompletionText
from runtimes.llama.engine.kv_memory import Held
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.engine.sampler import Sampler
from runtimes.llama.frames import Encoding, Ended, Failed, Prefilled, Tokens
from runtimes.llama.images.image_tokens import PlacedImage

StepResult = Prefilled | Encoding | Tokens | Ended | Failed


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One open request."""

    request: int
    tokens: list[int]
    """Prompt, continued and sampled ones: everything that is known. For those of images see
    `image_tokens.py`."""
    prompt_tokens: int
    tokens_max: int
    """New tokens at most."""
    sampler: Sampler
    text: CompletionText
    images: tuple[PlacedImage, ...] = ()
    """Of the prompt, in their order."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told with each; None: nothing is."""
    visible: frozenset[int] = frozenset()
    """Tokens that are text here, though the vocabulary holds them to be none: markers."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end it as the model's own end of turn does."""
    held: Held | None = None
    """Its part of the KV cache; None while it waits for room."""
    cached_tokens: int | None = None
    """Prompt tokens that need not be decoded; None before it first had room."""
    completion_tokens: int = 0
    ending: str = ""
    """Why it is over, if it is."""

    @property
    def decoded(self) -> int:
        """Tokens that the context has seen; the position of the next."""
        return 0 if self.held is None else len(self.held.tokens)

    @property
    def pending(self) -> int:
        """Tokens that the context has not seen."""
        return len(self.tokens) - self.decoded

    @property
    def image(self) -> PlacedImage | None:
        """The image whose tokens come next, if it is no text."""
        at = self.decoded
        return next((image for image in self.images if image.start <= at < image.end), None)

    @property
    def must_encode(self) -> bool:
        """Whether an image comes next that is not computed yet."""
        return self.image is not None and self.image.vectors is None

    @property
    def pending_text(self) -> int:
        """Tokens that the context has not seen, up to the next image."""
        starts = [image.start for image in self.images if image.start >= self.decoded]
        return min([*starts, len(self.tokens)]) - self.decoded

    def position(self, place: int) -> int:
        """The position of the token in this place, which is no inner one of an image."""
        before = (image for image in self.images if image.end <= place)
        return place - sum(image.tokens - image.positions for image in before)

    @property
    def straight(self) -> int:
        """With how many tokens it begins whose position is their place."""
        bent = (image.start for image in self.images if image.positions != image.tokens)
        return next(bent, 2**31)

    def continue_from(self, model: LoadedModel, continued: tuple[int, ...]) -> None:
        """Take in tokens that were generated elsewhere, as if they had been sampled here."""
        for token in continued:
            is_end = self._is_end(model, token)
            if not is_end:
                self.text.push(self._piece(model, token))
            if is_end or self.text.stopped:
                self.ending = "stop"
        if continued and not self.ending and self.tokens_max < 1:
            self.ending = "length"

    def push(
        self, model: LoadedModel, token: int | None, likely: tuple[Logprob, ...] = ()
    ) -> Tokens | None:
        """Add a sampled token and see whether it was the last; None: there can be none.

        Then the turn ends as if the model had ended it. Returns what to tell of it, with `likely`.
        """
        if token is None:
            self.ending = "stop"
            if not model.end_tokens:
                return None
            token = model.end_tokens[0]
        self.completion_tokens += 1
        self.tokens.append(token)
        is_end = self._is_end(model, token)
        text = "" if is_end else self.text.push(self._piece(model, token))
        if is_end or self.text.stopped:
            self.ending = "stop"
        elif self.completion_tokens >= self.tokens_max:
            self.ending = "length"
        if self.ending:
            text += self.text.finish()
        return Tokens(
            request=self.request,
            token_ids=(token,),
            text=text,
            likely_ids=tuple(each.token for each in likely),
            likely_data=tuple(each.data for each in likely),
            likely_logprobs=tuple(each.logprob for each in likely),
        )

    def _is_end(self, model: LoadedModel, token: int) -> bool:
        return model.is_end(token) or token in self.stop_token_ids

    def _piece(self, model: LoadedModel, token: int) -> bytes:
        return model.piece(token, special=token in self.visible)

    def ended(self) -> Ended:
        """The last word."""
        return Ended(
            request=self.request,
            finish_reason=self.ending,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens or 0,
        )


def streams(sequences: Iterable[Sequence]) -> int:
    """How many of them only wait for their next token."""
    return sum(sequence.pending == 1 for sequence in sequences)
