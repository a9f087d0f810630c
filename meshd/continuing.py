"""The one place for what an app has got of an answer, and how another run goes on behind it. Pure.

The next run gets the same request with the token ids that have come: it renders the prompt again
and prefills both. Equal content hashes mean equal weights, vocabulary and template, and a token's
randomness depends on the seed and its position alone, so it generates what the broken run would
have. Text needs no seam: which characters are decided by now, and which wait for the rest of a
character or of a stop string, follows from the token ids, so the next run knows it too.

One thing could still differ: a template may write the date down. So a run whose prompt is not the
first one's, token for token, is refused before anything of it is passed on.
"""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Final

from runtimes.base import Chunk, Finished, GenerateEvent, GenerateRequest, ModelCard, Started

FOREIGN_RUNTIMES: Final = ("openai",)
"""Their servers tell no token ids, and may refuse a seed that nobody asked for."""
SEED_BITS: Final = 63


class PromptDiffers(Exception):
    """A run has rendered another prompt than the one that it is to go on with."""


class Progress:
    """One request's answer, however many runs it takes."""

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        self._card: ModelCard | None = None
        """What the run that was passed on last is of."""
        self._started: Started | None = None
        self._is_started_told = False
        self._ids: list[int] = []
        self._ids_before = 0
        """Of them, those from before this run."""
        self._is_foreign = False
        self.finished: Finished | None = None
        """The answer is whole."""

    @property
    def has_begun(self) -> bool:
        """Whether the app has got anything."""
        return self._is_started_told

    @property
    def tokens(self) -> int:
        """How many have come."""
        return len(self._ids)

    @property
    def can_continue(self) -> bool:
        """Whether another run can go on behind what has come."""
        return self._card is not None and not self._is_foreign

    @property
    def like(self) -> ModelCard | None:
        """The model that has to go on; None while nothing has come: any of the name may begin."""
        return self._card if self.has_begun else None

    def next_request(self, card: ModelCard | None) -> GenerateRequest:
        """What to ask the next run, which is of `card`."""
        if not self.has_begun:
            if card is not None and card.runtime in FOREIGN_RUNTIMES:
                return self._request
            return dataclasses.replace(self._request, seed=self._seed)
        self._ids_before = len(self._ids)
        return dataclasses.replace(
            self._request,
            seed=self._seed,
            continued_ids=tuple(self._ids),
            max_tokens=self._tokens_left(),
        )

    def goes_on_with(self, card: ModelCard | None) -> None:
        """What comes now is of a run of `card`."""
        if not self.has_begun:
            self._card = card

    def _tokens_left(self) -> int | None:
        """As many as the first run would still have had; 0: it has only to say how it ended."""
        limits = [] if self._request.max_tokens is None else [self._request.max_tokens]
        if self._card is not None and self._card.context_tokens and self._started is not None:
            limits.append(self._card.context_tokens - len(self._started.prompt_token_ids))
        return max(0, min(limits) - len(self._ids)) if limits else None

    def end_as_far_as_known(self) -> Finished | None:
        """The end, where all tokens have come and nobody is left to say whether the last one was
        also the end of the turn; None while some are missing.
        """
        if self._started is None or self._is_foreign or self._tokens_left() != 0:
            return None
        prompt_tokens = len(self._started.prompt_token_ids)
        self.finished = Finished("length", prompt_tokens, len(self._ids))
        return self.finished

    def take(self, event: GenerateEvent) -> Sequence[GenerateEvent]:
        """What the app gets of a run's next event. Raises PromptDiffers."""
        match event:
            case Started():
                if self.has_begun and event != self._started:
                    raise PromptDiffers
                self._started = event
                return ()
            case Chunk():
                self._ids += event.token_ids
                self._is_foreign |= not event.token_ids
                passed: GenerateEvent = event
            case Finished():
                tokens = self._ids_before + event.completion_tokens
                self.finished = passed = dataclasses.replace(event, completion_tokens=tokens)
        if self._is_started_told or self._started is None:
            return (passed,)
        self._is_started_told = True
        return (self._started, passed)
