"""The one place where tokens are computed: requests become sequences, steps make them longer.

The engine knows no pipe. Its owner opens requests, calls `step` over and over, and may do
anything between two steps: cancel, open another, pause one. A step is one `llama_decode` for all
sequences: first one token for each that generates, then pieces of prompts, shared out fairly. So
no prompt keeps another stream waiting for more than one step.

The KV cache is a budget of tokens (kv_memory.py). A sequence that does not fit waits, in order of
arrival. What runs grows; when the room is used up, kept sequences go first, then the cells of
those that are paused, then those of the youngest: they are computed again when there is room. The
oldest always goes on, because one full context fits.

An image in a prompt is computed and read by work of its own (image_reader.py), of one at a time, in
steps that also have the one decode for all others.

With `reproducible`, each sequence is decoded alone, in pieces that depend on nothing but its own
tokens, and in a part of the cache of its own: no other request changes the rounding of a logit.

With a draft (drafter.py), a sequence that generates may have tokens behind its last one in the
batch that are only proposed. Each position is sampled as ever; while what comes out is what was
proposed, the logits of the next position are there already. What is behind it is taken back.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping

from runtimes.base import Logprob, RuntimeFailure
from runtimes.completion_text import CompletionText
from runtimes.llama.capacity import plan_capacity
from runtimes.llama.engine.batch import Batch, EngineBroken, fair_shares
from runtimes.llama.engine.drafter import Drafter
from runtimes.llama.engine.kv_memory import KvMemory
from runtimes.llama.engine.logprobs import logprobs
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.engine.parking import Parking
from runtimes.llama.engine.prompt import PromptWriter
from runtimes.llama.engine.sampler import Sampler
from runtimes.llama.engine.sequence import Sequence, StepResult, streams
from runtimes.llama.engine.speculation import Speculation
from runtimes.llama.files.context_length import default_context_tokens
from runtimes.llama.frames import Embed, Failed, Generate, Load, Prefilled
from runtimes.llama.grammars.reply_grammar import BegunCalls, with_reply_grammar
from runtimes.llama.images.image_reader import ImageReader
from runtimes.llama.images.image_tokens import as_ids
from runtimes.llama.images.vision import Vision
from runtimes.llama.kv_type import kv_bytes
from runtimes.llama.pace import BATCH_TOKENS, PIECE_TOKENS_MIN, Pace
from runtimes.reply_form import PLAIN, ReplyForm

REPRODUCIBLE_TOKENS = 128
"""Prompt tokens in one decode where each sequence is decoded alone. What is reused are whole
pieces of this size: they were computed in the same shape."""
GROWTH_TOKENS = 32
"""Room that a sequence must find for new tokens before it begins, lest it is thrown out at once."""


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
        vision = None if load.projector is None else Vision(model, load)
        self._prompts = PromptWriter(model, vision, self.context_tokens)
        capacity = plan_capacity(
            context_tokens=self.context_tokens,
            parameters=self.model.parameters,
            kv_bytes_per_token=kv_bytes(self.model.kv_bytes_per_token, load.kv_type),
            memory_bytes=load.memory_bytes,
            gpu=self.model.gpu_offload and load.gpu_layers != 0,
            slots=load.slots,
            kv_tokens=load.kv_tokens,
            reproducible=load.reproducible,
        )
        self.slots = capacity.slots
        self._is_shared = capacity.is_shared
        self._context = model.make_kv_context(
            load, capacity, mend="context_tokens, kv_tokens or slots"
        )
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
        self._images = (
            None if vision is None else ImageReader(vision, model, self._context, self.memory)
        )
        drafter = None if load.draft is None else Drafter(model, load, capacity, clock)
        self.speculation = Speculation(drafter, load.draft_tokens)
        self._batch = Batch(self._llama, load.batch_tokens)
        self._pace = Pace(clock, load.batch_tokens)
        self._rows: dict[int, int] = {}
        """Of the last batch: the row of each request's last token that is no proposal."""
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

    def step(self, allowed: Mapping[int, int]) -> list[StepResult]:
        """Do one decode for the open requests in `allowed`, each of which gets so many tokens at
        most; return what came of it.

        A request whose `Ended` or `Failed` is among the results is closed. Raises EngineBroken.
        """
        results: list[StepResult] = []
        active = [self._sequences[request] for request in sorted(allowed)]
        ready = self._admit([sequence for sequence in active if not sequence.ending], allowed)
        if self._is_shared:
            results += self._step_together(ready, allowed)
        else:
            # An image is one step's work: who comes first of those that wait for theirs.
            wait = [sequence for sequence in ready if sequence.must_encode][1:]
            for sequence in ready:
                if sequence not in wait:
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

    def _step_together(self, ready: list[Sequence], allowed: Mapping[int, int]) -> list[StepResult]:
        results = self._look(ready, allowed)
        ready = [each for each in ready if each.held is not None and each.image is None]
        return results + self._read(ready, allowed)

    def _look(self, ready: list[Sequence], allowed: Collection[int]) -> list[StepResult]:
        """Do the next piece of work for the image that came first, if there is any: one for all,
        so that many images hold up nobody longer than one.
        """
        looking = next((each for each in ready if each.image is not None), None)
        if looking is None:
            return []
        going_on = list(ready)
        assert self._images is not None
        room = self._pace.prompt_tokens(beside=streams(going_on))
        piece = self._images.piece(looking, room)
        # Streams need theirs in the same step, in which whoever looks at an image gives no way.
        while not self._has_cells(piece + streams(going_on), allowed):
            if len(going_on) == 1:
                raise self._broken(1)
            youngest = going_on.pop()
            self._make_wait(youngest)
            if youngest is looking:
                return []
        return self._step_image(looking, room)

    def _step_image(self, sequence: Sequence, room: int) -> list[StepResult]:
        assert self._images is not None
        result = self._images.step(sequence, room)
        if isinstance(result, Failed):
            self._drop(sequence, keep=False)
        return [result]

    def _read(self, ready: list[Sequence], allowed: Mapping[int, int]) -> list[StepResult]:
        while ready:
            wishes = self.speculation.wishes(ready, allowed)
            wished = sum(wish.count for wish in wishes)
            pieces = self._plan(ready, wished)
            if not self.memory.make_room(sum(pieces) + wished):
                wishes = []  # nobody gives way to what is only proposed
            if self._has_cells(sum(pieces), allowed):
                proposals = self.speculation.propose(wishes)
                self._pace.start()
                code = self._decode(list(zip(ready, pieces, strict=True)), proposals)
                self._pace.end(sum(pieces))
                if code == 0:
                    return self._outcome(ready, pieces, proposals)
                if code != 1:
                    raise self._broken(code)
            if len(ready) == 1:
                raise self._broken(1)
            self._make_wait(ready.pop())  # the youngest
        return []

    def _plan(self, ready: list[Sequence], proposed: int) -> list[int]:
        """How many known tokens of each go into the next batch, beside those `proposed`."""
        room = self._pace.prompt_tokens(beside=streams(ready) + proposed)
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
        if sequence.image is not None:
            sequence.image.is_announced = False  # its text comes first again
        self.memory.release(sequence.held, keep=False)
        sequence.held = None
        self.speculation.release(sequence.request, keep=False)

    def _step_alone(self, sequence: Sequence) -> list[StepResult]:
        """Decode the next piece of one sequence; its shape follows from its tokens alone."""
        if sequence.image is not None:
            return self._step_image(sequence, BATCH_TOKENS)
        piece = 1
        if sequence.decoded < sequence.prompt_tokens:
            border = sequence.decoded // REPRODUCIBLE_TOKENS * REPRODUCIBLE_TOKENS
            end = min(border + REPRODUCIBLE_TOKENS, sequence.prompt_tokens)
            piece = min(end - sequence.decoded, sequence.pending_text)
        code = self._decode([(sequence, piece)], {})
        if code != 0:
            raise self._broken(code)
        return self._outcome([sequence], [piece], {})

    def _decode(self, work: list[tuple[Sequence, int]], proposals: Mapping[int, list[int]]) -> int:
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
            proposal = proposals.get(sequence.request, [])
            last = self._batch.add(
                sequence.held.number,
                sequence.position(start),
                sequence.tokens[start:end] + proposal,
                wants_logits=wants_logits,
                wants_all=bool(proposal),
            )
            self._rows[sequence.request] = last - len(proposal)
        self._log.clear()
        return self._batch.decode(self._context)

    def _outcome(
        self, ready: list[Sequence], pieces: list[int], proposals: Mapping[int, list[int]]
    ) -> list[StepResult]:
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
            results += self._sample(sequence, proposals.get(sequence.request, []))
        return results

    def _sample(self, sequence: Sequence, proposal: list[int]) -> list[StepResult]:
        """Its next token; and the ones behind it, as long as they are those of `proposal`."""
        assert sequence.held is not None
        results: list[StepResult] = []
        accepted = 0
        while True:
            row = self._rows[sequence.request] + accepted
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
            if sequence.ending or proposal[accepted : accepted + 1] != [token]:
                break
            self.memory.grow(sequence.held, [proposal[accepted]])
            accepted += 1
        if accepted < len(proposal):
            self.memory.cut(sequence.held, sequence.decoded)
        self.speculation.note(sequence, proposed=len(proposal), accepted=accepted)
        return results

    def _drop(self, sequence: Sequence, *, keep: bool) -> None:
        del self._sequences[sequence.request]
        sequence.sampler.close()
        if sequence.held is not None:
            self.memory.release(sequence.held, keep=keep)
        self.speculation.release(sequence.request, keep=keep)

    def _broken(self, code: int) -> EngineBroken:
        return EngineBroken(f"llama_decode gave {code}: {self._log.last_error()}")
