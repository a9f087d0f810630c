"""The one place for the draft: a small model that proposes what a larger one may say next.

It has the larger one's vocabulary, and a context of its own, which is read behind the larger one's:
a piece a step, so that a long prompt holds up nobody. Whoever is read to the end gets a proposal:
the likeliest token, and so on from there. What was refused is taken back at the next proposal.

Nothing depends on what it says but how long an answer takes. So wherever it has no room, or is
asked for what it cannot do, it just proposes nothing.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable

from runtimes.base import RuntimeFailure
from runtimes.embedding import GENERATE
from runtimes.llama.capacity import Capacity
from runtimes.llama.engine.batch import Batch, EngineBroken, fair_shares
from runtimes.llama.engine.kv_memory import Held, KvMemory
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.engine.parking import common_length
from runtimes.llama.frames import Load
from runtimes.llama.kv_type import F16
from runtimes.llama.pace import BATCH_TOKENS, PIECE_TOKENS_MIN, Pace


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Wish:
    """A proposal that is wanted."""

    request: int
    tokens: list[int]
    """All that are known."""
    count: int
    """How many are to be proposed behind them, one at least."""


class Drafter:
    """A draft model in its context. Not safe for threads."""

    def __init__(
        self, target: LoadedModel, load: Load, capacity: Capacity, clock: Callable[[], float]
    ) -> None:
        """Load the draft that `load` names, with the room that `target` has for tokens.

        Raises RuntimeFailure `invalid_model` if it is no draft for `target`, or `unavailable`
        without memory.
        """
        assert load.draft is not None
        name = os.fsdecode(load.draft)
        if target.is_recurrent:
            raise _unfit(f"{os.fsdecode(load.path)} cannot take tokens back, so no draft helps it")
        self._llama = target.bindings
        self._log = target.log
        self.model = LoadedModel(
            target.bindings,
            target.log,
            load.draft,
            gpu_layers=load.gpu_layers,
            split=target.split,
            mmap=load.mmap,
            on_progress=lambda _share: None,
        )
        if self.model.is_recurrent or self.model.pooling.task != GENERATE:
            raise _unfit(
                f"{name} cannot be a draft: it is no text generator that takes tokens back"
            )
        if not self.model.shares_vocabulary(target):
            raise _unfit(f"{name} cannot be a draft: its vocabulary is not that of the model")
        self._tokens_known = min(self.model.tokens_known, target.tokens_known)
        # As many threads as the target may have, or fewer, because it is smaller.
        own = dataclasses.replace(
            load,
            lora=None,
            threads=None,
            cores=load.threads or load.cores,
            kv_type=F16,
            batch_tokens=BATCH_TOKENS,
        )
        self._context = self.model.make_kv_context(
            own,
            capacity,
            wanted="a draft's context",
            mend="context_tokens, kv_tokens or slots, or leave out draft",
        )
        self.memory = KvMemory(
            self._llama,
            self._llama.llama_get_memory(self._context),
            cells=capacity.kv_tokens,
            sequences=capacity.sequences,
            is_shared=True,
            tile=PIECE_TOKENS_MIN,
            kept_max=capacity.kept_tokens,
        )
        self._batch = Batch(self._llama, BATCH_TOKENS)
        self._pace = Pace(clock)
        self._greedy = self._llama.llama_sampler_init_greedy()
        self._held: dict[int, Held] = {}
        """By request."""

    def propose(self, wishes: Iterable[Wish]) -> dict[int, list[int]]:
        """For each request that can be served now the tokens that are proposed, one at least."""
        proposals: dict[int, list[int]] = {}
        rows = self._read([wish for wish in wishes if self._has_place(wish)])
        while rows:
            going_on = []
            for wish, row in rows:
                token = int(self._llama.llama_sampler_sample(self._greedy, self._context, row))
                if token >= self._tokens_known:
                    continue
                proposal = proposals.setdefault(wish.request, [])
                proposal.append(token)
                if len(proposal) < wish.count:
                    going_on.append((wish, [token]))
            rows = self._decode(going_on)
        return proposals

    def release(self, request: int, *, keep: bool) -> None:
        """The request is over, or waits; keep its tokens for later prompts, or remove them."""
        held = self._held.pop(request, None)
        if held is not None:
            self.memory.release(held, keep=keep)

    def _has_place(self, wish: Wish) -> bool:
        """See to a place for it in which nothing is that was refused; whether it has one."""
        if len(wish.tokens) + wish.count > self.model.trained_context_tokens:
            return False
        held = self._held.get(wish.request)
        if held is None:
            held = self.memory.take(wish.tokens, prompt_tokens=len(wish.tokens), margin=wish.count)
            if held is None:
                return False
            self._held[wish.request] = held
        else:  # the last token is read again where it was: its logits are wanted
            known = common_length(held.tokens, wish.tokens)
            self.memory.cut(held, min(known, len(wish.tokens) - 1))
        return max(wish.tokens[len(held.tokens) :]) < self._tokens_known

    def _read(self, wishes: list[Wish]) -> list[tuple[Wish, int]]:
        """Read on in what is known; those that are at its end, and the rows of their logits."""
        missing = [wish.tokens[len(self._held[wish.request].tokens) :] for wish in wishes]
        room = self._pace.prompt_tokens(beside=len(wishes))
        shares = fair_shares([len(tokens) for tokens in missing], room, PIECE_TOKENS_MIN)
        self._pace.start()
        rows = self._decode(
            [
                (wish, tokens[:share])
                for wish, tokens, share in zip(wishes, missing, shares, strict=True)
                if share
            ]
        )
        self._pace.end(sum(shares))
        return [
            (wish, row)
            for wish, row in rows
            if len(self._held[wish.request].tokens) == len(wish.tokens)
        ]

    def _decode(self, work: list[tuple[Wish, list[int]]]) -> list[tuple[Wish, int]]:
        """Add tokens to sequences; the rows of the last of each. None, where there is no room."""
        if not work or not self.memory.make_room(sum(len(tokens) for _, tokens in work)):
            return []
        self._batch.clear()
        rows = []
        for wish, tokens in work:
            held = self._held[wish.request]
            row = self._batch.add(held.number, len(held.tokens), tokens, wants_logits=True)
            rows.append((wish, row))
        self._log.clear()
        code = self._batch.decode(self._context)
        if code == 1:
            return []
        if code != 0:
            raise EngineBroken(f"llama_decode of the draft gave {code}: {self._log.last_error()}")
        for wish, tokens in work:
            self.memory.grow(self._held[wish.request], tokens)
        return rows


def _unfit(why: str) -> RuntimeFailure:
    return RuntimeFailure("invalid_model", f"{why}; name another with draft=, or leave it out")
