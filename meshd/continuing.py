"""The one place for what an app has got of an answer, and how another run goes on behind it. Pure.

The next run gets the same request with the token ids that have come: it renders the prompt again
and prefills both. Equal content hashes mean equal weights, vocabulary and template, and a token's
randomness depends on the seed and its position alone, so it generates what the broken run would
have. Text needs no seam: which characters are decided by now, and which wait for the rest of a
character or of a stop string, follows from the token ids, so the next run knows it too.

One thing could still differ: a template may write the date down. So a run whose prompt is not the
first one's, token for token, is refused before anything of it is passed on.

What is known only as text is gone on behind as `begun_text.py` has it. Vectors are passed on when
all have come: until then another run may begin anew.
"""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Final

from meshd.begun_text import FOREIGN_RUNTIMES, BegunText
from meshd.choosing import prompt_tokens_max
from runtimes.base import (
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    ModelCard,
    Request,
    Started,
)
from runtimes.embedding import EMBED, NUMBERS_MAX, EmbedRequest, Vector
from runtimes.limits import CONTINUED_TOKENS_MAX

SEED_BITS: Final = 63


class RunUnfit(Exception):
    """A run gives what cannot be a part of this answer; the message says why."""


class Progress:
    """One request's answer, however many runs it takes."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._seed = secrets.randbits(SEED_BITS)
        """For requests that have none."""
        self._card: ModelCard | None = None
        """What the run that was passed on last is of."""
        self._started: Started | None = None
        self._is_started_told = False
        self._ids: list[int] = []
        self._is_foreign = False
        self._text = BegunText(request)
        """Of runs without ids."""
        self._tokens_before = 0
        """Of what has come, all that is from before this run."""
        self._vectors: list[Vector] = []
        """Of this run."""
        self.finished: Finished | None = None
        """The answer is whole."""

    @property
    def has_begun(self) -> bool:
        """Whether the app has got anything."""
        return self._is_started_told

    @property
    def tokens(self) -> int:
        """How many have come."""
        return len(self._ids) + self._text.tokens

    @property
    def can_continue(self) -> bool:
        """Whether another run can go on behind what has come."""
        if self._card is None or not self._is_foreign:
            return self._card is not None
        return self._tokens_left() == 0 or self._request_behind_text() is not None

    @property
    def who_goes_on(self) -> str:
        """What a node does that can, in words."""
        if self._is_foreign:
            return "offers that model on a server that goes on with another's text"
        return "offers the very same model"

    def _request_behind_text(self) -> GenerateRequest | None:
        if self._ids or self._card is None or self._started is None:
            return None
        return self._text.request_behind(self._card, self._started.form)

    @property
    def like(self) -> ModelCard | None:
        """The model that has to go on; None while nothing has come: any of the name may begin."""
        return self._card if self.has_begun else None

    def next_request(self, card: ModelCard | None) -> Request:
        """What to ask the next run, which is of `card`."""
        self._vectors.clear()
        if isinstance(self._request, EmbedRequest):
            return self._request
        seed = self._seed if self._request.seed is None else self._request.seed
        if not self.has_begun:
            if card is not None and card.runtime in FOREIGN_RUNTIMES:
                return self._request
            return dataclasses.replace(self._request, seed=seed)
        self._tokens_before = self.tokens
        if self._is_foreign:
            behind = self._request_behind_text()
            assert behind is not None, "nobody is asked to go on with what cannot be continued"
            return dataclasses.replace(behind, max_tokens=self._tokens_left())
        return dataclasses.replace(
            self._request,
            seed=seed,
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
        context = 0 if self._card is None or self._is_foreign else self._card.context_tokens
        if context and self._started is not None:
            limits.append(context - len(self._started.prompt_token_ids))
        return max(0, min(limits) - self.tokens) if limits else None

    def end_as_far_as_known(self) -> Finished | None:
        """The end, where all tokens have come and nobody is left to say whether the last one was
        also the end of the turn; None while some are missing.
        """
        if self._started is None or self._tokens_left() != 0:
            return None
        prompt_tokens = len(self._started.prompt_token_ids)
        self.finished = Finished("length", prompt_tokens, self.tokens)
        return self.finished

    def end_of_text(self) -> Finished | None:
        """The end, where an upstream has sent all that was asked for: none can be asked for no
        tokens at all, to say how it ended.
        """
        return self.end_as_far_as_known() if self._is_foreign else None

    def take(self, event: GenerateEvent) -> Sequence[GenerateEvent]:
        """What the app gets of a run's next event. Raises RunUnfit."""
        match event:
            case Started():
                if self.has_begun and event != self._started:
                    raise RunUnfit("it renders another prompt")
                self._started = event
                return ()
            case Vector():
                self._take_vector(event)
                return ()
            case Chunk():
                self._take_chunk(event)
                passed: GenerateEvent = event
            case Finished():
                self._check_vectors()
                self.finished = passed = self._counted(event)
        if self._is_started_told or self._started is None:
            return (*self._vectors, passed)
        self._is_started_told = True
        return (self._started, *self._vectors, passed)

    def _take_chunk(self, chunk: Chunk) -> None:
        if not chunk.token_ids:
            self._is_foreign = True
            self._text.add(chunk.text)
            return
        left = self._tokens_left()
        most = CONTINUED_TOKENS_MAX - len(self._ids)
        if len(chunk.token_ids) > (most if left is None else min(left, most)):
            raise RunUnfit("it sends more tokens than were asked for")
        self._ids += chunk.token_ids

    def _counted(self, end: Finished) -> Finished:
        """The end with the tokens that have come, whatever it claims: they are what is learned
        from, told to the app, and counted as used.
        """
        tokens = len(self._ids)
        if self._is_foreign:
            claimed = self._tokens_before + end.completion_tokens
            tokens = min(claimed, tokens + self._text.bytes)
        prompt = len(self._started.prompt_token_ids) if self._started is not None else 0
        if not prompt:  # to an upstream what had come was a part of its prompt
            claimed = max(0, end.prompt_tokens - self._tokens_before)
            prompt = min(claimed, prompt_tokens_max(self._request))
        cached = min(end.cached_tokens, prompt + self._tokens_before)
        return Finished(end.finish_reason, prompt, tokens, cached)

    def _take_vector(self, vector: Vector) -> None:
        request = self._request
        if not isinstance(request, EmbedRequest) or len(self._vectors) == request.count:
            raise RunUnfit("it sends more vectors than were asked for")
        wanted = 1 if request.task != EMBED else request.dimensions
        if self._vectors:
            wanted = self._vectors[0].dimensions
        most = NUMBERS_MAX // request.count
        if vector.dimensions != (wanted or vector.dimensions) or vector.dimensions > most:
            raise RunUnfit(f"it sends a vector of {vector.dimensions} dimensions")
        self._vectors.append(vector)

    def _check_vectors(self) -> None:
        wanted = self._request.count if isinstance(self._request, EmbedRequest) else 0
        if len(self._vectors) != wanted:
            raise RunUnfit(f"it sends {len(self._vectors)} vectors for {wanted} texts")
