"""The one place that holds a completion to a grammar (GBNF), through llama.cpp's own parser.

llama.cpp ends the process when it is told to accept a token that its grammar forbids. So nothing
is accepted here that was not allowed a moment before.
"""

import ctypes
import math
import re
from typing import Optional

from runtimes.base import RuntimeFailure
from runtimes.llama.engine.bindings import Bindings, Handle
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.frames import Generate
from runtimes.llama.grammars.json_schema import grammar_of_schema

GROUPS_MAX = 100
"""Parentheses in one another; the parser calls itself for each."""

_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|\[(?:\\.|[^\]\\\n])*\]|#[^\n]*')


class Grammar:
    """The state of one request's grammar."""

    def __init__(
        self, bindings: Bindings, model: LoadedModel, source: str, root: str = "root"
    ) -> None:
        """Raises RuntimeFailure `bad_request` for what is no grammar."""
        self._llama = bindings
        check_grammar(source)
        self._rules = bindings.llama_sampler_init_grammar(
            model.vocabulary, source.encode(), root.encode()
        )
        if not self._rules:
            raise RuntimeFailure(
                "bad_request", "the grammar cannot be compiled: it must be GBNF with a rule 'root'"
            )
        self._greedy = bindings.llama_sampler_init_greedy()
        self._bias: Handle = None
        self._chain: Handle = None
        self._is_strict = False
        self._is_dead = False
        self._interface = bindings.llama_sampler_i(
            apply=bindings.llama_sampler_i_apply(self._apply)
        )
        self._proxy = bindings.llama_sampler_init(ctypes.byref(self._interface), None)

    @classmethod
    def of(cls, bindings: Bindings, model: LoadedModel, request: Generate) -> Optional["Grammar"]:
        """The grammar that a request wants, if any. Raises RuntimeFailure `bad_request`."""
        if request.grammar is not None:
            return cls(bindings, model, request.grammar)
        if request.json_schema is not None:
            return cls(bindings, model, grammar_of_schema(request.json_schema))
        return None

    def forbid(self, bias: Handle) -> None:
        """Apply this bias before it is looked whether any token is left; it stays who gave it."""
        self._bias = bias

    def allows(self, token: int) -> bool:
        """Whether the grammar can go on with `token`."""
        single = (self._llama.llama_token_data * 1)()
        single[0].id = token
        candidates = self._llama.llama_token_data_array(
            data=single, size=1, selected=-1, sorted=False
        )
        self._llama.llama_sampler_apply(self._rules, ctypes.byref(candidates))
        return bool(single[0].logit != -math.inf)

    def accept(self, token: int) -> None:
        """Go on behind a token that was sampled elsewhere.

        Raises RuntimeFailure `bad_request` if the grammar forbids it.
        """
        if not self.allows(token):
            raise RuntimeFailure("bad_request", "the grammar forbids what is to be continued")
        self._llama.llama_sampler_accept(self._rules, token)

    def sample(self, chain: Handle, context: Handle, row: int) -> int | None:
        """Choose a token by `chain` among those that the grammar allows; None: it allows none.

        First without the grammar, which is slow for a large vocabulary, and mostly its choice is
        allowed. Else again, among the allowed ones.
        """
        self._chain = chain
        self._is_strict = False
        token = int(self._llama.llama_sampler_sample(self._proxy, context, row))
        if not self.allows(token):
            self._is_strict = True
            self._is_dead = False
            token = int(self._llama.llama_sampler_sample(self._proxy, context, row))
            if self._is_dead or not self.allows(token):
                return None
        self._llama.llama_sampler_accept(self._rules, token)
        return token

    def close(self) -> None:
        """Free llama.cpp's memory."""
        for sampler in (self._proxy, self._greedy, self._rules):
            self._llama.llama_sampler_free(sampler)

    def _apply(self, _sampler: object, candidates: Handle) -> None:
        """Called by llama.cpp with all tokens and their logits."""
        if self._bias is not None:
            self._llama.llama_sampler_apply(self._bias, candidates)
        if self._is_strict:
            self._llama.llama_sampler_apply(self._rules, candidates)
        self._llama.llama_sampler_apply(self._greedy, candidates)
        array = candidates.contents
        if array.data[array.selected].logit == -math.inf:
            # No token is left. The samplers below would divide nothing by nothing.
            self._is_dead = True
            array.data[array.selected].logit = 0.0
        array.selected = -1
        self._llama.llama_sampler_apply(self._chain, candidates)


def check_grammar(source: str) -> None:
    """Raise RuntimeFailure `bad_request` for a grammar that would exhaust the parser's stack."""
    depth = deepest = 0
    for letter in _QUOTED.sub("", source):
        depth += (letter == "(") - (letter == ")")
        deepest = max(deepest, depth)
    if deepest > GROUPS_MAX:
        raise RuntimeFailure(
            "bad_request", f"the grammar has more than {GROUPS_MAX} groups in one another"
        )
