"""The one place where tokens are computed: requests become sequences, steps make them longer.

The engine knows no pipe. Its owner opens requests, calls `step` over and over, and may do
anything between two steps: cancel, open another, pause one. A step is one `llama_decode`: a piece
of a prompt, or one more token. There is one sequence now; the shape is that of many.
"""

import dataclasses
import secrets
from collections.abc import Callable, Collection

from runtimes.base import ChatMessage, RuntimeFailure
from runtimes.completion_text import CompletionText
from runtimes.llama.bindings import Handle, LogTail, load_bindings
from runtimes.llama.chat_template import ChatTemplate
from runtimes.llama.frames import Ended, Generate, Load, Prefilled, Tokens
from runtimes.llama.model import LoadedModel
from runtimes.llama.sampler import Sampler

BATCH_TOKENS_MAX = 512
"""Prompt tokens in one decode: many are faster, few let a cancel through sooner."""
DEFAULT_CONTEXT_TOKENS_MAX = 4096
PARAMETERS_PER_THREAD = 20_000_000
"""Threads meet after every layer, spinning: a model with less work than this for each is slower
with more of them, and ten times slower while other programs want the same cores."""
SEQUENCES_MAX = 1
TEXT_BYTES_PER_TOKEN_MAX = 256
"""Longer than the longest token of any vocabulary: a prompt beyond this per token of context is
too long without being tokenized."""

StepResult = Prefilled | Tokens | Ended


class EngineBroken(Exception):
    """llama.cpp failed in a way after which its state is unknown; the process must end."""


@dataclasses.dataclass(slots=True, kw_only=True)
class _Sequence:
    """One request on its way."""

    request: int
    pending: list[int]
    """Tokens that the context has not seen: the prompt's rest, or the last sampled one."""
    decoded: int
    """Tokens that the context has seen; the position of the next."""
    prompt_tokens: int
    tokens_max: int
    sampler: Sampler
    text: CompletionText
    completion_tokens: int = 0


class Engine:
    """One model in one context. Not safe for threads."""

    def __init__(self, load: Load, on_progress: Callable[[float], None]) -> None:
        """Load model and context. Raises RuntimeFailure with a code that `serve` knows."""
        self._llama = load_bindings()
        self._log = LogTail(self._llama)
        self._llama.llama_backend_init()
        self.gpu_offload = bool(self._llama.llama_supports_gpu_offload())
        self.model = LoadedModel(
            self._llama, self._log, load.path, gpu_layers=load.gpu_layers, on_progress=on_progress
        )
        self.context_tokens = load.context_tokens or max(
            1, min(self.model.trained_context_tokens, DEFAULT_CONTEXT_TOKENS_MAX)
        )
        self._template = ChatTemplate(
            self.model.chat_template, bos=self.model.bos_text, eos=self.model.eos_text
        )
        self._context = self._make_context(
            load.threads or min(load.cores, 1 + self.model.parameters // PARAMETERS_PER_THREAD)
        )
        self._memory = self._llama.llama_get_memory(self._context)
        self._batch = self._llama.llama_batch_init(BATCH_TOKENS_MAX, 0, SEQUENCES_MAX)
        self._sequences: dict[int, _Sequence] = {}

    @property
    def has_room(self) -> bool:
        """Whether another request can be opened."""
        return len(self._sequences) < SEQUENCES_MAX

    def open(self, request: Generate) -> tuple[int, ...]:
        """Take a request on; return its prompt's token ids. Nothing is decoded yet.

        Raises RuntimeFailure `bad_request` or `context_too_long`, and holds nothing then.
        """
        assert self.has_room
        tokens = self._prompt_tokens(request)
        room = self.context_tokens - len(tokens)
        if not tokens:
            raise RuntimeFailure("bad_request", "the prompt is empty")
        if room < 1:
            raise self._too_long(f"{len(tokens)} tokens")
        seed = secrets.randbits(63) if request.seed is None else request.seed
        self._sequences[request.request] = _Sequence(
            request=request.request,
            pending=tokens,
            decoded=0,
            prompt_tokens=len(tokens),
            tokens_max=room if request.max_tokens is None else min(room, request.max_tokens),
            sampler=Sampler(self._llama, self.model, request, seed),
            text=CompletionText(request.stop),
        )
        return tuple(tokens)

    def close(self, request: int) -> bool:
        """Forget a request and what the context remembers of it; False if it is not open."""
        sequence = self._sequences.pop(request, None)
        if sequence is None:
            return False
        sequence.sampler.close()
        self._llama.llama_memory_clear(self._memory, False)
        return True

    def step(self, allowed: Collection[int]) -> list[StepResult]:
        """Do one decode for the open requests in `allowed`; return what came of it.

        A request whose `Ended` is among the results is closed. Raises EngineBroken.
        """
        results: list[StepResult] = []
        for sequence in [self._sequences[request] for request in allowed]:
            batch = sequence.pending[:BATCH_TOKENS_MAX]
            del sequence.pending[: len(batch)]
            self._decode(batch, sequence.decoded, wants_logits=not sequence.pending)
            sequence.decoded += len(batch)
            if sequence.pending:
                results.append(Prefilled(request=sequence.request, tokens=sequence.decoded))
            else:
                results += self._sample(sequence, len(batch) - 1)
        return results

    def _sample(self, sequence: _Sequence, row: int) -> list[StepResult]:
        token = sequence.sampler.sample(self._context, row, sequence.decoded)
        sequence.completion_tokens += 1
        is_end = self.model.is_end(token)
        text = "" if is_end else sequence.text.push(self.model.piece(token))
        reason = ""
        if is_end or sequence.text.stopped:
            reason = "stop"
        elif sequence.completion_tokens >= sequence.tokens_max:
            reason = "length"
        if reason:
            text += sequence.text.finish()
        results: list[StepResult] = [
            Tokens(request=sequence.request, token_ids=(token,), text=text)
        ]
        if reason:
            results.append(
                Ended(
                    request=sequence.request,
                    finish_reason=reason,
                    prompt_tokens=sequence.prompt_tokens,
                    completion_tokens=sequence.completion_tokens,
                )
            )
            self.close(sequence.request)
        else:
            sequence.pending.append(token)
        return results

    def _decode(self, tokens: list[int], position: int, *, wants_logits: bool) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = position + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 0
        batch.logits[len(tokens) - 1] = int(wants_logits)
        self._log.clear()
        code = self._llama.llama_decode(self._context, batch)
        if code != 0:
            raise EngineBroken(f"llama_decode gave {code}: {self._log.last_error()}")

    def _prompt_tokens(self, request: Generate) -> list[int]:
        if request.messages is not None:
            turns = tuple(ChatMessage(role=role, content=text) for role, text in request.messages)
            text = self._template.render(turns)
        else:
            text = request.prompt or ""
        text_bytes = len(text.encode())
        if text_bytes > self.context_tokens * TEXT_BYTES_PER_TOKEN_MAX:
            raise self._too_long(f"{text_bytes} bytes")
        return self.model.tokenize(text, is_rendered=request.messages is not None)

    def _too_long(self, size: str) -> RuntimeFailure:
        return RuntimeFailure(
            "context_too_long",
            f"the prompt has {size}, and the context holds {self.context_tokens} tokens",
        )

    def _make_context(self, threads: int) -> Handle:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = self.context_tokens
        parameters.n_batch = BATCH_TOKENS_MAX
        parameters.n_ubatch = BATCH_TOKENS_MAX
        parameters.n_seq_max = SEQUENCES_MAX
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        parameters.no_perf = True
        self._log.clear()
        context = self._llama.llama_init_from_model(self.model.handle, parameters)
        if not context:
            raise RuntimeFailure(
                "unavailable",
                f"no room for a context of {self.context_tokens} tokens "
                f"({self._log.last_error() or 'no reason given'}); lower context_tokens",
            )
        return context
