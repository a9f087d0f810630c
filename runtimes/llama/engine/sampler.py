"""The one place where llama.cpp's samplers are chained for one request.

The randomness of a token is a function of the request's seed and of the token's position alone,
and penalties and grammar know nothing but the tokens before it: whoever holds the same tokens and
the same seed draws the same next one.
"""

import hashlib
import math
import struct
from collections.abc import Sequence

from runtimes.base import RuntimeFailure
from runtimes.llama.engine.bindings import Bindings, Handle
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.frames import Generate
from runtimes.llama.grammars.grammar import Grammar
from runtimes.llama.grammars.lazy_grammar import LazyGrammar
from runtimes.llama.grammars.reply_grammar import BegunCalls

PENALTY_TOKENS = 64
"""So many tokens back penalties look, prompt included: llama.cpp's own default."""


class Sampler:
    """Chooses the tokens of one request; `close` gives llama.cpp's memory back."""

    def __init__(
        self,
        bindings: Bindings,
        model: LoadedModel,
        request: Generate,
        seed: int,
        calls: BegunCalls | None = None,
        visible: frozenset[int] = frozenset(),
    ) -> None:
        """`calls`: those that may come in an answer that is free; `visible`: tokens that are text
        then. Raises RuntimeFailure `bad_request` for a bias or a grammar that makes no sense here.
        """
        self._llama = bindings
        self._seed = seed
        self._is_greedy = request.temperature == 0.0
        self._biases = _biases(model, request)
        # Before anything is allocated that would have to be freed.
        self._grammar: Grammar | LazyGrammar | None = Grammar.of(bindings, model, request)
        if calls is not None:
            self._grammar = LazyGrammar(bindings, model, calls, visible)
        self._bias: Handle = None
        """Where a grammar applies it; else it is in the chain."""
        self._chain = bindings.llama_sampler_chain_init(
            bindings.llama_sampler_chain_default_params()
        )
        self._fill(model, request)
        self._filters: int = bindings.llama_sampler_chain_n(self._chain)

    def _fill(self, model: LoadedModel, request: Generate) -> None:
        llama = self._llama
        if self._biases:
            bias = _bias_sampler(llama, model, self._biases)
            if self._grammar is None:
                self._add(bias)
            else:
                self._bias = bias
                self._grammar.forbid(bias)
        self._has_penalties = (
            request.repeat_penalty != 1.0
            or request.presence_penalty != 0.0
            or request.frequency_penalty != 0.0
        )
        if self._has_penalties:
            self._add(
                llama.llama_sampler_init_penalties(
                    model.tokens_known,
                    PENALTY_TOKENS,
                    request.repeat_penalty,
                    request.frequency_penalty,
                    request.presence_penalty,
                )
            )
        if self._is_greedy:
            self._add(llama.llama_sampler_init_greedy())
            return
        if request.top_k > 0:
            self._add(llama.llama_sampler_init_top_k(request.top_k))
        if request.typical_p < 1.0:
            self._add(llama.llama_sampler_init_typical(request.typical_p, 1))
        if request.top_p < 1.0:
            self._add(llama.llama_sampler_init_top_p(request.top_p, 1))
        if request.min_p > 0.0:
            self._add(llama.llama_sampler_init_min_p(request.min_p, 1))
        self._add(llama.llama_sampler_init_temp(request.temperature))

    def begin(self, prompt: Sequence[int], continued: Sequence[int]) -> None:
        """Tell penalties and grammar what is there already.

        Raises RuntimeFailure `bad_request` for continued tokens that the grammar forbids.
        """
        if self._grammar is not None:
            for token in continued:
                self._grammar.accept(token)
        if self._has_penalties:
            for token in [*prompt, *continued][-PENALTY_TOKENS:]:
                self._llama.llama_sampler_accept(self._chain, token)

    def sample(self, context: Handle, row: int, position: int) -> int | None:
        """Choose the token for `position` from the logits in `row` of the last batch.

        None: the grammar allows no token at all.
        """
        if not self._is_greedy:
            if self._llama.llama_sampler_chain_n(self._chain) > self._filters:
                drawn = self._llama.llama_sampler_chain_remove(self._chain, self._filters)
                self._llama.llama_sampler_free(drawn)
            self._add(self._llama.llama_sampler_init_dist(seed_at(self._seed, position)))
        if self._grammar is None:
            return int(self._llama.llama_sampler_sample(self._chain, context, row))
        token = self._grammar.sample(self._chain, context, row)
        if token is not None:
            self._llama.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the chain; the sampler is of no use afterwards."""
        self._llama.llama_sampler_free(self._chain)
        self._chain = None
        if self._grammar is not None:
            self._grammar.close()
        if self._bias is not None:
            self._llama.llama_sampler_free(self._bias)

    def _add(self, link: Handle) -> None:
        self._llama.llama_sampler_chain_add(self._chain, link)


def seed_at(seed: int, position: int) -> int:
    """The 32-bit seed of the draw for one position; never llama.cpp's "draw your own"."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFF_FFFF


def _biases(model: LoadedModel, request: Generate) -> list[tuple[int, float]]:
    biases = list(zip(request.bias_tokens, request.bias_values, strict=True))
    for token, _ in biases:
        if not 0 <= token < model.tokens_known:
            raise RuntimeFailure(
                "bad_request",
                f"logit_bias names token {token}; the model has {model.tokens_known}",
            )
    if request.ignore_eos:
        biases += [(token, -math.inf) for token in model.end_tokens]
    return biases


def _bias_sampler(
    bindings: Bindings, model: LoadedModel, biases: Sequence[tuple[int, float]]
) -> Handle:
    array = (bindings.llama_logit_bias * len(biases))()
    for entry, (token, bias) in zip(array, biases, strict=True):
        entry.token = token
        entry.bias = bias
    return bindings.llama_sampler_init_logit_bias(model.tokens_known, len(biases), array)
