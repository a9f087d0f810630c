"""The one place where tokens are computed: requests become sequences, steps make them longer.

The engine knows no pipe. Its owner opens requests, calls `step` over and over, and may do
anything between two steps: cancel, open another, pause one. A step is one `llama_decode` for all
sequences: first one token for each that generates, then pieces of prompts, shared out fairly. So
no prompt keeps another stream waiting for more than one step.

The KV cache is a budget of tokens (kv_memory.py). A sequence that does not fit waits, in order of
arrival. What runs grows; when the room is used up, kept sequences go first, then the cells of
those that are paused, then those of the youngest: they are computed again when there is room. The
oldest always goes on, because one full context fits.

An image in a prompt is computed in a step of its own (vision.py) and then read in the place of
tokens, by a decode of its own, because llama.cpp takes either tokens or vectors.

With `reproducible`, each sequence is decoded alone, in pieces that depend on nothing but its own
tokens, and in a part of the cache of its own: no other request changes the rounding of a logit.
"""

import secrets
import time
from collections.abc import Callable, Collection

from runtimes.base import Logprob, RuntimeFailure
from runtimes.completion_text import CompletionText
from runtimes.llama.batch import Batch, fair_shares
from runtimes.llama.bindings import Handle
from runtimes.llama.capacity import Capacity, plan_capacity
from runtimes.llama.context_length import default_context_tokens
from runtimes.llama.frames import Embed, Failed, Generate, Load, Prefilled
from runtimes.llama.image_tokens import as_ids
from runtimes.llama.kv_memory import KvMemory
from runtimes.llama.logprobs import logprobs
from runtimes.llama.model import LoadedModel
from runtimes.llama.pace import BATCH_TOKENS_MAX, PIECE_TOKENS_MIN, Pace
from runtimes.llama.parking import Parking
from runtimes.llama.prompt import PromptWriter
from runtimes.llama.reply_grammar import BegunCalls, with_reply_grammar
from runtimes.llama.sampler import Sampler
from runtimes.llama.sequence import Sequence, StepResult
from runtimes.llama.vision import Vision
from runtimes.reply_form import PLAIN, ReplyForm

REPRODUCIBLE_TOKENS = 128
"""Prompt tokens in one decode where each sequence is decoded alone. What is reused are whole
pieces of this size: they were computed in the same shape."""
GROWTH_TOKENS = 32
"""Room that a sequence must find for new tokens before it begins, lest it is thrown out at once."""


class EngineBroken(Exception):
    """llama.cpp failed in a way after which its state is unknown; the process must end."""


class Engine:
    """One model in one context. Not safe for threads."""

    def __init__(
        self,
        model: LoadedModel,
        load: Load,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Make the context. Raises RuntimeFailure with a code that `serve` knows."""
        self._llama = model.bindings
        self._log = model.log
        self.model = model
        trained = self.model.trained_context_tokens
        self.context_tokens = load.context_tokens or default_context_tokens(trained)
        self._vision = None if load.projector is None else Vision(model, load)
        self._prompts = PromptWriter(model, self._vision, self.context_tokens)
        capacity = plan_capacity(
            context_tokens=self.context_tokens,
            parameters=self.model.parameters,
            kv_bytes_per_token=self.model.kv_bytes_per_token,
            memory_bytes=load.memory_bytes,
            gpu=self.model.gpu_offload and load.gpu_layers != 0,
            slots=load.slots,
            kv_tokens=load.kv_tokens,
            reproducible=load.reproducible,
        )
        self.slots = capacity.slots
        self._is_shared = capacity.is_shared
        self._context = self._make_context(load, capacity)
        parking = Parking(self._llama, self._context, capacity.parked_bytes)
        self.memory = KvMemory(
            self._llama,
            self._llama.llama_get_memory(self._context),
            cells=capacity.kv_tokens,
            sequences=capacity.sequences,
            is_shared=capacity.is_shared,
            can_cut=not self.model.is_recurrent,
            unit=1 if capacity.is_shared else REPRODUCIBLE_TOKENS,
            tile=PIECE_TOKENS_MIN if capacity.is_shared else 1,
            parking=parking if capacity.is_shared else None,
            kept_max=capacity.kept_tokens,
        )
        self._batch = Batch(self._llama, BATCH_TOKENS_MAX)
        self._pace = Pace(clock)
        self._rows: dict[int, int] = {}
        """Of the last batch: the row of each request's last token."""
        self._sequences: dict[int, Sequence] = {}
        """In order of arrival."""

    @property
    def has_room(self) -> bool:
        """Whether another request can be opened."""
        return len(self._sequences) < self.slots

    def open(self, request: Generate | Embed) -> tuple[tuple[int, ...], ReplyForm]:
        """Take a request on; return its prompt's token ids, and how its text is to be read.
        Nothing is decoded yet.

        Raises RuntimeFailure `bad_request` or `context_too_long`, and holds nothing then.
        """
        assert self.has_room
        assert isinstance(request, Generate), "the daemon knows what the model is made for"
        written = self._prompts.write(request)
        prompt, form = written.tokens, written.form
        room = self.context_tokens - len(prompt) - len(request.continued_ids)
        for name in ("continued_ids", "stop_token_ids"):
            if any(token >= self.model.tokens_known for token in getattr(request, name)):
                raise RuntimeFailure("bad_request", f"{name} are of another model")
        seed = secrets.randbits(63) if request.seed is None else request.seed
        visible = self.model.tokens_of(form.markers) if request.with_markers else frozenset()
        sampler = Sampler(
            self._llama,
            self.model,
            with_reply_grammar(request, form),
            seed,
            BegunCalls.of(request, form),
            visible,
        )
        sequence = Sequence(
            request=request.request,
            tokens=[*prompt, *request.continued_ids],
            prompt_tokens=len(prompt),
            images=written.images,
            tokens_max=room if request.max_tokens is None else min(room, request.max_tokens),
            sampler=sampler,
            text=CompletionText(request.stop),
            logprobs=request.logprobs,
            stop_token_ids=frozenset(request.stop_token_ids),
            visible=visible,
        )
        try:
            sequence.continue_from(self.model, request.continued_ids)
            if not sequence.ending:
                sampler.begin([token for token in prompt if token >= 0], request.continued_ids)
        except RuntimeFailure:
            sampler.close()
            raise
        self._sequences[request.request] = sequence
        return as_ids(prompt), form if request.with_markers else PLAIN

    def close(self, request: int) -> bool:
        """Forget a request and what the context remembers of it; False if it is not open."""
        sequence = self._sequences.get(request)
        if sequence is None:
            return False
        self._drop(sequence, keep=False)
        return True

    def step(self, allowed: Collection[int]) -> list[StepResult]:
        """Do one decode for the open requests in `allowed`; return what came of it.

        A request whose `Ended` or `Failed` is among the results is closed. Raises EngineBroken.
        """
        results: list[StepResult] = []
        active = [self._sequences[request] for request in sorted(allowed)]
        ready = self._admit([sequence for sequence in active if not sequence.ending], allowed)
        if self._is_shared:
            results += self._step_together(ready, allowed)
        else:
            for sequence in ready:
                results += self._step_alone(sequence)
        for sequence in active:
            if sequence.ending:
                results.append(sequence.ended())
                self._drop(sequence, keep=True)
        return results

    def _admit(self, active: list[Sequence], allowed: Collection[int]) -> list[Sequence]:
        """Give room to those who wait for it, in their order; return those who have it."""
        for sequence in active:
            if sequence.held is not None:
                continue
            while sequence.held is None:
                sequence.held = self.memory.take(
                    sequence.tokens,
                    prompt_tokens=sequence.prompt_tokens,
                    margin=GROWTH_TOKENS,
                    straight=sequence.straight,
                )
                if sequence.held is None and not self._drop_paused(allowed):
                    break
            if sequence.held is None:
                break  # nobody overtakes
            if sequence.cached_tokens is None:
                sequence.cached_tokens = min(sequence.decoded, sequence.prompt_tokens)
        return [sequence for sequence in active if sequence.held is not None]

    def _step_together(self, ready: list[Sequence], allowed: Collection[int]) -> list[StepResult]:
        results = self._look(ready, allowed)
        ready = [each for each in ready if each.held is not None and each.image is None]
        return results + self._read(ready, allowed)

    def _look(self, ready: list[Sequence], allowed: Collection[int]) -> list[StepResult]:
        """Do the next piece of work for the image that came first, if there is any: one for all,
        so that many images hold up nobody longer than one.
        """
        looking = next((each for each in ready if each.image is not None), None)
        if looking is None or looking.image is None:
            return []
        image = looking.image
        streams = sum(each.pending == 1 for each in ready)
        most = BATCH_TOKENS_MAX if image.is_whole else self._pace.prompt_tokens(streams=streams)
        waiting = list(ready)
        while not self._has_cells(min(most, image.end - looking.decoded), allowed):
            youngest = waiting.pop()
            if not waiting:
                raise self._broken(1)
            self._make_wait(youngest)
            if youngest is looking:
                return []
        return self._step_image(looking, most)

    def _step_image(self, sequence: Sequence, most: int) -> list[StepResult]:
        """Compute what is read of an image, or read so many tokens of it."""
        image = sequence.image
        assert image is not None
        assert sequence.held is not None
        assert self._vision is not None
        request = sequence.request
        if image.vectors is None:
            if not self._vision.encode(image):
                self._drop(sequence, keep=False)
                why = f"an image cannot be encoded ({self._log.last_error() or 'no reason given'})"
                return [Failed(request=request, code="crashed", message=why)]
            return [Prefilled(request=request, tokens=sequence.decoded)]
        start = sequence.decoded
        piece = min(most, image.end - start)
        code = self._vision.decode(
            self._context,
            image,
            range(start - image.start, start - image.start + piece),
            sequence=sequence.held.number,
            position=sequence.position(image.start),
        )
        if code != 0:
            raise self._broken(code)
        self.memory.grow(sequence.held, sequence.tokens[start : start + piece])
        if sequence.decoded == image.end:
            image.vectors = None
        return [Prefilled(request=request, tokens=sequence.decoded)]

    def _read(self, ready: list[Sequence], allowed: Collection[int]) -> list[StepResult]:
        while ready:
            pieces = self._plan(ready)
            if self._has_cells(sum(pieces), allowed):
                self._pace.start()
                code = self._decode(list(zip(ready, pieces, strict=True)))
                self._pace.end(sum(pieces))
                if code == 0:
                    return self._outcome(ready, pieces)
                if code != 1:
                    raise self._broken(code)
            if len(ready) == 1:
                raise self._broken(1)
            self._make_wait(ready.pop())  # the youngest
        return []

    def _plan(self, ready: list[Sequence]) -> list[int]:
        """How many tokens of each go into the next batch."""
        streams = sum(sequence.pending == 1 for sequence in ready)
        room = self._pace.prompt_tokens(streams=streams)
        needs = [sequence.pending_text for sequence in ready if sequence.pending > 1]
        shares = iter(fair_shares(needs, room, PIECE_TOKENS_MIN))
        return [1 if sequence.pending == 1 else next(shares) for sequence in ready]

    def _has_cells(self, cells: int, allowed: Collection[int]) -> bool:
        while not self.memory.make_room(cells):
            if not self._drop_paused(allowed):
                return False
        return True

    def _drop_paused(self, allowed: Collection[int]) -> bool:
        """Take the room of the youngest that is paused; False if none has any."""
        for sequence in reversed(self._sequences.values()):
            if sequence.request not in allowed and sequence.held is not None:
                self._make_wait(sequence)
                return True
        return False

    def _make_wait(self, sequence: Sequence) -> None:
        assert sequence.held is not None
        self.memory.release(sequence.held, keep=False)
        sequence.held = None

    def _step_alone(self, sequence: Sequence) -> list[StepResult]:
        """Decode the next piece of one sequence; its shape follows from its tokens alone."""
        if sequence.image is not None:
            return self._step_image(sequence, BATCH_TOKENS_MAX)
        piece = 1
        if sequence.decoded < sequence.prompt_tokens:
            border = sequence.decoded // REPRODUCIBLE_TOKENS * REPRODUCIBLE_TOKENS
            end = min(border + REPRODUCIBLE_TOKENS, sequence.prompt_tokens)
            piece = min(end - sequence.decoded, sequence.pending_text)
        code = self._decode([(sequence, piece)])
        if code != 0:
            raise self._broken(code)
        return self._outcome([sequence], [piece])

    def _decode(self, work: list[tuple[Sequence, int]]) -> int:
        self._batch.clear()
        self._rows.clear()
        for sequence, piece in work:
            if piece == 0:
                continue
            assert sequence.held is not None
            start, end = sequence.decoded, sequence.decoded + piece
            wants_logits = end == len(sequence.tokens)
            if not self._is_shared:
                # Also where a token is known already: the shape is that of an unbroken run.
                wants_logits = end >= sequence.prompt_tokens
            self._rows[sequence.request] = self._batch.add(
                sequence.held.number,
                sequence.position(start),
                sequence.tokens[start:end],
                wants_logits=wants_logits,
            )
        self._log.clear()
        return self._batch.decode(self._context)

    def _outcome(self, ready: list[Sequence], pieces: list[int]) -> list[StepResult]:
        """After a decode: grow the sequences, and sample where all tokens were seen."""
        results: list[StepResult] = []
        for sequence, piece in zip(ready, pieces, strict=True):
            if piece == 0:
                continue
            assert sequence.held is not None
            start = sequence.decoded
            self.memory.grow(sequence.held, sequence.tokens[start : start + piece])
            if sequence.pending:
                results.append(Prefilled(request=sequence.request, tokens=sequence.decoded))
                continue
            row = self._rows[sequence.request]
            token = sequence.sampler.sample(self._context, row, sequence.decoded)
            likely: tuple[Logprob, ...] = ()
            if sequence.logprobs is not None and token is not None:
                likely = logprobs(
                    self._llama,
                    self.model,
                    self._context,
                    row,
                    token,
                    sequence.logprobs,
                    visible=sequence.visible,
                )
            told = sequence.push(self.model, token, likely)
            if told is not None:
                results.append(told)
        return results

    def _drop(self, sequence: Sequence, *, keep: bool) -> None:
        del self._sequences[sequence.request]
        sequence.sampler.close()
        if sequence.held is not None:
            self.memory.release(sequence.held, keep=keep)

    def _broken(self, code: int) -> EngineBroken:
        return EngineBroken(f"llama_decode gave {code}: {self._log.last_error()}")

    def _make_context(self, load: Load, capacity: Capacity) -> Handle:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = capacity.kv_tokens
        parameters.n_batch = BATCH_TOKENS_MAX
        parameters.n_ubatch = BATCH_TOKENS_MAX
        parameters.n_seq_max = capacity.sequences
        parameters.kv_unified = capacity.is_shared
        parameters.swa_full = True  # else beginnings could not be reused
        return self.model.make_context(
            parameters,
            load,
            wanted=f"a context of {capacity.kv_tokens} tokens",
            mend="context_tokens, kv_tokens or slots",
        )
