"""The one place for a loaded model: its weights, its vocabulary, what it says about itself.

Worker side: speaks to llama.cpp through its C functions (bindings.py).
"""

import ctypes
import os
import weakref
from collections.abc import Callable, Iterable

from runtimes.base import RuntimeFailure
from runtimes.embedding import GENERATE
from runtimes.llama.capacity import Capacity
from runtimes.llama.engine.bindings import Bindings, Handle, LogTail, Parameters, load_bindings
from runtimes.llama.files.pooling import Pooling
from runtimes.llama.frames import Load
from runtimes.llama.kv_type import is_quantized, kv_type_code
from runtimes.llama.split import Split

METADATA_BYTES_MAX = 1024
VOCABULARY_PADDING_MAX = 128
"""Models of one family fill their vocabularies up by a few tokens that are never used."""
PIECE_BYTES = 64
"""Room for one token's text at first; longer ones ask again."""
PARAMETERS_PER_THREAD = 20_000_000
"""Threads meet after every layer, spinning: a model with less work than this for each is slower
with more of them, and ten times slower while other programs want the same cores."""


def open_model(load: Load, on_progress: Callable[[float], None]) -> "LoadedModel":
    """Begin with llama.cpp and load the file. Raises RuntimeFailure as `serve` does."""
    bindings = load_bindings()
    log = LogTail(bindings)
    bindings.llama_backend_init()
    split = Split(mode=load.split_mode, main_gpu=load.main_gpu, shares=load.tensor_split)
    return LoadedModel(
        bindings,
        log,
        load.path,
        gpu_layers=load.gpu_layers,
        split=split,
        mmap=load.mmap,
        on_progress=on_progress,
    )


class LoadedModel:
    """The weights and vocabulary of one GGUF file, and its contexts: freed with this object."""

    def __init__(
        self,
        bindings: Bindings,
        log: LogTail,
        path: bytes,
        *,
        gpu_layers: int,
        split: Split,
        mmap: bool,
        on_progress: Callable[[float], None],
    ) -> None:
        """Load the file. Raises RuntimeFailure `invalid_model`, or `unavailable` without memory."""
        self.bindings = self._llama = bindings
        self.log = log
        self.split = split
        parameters = bindings.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        parameters.use_mmap = mmap
        split.fill(bindings, parameters)

        def progressed(share: float, _data: object) -> bool:
            on_progress(min(1.0, max(0.0, share)))
            return True

        self._progress_callback = bindings.llama_progress_callback(progressed)
        parameters.progress_callback = self._progress_callback
        log.clear()
        self.handle = bindings.llama_model_load_from_file(path, parameters)
        if not self.handle:
            raise _load_failure(os.fsdecode(path), log)
        self._contexts: list[Handle] = []
        # Not when the process ends: that frees everything sooner.
        weakref.finalize(self, _free, bindings, self.handle, self._contexts).atexit = False
        if not bindings.llama_model_has_decoder(self.handle) or bindings.llama_model_has_encoder(
            self.handle
        ):
            raise _unfit(path, "is no text generator")
        self.vocabulary = bindings.llama_model_get_vocab(self.handle)
        self.tokens_known: int = bindings.llama_vocab_n_tokens(self.vocabulary)
        self.trained_context_tokens: int = bindings.llama_model_n_ctx_train(self.handle)
        self.parameters: int = bindings.llama_model_n_params(self.handle)
        self.architecture = self._metadata("general.architecture")
        self.pooling = Pooling(
            self._metadata(f"{self.architecture}.pooling_type"),
            self._metadata(f"{self.architecture}.attention.causal") != "false",
        )
        if self.pooling.task == GENERATE and not self.pooling.is_causal:
            raise _unfit(path, "is an encoder that does not say how it pools")
        self._piece_buffer = ctypes.create_string_buffer(PIECE_BYTES)
        self._end_tokens: tuple[int, ...] | None = None

    def make_context(self, parameters: Parameters, load: Load, *, wanted: str, mend: str) -> Handle:
        """A context by `parameters`, and by what `load` says of any. `wanted` and `mend` are the
        words for one that there is no room for. Raises RuntimeFailure: `unavailable`, or
        `invalid_model` for an adapter that is not for this model.
        """
        parameters.n_threads = parameters.n_threads_batch = self._threads(load)
        if load.flash_attention is not None:
            parameters.flash_attn_type = int(load.flash_attention)
        parameters.no_perf = True
        self.log.clear()
        context = self._llama.llama_init_from_model(self.handle, parameters)
        if not context:
            if is_quantized(load.kv_type) and "flash_attn" in self.log.last_error():
                raise RuntimeFailure(
                    "invalid_model",
                    f"kv_type={load.kv_type} is had with flash attention only, which there is not "
                    "for this model here; leave it out",
                )
            raise RuntimeFailure(
                "unavailable",
                f"no room for {wanted} ({self.log.last_error() or 'no reason given'}); "
                f"lower {mend}",
            )
        self._contexts.append(context)
        if load.lora is not None:
            self._add(load.lora, load.lora_scale, context)
        return context

    def make_kv_context(
        self, load: Load, capacity: Capacity, *, wanted: str = "a context", mend: str
    ) -> Handle:
        """The same for one that generates: its sequences and their KV cache as `capacity` says."""
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = capacity.kv_tokens
        parameters.n_batch = parameters.n_ubatch = load.batch_tokens
        parameters.n_seq_max = capacity.sequences
        parameters.kv_unified = capacity.is_shared
        parameters.type_k = parameters.type_v = kv_type_code(load.kv_type)
        parameters.swa_full = True  # else nothing could be taken back, no beginning reused
        wanted = f"{wanted} of {capacity.kv_tokens} tokens"
        return self.make_context(parameters, load, wanted=wanted, mend=mend)

    def _add(self, path: bytes, scale: float, context: Handle) -> None:
        """Have an adapter's part in all that `context` computes."""
        self.log.clear()
        adapter = self._llama.llama_adapter_lora_init(self.handle, path)
        if adapter:
            adapters = (self._llama.llama_adapter_lora_p_ctypes * 1)(adapter)
            scales = (ctypes.c_float * 1)(scale)
            if self._llama.llama_set_adapters_lora(context, adapters, 1, scales) == 0:
                return
        raise RuntimeFailure(
            "invalid_model",
            f"{os.fsdecode(path)} is no LoRA adapter for this model "
            f"({self.log.last_error() or 'no reason given'}); name one that was made for it",
        )

    @property
    def gpu_offload(self) -> bool:
        """Whether this build of llama.cpp can use a GPU at all."""
        return bool(self._llama.llama_supports_gpu_offload())

    def _threads(self, load: Load) -> int:
        """How many to compute with."""
        return load.threads or min(load.cores, 1 + self.parameters // PARAMETERS_PER_THREAD)

    @property
    def kv_bytes_per_token(self) -> int:
        """What one token takes in the KV cache, in 16-bit numbers; about, for unusual shapes."""
        llama = self._llama
        layers: int = llama.llama_model_n_layer(self.handle)
        width: int = llama.llama_model_n_embd(self.handle)
        heads: int = llama.llama_model_n_head(self.handle)
        kv_heads: int = llama.llama_model_n_head_kv(self.handle)
        return max(1, 4 * layers * width * kv_heads // max(1, heads))

    @property
    def is_recurrent(self) -> bool:
        """Whether some of its state cannot be taken back token by token (Mamba and the like)."""
        return bool(
            self._llama.llama_model_is_recurrent(self.handle)
            or self._llama.llama_model_is_hybrid(self.handle)
        )

    @property
    def quantization(self) -> str:
        """The weights' format, such as `Q4_K - Medium` or `F16`."""
        name = self._llama.llama_ftype_name(self._llama.llama_model_ftype(self.handle))
        return (name or b"").decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source in the file, if there is one."""
        source = self._llama.llama_model_chat_template(self.handle, None)
        return None if source is None else source.decode("utf-8", "replace")

    @property
    def bos_text(self) -> str:
        """How the begin-of-sequence token is written; empty without one."""
        return self._token_text(self._llama.llama_vocab_bos(self.vocabulary))

    @property
    def eos_text(self) -> str:
        """How the end-of-sequence token is written; empty without one."""
        return self._token_text(self._llama.llama_vocab_eos(self.vocabulary))

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """All tokens that end a generation."""
        if self._end_tokens is None:
            self._end_tokens = tuple(filter(self.is_end, range(self.tokens_known)))
        return self._end_tokens

    def shares_vocabulary(self, other: "LoadedModel") -> bool:
        """Whether a token of one is the same token of the other, but for padding at the end."""
        llama, mine, others = self._llama, self.vocabulary, other.vocabulary
        if llama.llama_vocab_type(mine) != llama.llama_vocab_type(others):
            return False
        if abs(self.tokens_known - other.tokens_known) > VOCABULARY_PADDING_MAX:
            return False
        text = llama.llama_vocab_get_text
        tokens = range(min(self.tokens_known, other.tokens_known))
        return all(text(mine, token) == text(others, token) for token in tokens)

    def is_end(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        return bool(self._llama.llama_vocab_is_eog(self.vocabulary, token))

    def tokenize(self, text: str, *, is_rendered: bool) -> list[int]:
        """The token ids of a prompt, special tokens in the text included.

        The begin-of-sequence token comes first where the model wants one; a template that has
        written it already (`is_rendered`) is not given a second. Raises RuntimeFailure
        `context_too_long` for more than 2**31 tokens.
        """
        add_special = not (is_rendered and self.begins(text))
        found = self.tokens(text, add_special=add_special)
        # A prompt is to be continued, whatever the model's trainer wanted at the end of texts.
        if add_special and found and self._llama.llama_vocab_get_add_eos(self.vocabulary):
            found.pop()
        return found

    def begins(self, text: str) -> bool:
        """Whether a rendered prompt has the begin-of-sequence token already."""
        return bool(self.bos_text) and text.startswith(self.bos_text)

    def tokens(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """The token ids of a text; `add_special`: with what the model's trainer wanted around
        texts; `parse_special`: special tokens may be written in it. Raises as `tokenize`.
        """
        data = text.encode()
        room = len(data) + 8
        while True:
            tokens = (self._llama.llama_token * room)()
            count = self._llama.llama_tokenize(
                self.vocabulary, data, len(data), tokens, room, add_special, parse_special
            )
            if count >= 0:
                break
            if count <= -(2**31):
                raise RuntimeFailure("context_too_long", "the prompt has too many tokens")
            room = -count
        return list(tokens[:count])

    def tokens_of(self, texts: Iterable[str]) -> frozenset[int]:
        """Of these texts, those that are one token."""
        found = {text: self.tokenize(text, is_rendered=True)[-1:] for text in texts}
        return frozenset(
            token
            for text, tokens in found.items()
            for token in tokens
            if self.piece(token, special=True) == text.encode()
        )

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that `token` adds to the text; of control tokens only when `special`."""
        while True:
            size = len(self._piece_buffer)
            count = self._llama.llama_token_to_piece(
                self.vocabulary, token, self._piece_buffer, size, 0, special
            )
            if count >= 0:
                return self._piece_buffer.raw[:count]
            self._piece_buffer = ctypes.create_string_buffer(-count)

    def _token_text(self, token: int) -> str:
        if token < 0:
            return ""
        text = self._llama.llama_vocab_get_text(self.vocabulary, token)
        return (text or b"").decode("utf-8", "replace")

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(METADATA_BYTES_MAX)
        count = self._llama.llama_model_meta_val_str(
            self.handle, key.encode(), buffer, METADATA_BYTES_MAX
        )
        return buffer.value.decode("utf-8", "replace") if count >= 0 else ""


def _unfit(path: bytes, why: str) -> RuntimeFailure:
    return RuntimeFailure(
        "invalid_model",
        f"{os.fsdecode(path)} {why}; choose a chat, text, embedding or reranking model",
    )


def _free(bindings: Bindings, model: Handle, contexts: Iterable[Handle]) -> None:
    for context in contexts:
        bindings.llama_free(context)
    bindings.llama_model_free(model)


def _load_failure(path: str, log: LogTail) -> RuntimeFailure:
    if log.is_out_of_memory():
        return RuntimeFailure(
            "unavailable",
            f"no memory for {path} ({log.last_error()}); free some, or lower gpu_layers",
        )
    return RuntimeFailure(
        "invalid_model",
        f"llama.cpp cannot load {path} ({log.last_error() or 'no reason given'}); "
        "download it again or choose another file",
    )
