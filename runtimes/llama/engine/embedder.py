"""The one place where texts become vectors, or scores: in batches, whoever's they are.

To its owner it is like an `Engine`: requests are opened, and each step is one decode. A step works
on whole texts, in turns one of each request, as many as fit. What it has decoded is forgotten at
once: a text is never gone on with.
"""

import dataclasses
import re
from collections.abc import Mapping

from runtimes.base import RuntimeFailure
from runtimes.embedding import NUMBERS_MAX, RERANK, Vector, normalised
from runtimes.limits import check_tokens
from runtimes.llama.capacity import SLOTS_DEFAULT
from runtimes.llama.engine.batch import Batch, EngineBroken
from runtimes.llama.engine.bindings import Handle
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.engine.prompt import TEXT_BYTES_PER_TOKEN_MAX
from runtimes.llama.files.context_length import CONTEXT_TOKENS_MIN
from runtimes.llama.frames import Embed, Embedded, Ended, Failed, Generate, Load
from runtimes.llama.pace import BATCH_TOKENS
from runtimes.reply_form import PLAIN, ReplyForm

BATCH_TEXTS_MAX = 64
"""In one decode; llama.cpp keeps a place for each."""
RERANK_TEMPLATE = b"rerank"
_PLACES = re.compile(r"\{(query|document)\}")


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class _Work:
    """One open request."""

    request: int
    texts: list[list[int]]
    """Token ids of what is still to be decoded, the next one last."""
    tokens: int
    """Of all texts."""
    dimensions: int | None


class Embedder:
    """One model in one context. Not safe for threads."""

    def __init__(self, model: LoadedModel, load: Load) -> None:
        """Make the context. Raises RuntimeFailure with a code that `serve` knows."""
        self._llama = model.bindings
        self._log = model.log
        self.model = model
        trained = model.trained_context_tokens
        if trained < CONTEXT_TOKENS_MIN:
            raise RuntimeFailure("invalid_model", "the model does not say how long texts may be")
        self._can_split = model.pooling.can_split
        self.context_tokens = model.pooling.context_tokens(trained, load.context_tokens)
        self.slots = load.slots or SLOTS_DEFAULT
        self._batch_tokens = max(self.context_tokens, BATCH_TOKENS)
        self._context = self._make_context(load)
        self._memory = self._llama.llama_get_memory(self._context)
        ranks = model.pooling.task == RERANK
        # Of a score only the first number counts, as in llama-server.
        self._dimensions: int = 1 if ranks else self._llama.llama_model_n_embd_out(model.handle)
        self._batch = Batch(self._llama, self._batch_tokens)
        self._open: dict[int, _Work] = {}
        """Whose turn is next comes first."""

    @property
    def has_room(self) -> bool:
        """Whether another request can be opened."""
        return len(self._open) < self.slots

    def open(self, request: Generate | Embed) -> tuple[tuple[int, ...], ReplyForm]:
        """Take a request on; return the token ids of its texts. Nothing is decoded yet.

        Raises RuntimeFailure `bad_request` or `context_too_long`, and holds nothing then.
        """
        assert isinstance(request, Embed), "the daemon knows what the model is made for"
        if (request.dimensions or 0) > self._dimensions:
            raise _bad(f"the model's vectors have {self._dimensions} dimensions")
        count = len(request.texts) or len(request.token_ids)
        most = NUMBERS_MAX // (request.dimensions or self._dimensions)
        if count > most:
            raise _bad(f"{count} vectors are more than an answer holds; send {most} texts at most")
        texts = [list(ids) for ids in request.token_ids] or self._tokenized(request)
        if any(token >= self.model.tokens_known for text in texts for token in text):
            raise _bad("token_ids has one that the model does not have")
        check_tokens([len(text) for text in texts], self.context_tokens)
        if not all(texts):
            raise _bad("a text is empty")
        ids = tuple(token for text in texts for token in text)
        texts.reverse()
        self._open[request.request] = _Work(
            request=request.request,
            texts=texts,
            tokens=len(ids),
            dimensions=request.dimensions,
        )
        return ids, PLAIN

    def close(self, request: int) -> bool:
        """Forget a request; False if it is not open."""
        return self._open.pop(request, None) is not None

    def step(self, allowed: Mapping[int, int]) -> list[Embedded | Ended | Failed]:
        """Do one decode for the open requests in `allowed`, which says how many vectors each may
        have; return what came of it.

        A request whose `Ended` or `Failed` is among the results is closed. Raises EngineBroken.
        """
        chosen = self._choose(allowed)
        self._decode([text for _, text in chosen])
        results: list[Embedded | Ended | Failed] = []
        for sequence, (work, _) in enumerate(chosen):
            if work.request in self._open:  # else it has failed in this very step
                results.append(self._outcome(sequence, work))
        for work in [work for work in self._open.values() if not work.texts]:
            del self._open[work.request]
            results.append(_ended(work))
        return results

    def _choose(self, allowed: Mapping[int, int]) -> list[tuple[_Work, list[int]]]:
        """The texts of the next decode, each taken from its request."""
        chosen: list[tuple[_Work, list[int]]] = []
        room = self._batch_tokens
        left = {number: allowed[number] for number in self._open if number in allowed}
        while left and len(chosen) < BATCH_TEXTS_MAX:
            number = next(iter(left))
            work = self._open[number]
            if len(work.texts[-1]) > room:
                break  # it is the first one next time
            chosen.append((work, work.texts.pop()))
            room -= len(chosen[-1][1])
            # Behind all others, now and in the next step.
            self._open[number] = self._open.pop(number)
            credit = left.pop(number) - 1
            if credit > 0 and work.texts:
                left[number] = credit
        return chosen

    def _decode(self, texts: list[list[int]]) -> None:
        self._batch.clear()
        for sequence, text in enumerate(texts):
            self._batch.add(sequence, 0, text, wants_logits=True, wants_all=True)
        if self._memory:
            self._llama.llama_memory_clear(self._memory, False)
        self._log.clear()
        code = self._batch.decode(self._context)
        if code != 0:
            raise EngineBroken(f"llama_decode gave {code}: {self._log.last_error()}")

    def _outcome(self, sequence: int, work: _Work) -> Embedded | Failed:
        found = self._llama.llama_get_embeddings_seq(self._context, sequence)
        if not found:
            raise EngineBroken("llama.cpp has no vector for a text")
        numbers = found[: self._dimensions]
        if self.model.pooling.task != RERANK:
            numbers = normalised(numbers, work.dimensions)
        try:
            return Embedded(request=work.request, data=Vector.of(numbers).data)
        except ValueError:
            del self._open[work.request]
            why = "the model's vector has a number that is not finite"
            return Failed(request=work.request, code="crashed", message=why)

    def _tokenized(self, request: Embed) -> list[list[int]]:
        most = self.context_tokens * TEXT_BYTES_PER_TOKEN_MAX
        query_size = len((request.query or "").encode())
        for index, text in enumerate(request.texts):
            size = len(text.encode()) + query_size
            if size > most:
                raise RuntimeFailure(
                    "context_too_long",
                    f"text {index} has {size} bytes, and the model takes {self.context_tokens} "
                    "tokens at a time",
                )
        if request.query is None:
            return [self.model.tokens(text, add_special=True) for text in request.texts]
        return self._pairs(request.query, request.texts)

    def _pairs(self, query: str, texts: tuple[str, ...]) -> list[list[int]]:
        """A query beside each text, as llama-server writes them."""
        llama, model = self._llama, self.model
        source = llama.llama_model_chat_template(model.handle, RERANK_TEMPLATE)
        if source is not None:
            template = source.decode("utf-8", "replace")
            written = (_written(template, {"query": query, "document": text}) for text in texts)
            return [model.tokens(pair, add_special=False) for pair in written]
        vocabulary = model.vocabulary
        separator = llama.llama_vocab_sep(vocabulary)
        end = llama.llama_vocab_eos(vocabulary)
        end = separator if end < 0 else end
        begins = [llama.llama_vocab_bos(vocabulary)] * llama.llama_vocab_get_add_bos(vocabulary)
        ends = [end] * llama.llama_vocab_get_add_eos(vocabulary)
        between = [separator] * llama.llama_vocab_get_add_sep(vocabulary)

        def plain(text: str) -> list[int]:
            return model.tokens(text, add_special=False, parse_special=False)

        before = [*begins, *plain(query), *ends, *between]
        pairs = [[*plain(text), *ends] for text in texts]
        # Before the query is there as often as there are texts.
        check_tokens([len(before) + len(text) for text in pairs], self.context_tokens)
        return [[*before, *text] for text in pairs]

    def _make_context(self, load: Load) -> Handle:
        parameters = self._llama.llama_context_default_params()
        parameters.embeddings = True
        parameters.n_ctx = self._batch_tokens
        parameters.n_batch = self._batch_tokens
        # Else a text would be cut where its tokens must see each other.
        parameters.n_ubatch = BATCH_TOKENS if self._can_split else self._batch_tokens
        parameters.n_seq_max = BATCH_TEXTS_MAX
        parameters.kv_unified = True
        wanted = f"texts of {self.context_tokens} tokens"
        return self.model.make_context(parameters, load, wanted=wanted, mend="context_tokens")


def _ended(work: _Work) -> Ended:
    return Ended(
        request=work.request,
        finish_reason="stop",
        prompt_tokens=work.tokens,
        completion_tokens=0,
        cached_tokens=0,
    )


def _written(template: str, parts: Mapping[str, str]) -> str:
    return _PLACES.sub(lambda place: parts[place[1]], template)


def _bad(message: str) -> RuntimeFailure:
    return RuntimeFailure("bad_request", message)
