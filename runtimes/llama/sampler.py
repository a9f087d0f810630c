"""The one place where llama.cpp's samplers are chained for one request.

The randomness of a token is a function of the request's seed and of the token's position alone:
whoever holds the same tokens and the same seed draws the same next one.
"""

import hashlib
import math
import struct

from runtimes.llama.bindings import Bindings, Handle
from runtimes.llama.frames import Generate
from runtimes.llama.model import LoadedModel


class Sampler:
    """Chooses the tokens of one request; `close` gives llama.cpp's memory back."""

    def __init__(
        self, bindings: Bindings, model: LoadedModel, request: Generate, seed: int
    ) -> None:
        self._llama = bindings
        self._seed = seed
        self._is_greedy = request.temperature == 0.0
        self._chain = bindings.llama_sampler_chain_init(
            bindings.llama_sampler_chain_default_params()
        )
        if request.ignore_eos:
            self._add(_forbid(bindings, model))
        if self._is_greedy:
            self._add(bindings.llama_sampler_init_greedy())
            return
        if request.top_k > 0:
            self._add(bindings.llama_sampler_init_top_k(request.top_k))
        if request.top_p < 1.0:
            self._add(bindings.llama_sampler_init_top_p(request.top_p, 1))
        if request.min_p > 0.0:
            self._add(bindings.llama_sampler_init_min_p(request.min_p, 1))
        self._add(bindings.llama_sampler_init_temp(request.temperature))
        self._filters: int = bindings.llama_sampler_chain_n(self._chain)

    def sample(self, context: Handle, row: int, position: int) -> int:
        """Choose the token for `position` from the logits in `row` of the last batch."""
        if not self._is_greedy:
            if self._llama.llama_sampler_chain_n(self._chain) > self._filters:
                drawn = self._llama.llama_sampler_chain_remove(self._chain, self._filters)
                self._llama.llama_sampler_free(drawn)
            self._add(self._llama.llama_sampler_init_dist(seed_at(self._seed, position)))
        return int(self._llama.llama_sampler_sample(self._chain, context, row))

    def close(self) -> None:
        """Free the chain; the sampler is of no use afterwards."""
        self._llama.llama_sampler_free(self._chain)
        self._chain = None

    def _add(self, link: Handle) -> None:
        self._llama.llama_sampler_chain_add(self._chain, link)


def seed_at(seed: int, position: int) -> int:
    """The 32-bit seed of the draw for one position; never llama.cpp's "draw your own"."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFF_FFFF


def _forbid(bindings: Bindings, model: LoadedModel) -> Handle:
    """A sampler that makes every end token impossible."""
    tokens = model.end_tokens
    biases = (bindings.llama_logit_bias * max(1, len(tokens)))()
    for bias, token in zip(biases, tokens, strict=False):  # one unused entry without end tokens
        bias.token = token
        bias.bias = -math.inf
    return bindings.llama_sampler_init_logit_bias(model.tokens_known, len(tokens), biases)
