"""The one place that leaves an answer free until a call begins in it, and holds the call.

The grammar begins with the token in which the call's marker ends: its first rule is any text up to
the marker of which so much has come before, so that whatever else that token has must be right. A
token with which no call can go on is not chosen. All of it follows from the tokens so far.
"""

import ctypes
import math

from runtimes.base import RuntimeFailure
from runtimes.llama.engine.bindings import Bindings, Handle
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.grammars.call_watch import Watched
from runtimes.llama.grammars.grammar import Grammar
from runtimes.llama.grammars.reply_grammar import BegunCalls

FORBIDDEN_MAX = 64
"""Tokens that a marker ends in and no call goes on with; who wants more of them at once gets none.
"""


class LazyGrammar:
    """The state of one request's answer, in which calls may come. As `Grammar`, but that a text
    which is none of ours is free for good.
    """

    def __init__(
        self,
        bindings: Bindings,
        model: LoadedModel,
        calls: BegunCalls,
        visible: frozenset[int],
    ) -> None:
        """`visible`: tokens that are text here, though the vocabulary holds them to be none."""
        self._llama = bindings
        self._model = model
        self._calls = calls
        self._visible = visible
        self._watched = calls.watch.begin
        self._grammar: Grammar | None = None
        """Of a call that has begun."""
        self._ready: dict[str, Grammar] = {}
        """By its root, the one of a call that may begin in the next token; it is slow to make."""
        self._is_free = False
        """It is none of ours."""
        self._forbidden: set[int] = set()
        self._bias: Handle = None
        self._chain: Handle = None
        self._interface = bindings.llama_sampler_i(
            apply=bindings.llama_sampler_i_apply(self._apply)
        )
        self._proxy = bindings.llama_sampler_init(ctypes.byref(self._interface), None)

    def forbid(self, bias: Handle) -> None:
        """See `Grammar.forbid`."""
        self._bias = bias

    def accept(self, token: int) -> None:
        """Go on behind a token that was sampled elsewhere, whatever it is."""
        if self._is_free:
            return
        if self._grammar is None:
            self._watched, self._grammar = self._behind(token)
        if self._grammar is None:
            return
        self._ready.clear()
        if self._grammar.allows(token):
            self._grammar.accept(token)
        else:
            self._be_free()

    def sample(self, chain: Handle, context: Handle, row: int) -> int | None:
        """Choose a token by `chain`; None: none can be."""
        if self._grammar is not None:
            return self._grammar.sample(chain, context, row)
        self._chain = chain
        self._forbidden.clear()
        while len(self._forbidden) < FORBIDDEN_MAX:
            token = int(self._llama.llama_sampler_sample(self._proxy, context, row))
            if self._is_free:
                return token
            watched, grammar = self._behind(token)
            if grammar is None or grammar.allows(token):
                self._watched, self._grammar = watched, grammar
                if grammar is not None:
                    self._ready.clear()
                    grammar.accept(token)
                return token
            self._forbidden.add(token)
        return None

    def close(self) -> None:
        """Free llama.cpp's memory."""
        self._llama.llama_sampler_free(self._proxy)
        if self._grammar is not None:
            self._grammar.close()
        self._forget_ready()

    def _behind(self, token: int) -> tuple[Watched, Grammar | None]:
        """What is known of the text behind `token`; the grammar, before it, of a call that begins
        in it.
        """
        data = self._model.piece(token, special=token in self._visible)
        watched, begun = self._calls.watch.after(self._watched, data)
        return watched, self._begun() if begun else None

    def _begun(self) -> Grammar | None:
        root = self._calls.root(self._watched)
        source = self._calls.source
        if root in self._ready or source is None:
            return self._ready.get(root)
        self._forget_ready()
        try:
            grammar = Grammar(self._llama, self._model, source, root)
        except RuntimeFailure:  # too much for the parser: a call is not worth the answer
            self._is_free = True
            return None
        if self._bias is not None:
            grammar.forbid(self._bias)
        self._ready[root] = grammar
        return grammar

    def _forget_ready(self) -> None:
        for grammar in self._ready.values():
            grammar.close()
        self._ready.clear()

    def _be_free(self) -> None:
        assert self._grammar is not None
        self._grammar.close()
        self._grammar = None
        self._is_free = True

    def _apply(self, _sampler: object, candidates: Handle) -> None:
        """Called by llama.cpp with all tokens and their logits, in their order."""
        if self._bias is not None:
            self._llama.llama_sampler_apply(self._bias, candidates)
        for token in self._forbidden:
            candidates.contents.data[token].logit = -math.inf
        self._llama.llama_sampler_apply(self._chain, candidates)
