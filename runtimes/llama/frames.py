"""The one place for what a daemon and its llama worker say to each other.

How a frame becomes bytes, and what is refused, is in `runtimes/worker/framing.py`.

    daemon                worker
      Load           ->
                     <-   Loading ... then Ready or LoadFailed
      Generate       ->
                     <-   Started, Prefilled or Encoding ..., Tokens ..., then one of Ended, Failed,
                          Cancelled
      Embed          ->
                     <-   Started, Embedded ..., then one of Ended, Failed, Cancelled
      Credit, Cancel ->
                     <-   Measured, once, if nobody asks before

A request starts with CREDIT_TOKENS: the worker stops before the daemon holds more tokens (or
vectors) than that which nobody has taken, and `Credit` lets it go on.
"""

import dataclasses
from typing import Final, get_args

from runtimes.llama.kv_type import F16
from runtimes.llama.pace import BATCH_TOKENS
from runtimes.worker.framing import Codec, Decoder

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""Twice the largest prompt (runtimes/limits.py), which is the largest thing there is."""
CREDIT_TOKENS: Final = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Load this model; the first frame, sent once."""

    path: bytes
    """As the file system encodes it."""
    context_tokens: int | None
    cores: int
    """Threads at most, where `threads` does not say how many."""
    threads: int | None
    gpu_layers: int
    content_hash: str | None
    slots: int | None
    """Requests that run at a time; None: the worker chooses."""
    kv_tokens: int | None
    """Tokens that the KV cache holds, of all requests together; None: the worker chooses."""
    reproducible: bool
    flash_attention: bool | None
    """None: the worker chooses."""
    memory_bytes: int
    """Memory that is available now."""
    split_mode: int | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    """How the layers are laid over several GPUs: as `split.Split` has it."""
    lora: bytes | None = None
    """An adapter's file, as the file system encodes it, and how much of it is added."""
    lora_scale: float = 1.0
    draft: bytes | None = None
    """The file of a model that proposes tokens, as the file system encodes it; and how many of
    them one step tries, of all requests together."""
    draft_tokens: int = 0
    projector: bytes | None = None
    """Its file, as the file system encodes it."""
    kv_type: str = F16
    """One of KV_TYPES."""
    batch_tokens: int = BATCH_TOKENS
    """Tokens in one decode, at most."""
    mmap: bool = True
    """Map the weights from the file."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Run a request under a number that was never used before."""

    request: int
    messages: tuple[tuple[str, ...], ...] | None
    """As `ChatMessage.texts` has them."""
    prompt: str | None
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool
    typical_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    bias_tokens: tuple[int, ...]
    bias_values: tuple[float, ...]
    """One for each of `bias_tokens`."""
    grammar: str | None
    json_schema: str | None
    continued_ids: tuple[int, ...]
    logprobs: int | None
    tools: tuple[tuple[str, ...], ...]
    """Name, description and parameters of each."""
    must_call: bool
    parallel_calls: bool
    with_markers: bool
    stop_token_ids: tuple[int, ...]
    images: tuple[bytes, ...] = ()
    image_places: tuple[tuple[int, ...], ...] = ()
    """Message and character of each, as an `Image` has them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """So many more tokens may be sent."""

    request: int
    tokens: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop this request; answered by its last frame, unless that is on its way already."""

    request: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """Still loading; the share that is done, 0 to 1."""

    progress: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The model is loaded."""

    content_hash: str
    architecture: str
    parameters: int
    quantization: str
    size_bytes: int
    context_tokens: int
    gpu_offload: bool
    """Whether this build of llama.cpp can use a GPU at all."""
    slots: int
    """Requests that run at a time."""
    tasks: tuple[str, ...]
    """What the model is made for, of `runtimes.embedding.TASKS`."""
    gpu_names: tuple[str, ...] = ()
    gpu_bytes: tuple[int, ...] = ()
    gpu_free_bytes: tuple[int, ...] = ()
    """The GPUs that llama.cpp sees, each with its memory and what is free of it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """The model cannot be loaded; the worker ends. A code of `RuntimeFailure` and its message."""

    code: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The prompt is rendered and fits."""

    request: int
    prompt_token_ids: tuple[int, ...]
    calls: str
    thoughts: str
    """Of a `ReplyForm`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """So many prompt tokens are decoded; a sign of life during long prompts."""

    request: int
    tokens: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A sampled token and the text that it completes."""

    request: int
    token_ids: tuple[int, ...]
    text: str
    likely_ids: tuple[int, ...] = ()
    """Where it was asked for: the token itself and the likeliest in its place; what they add to
    the text; their logprobs."""
    likely_data: tuple[bytes, ...] = ()
    likely_logprobs: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The completion is whole."""

    request: int
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The request failed, the worker did not. A code of `RuntimeFailure` and its message."""

    request: int
    code: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The request is gone and its slot is free."""

    request: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Run a request under a number that was never used before; as an `EmbedRequest` has it."""

    request: int
    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    query: str | None
    dimensions: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The vector of a request's next text."""

    request: int
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How fast the model is: nanoseconds per token; 0: that cannot be told."""

    prefill_ns: int = 0
    decode_ns: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Try out how fast the model is, until any other frame arrives; answered by `Measured`, unless
    one does. With `stop`, nothing but such another frame.
    """

    stop: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """An image of the request is encoded next, which takes long and cannot be interrupted. What
    comes next of this request says that it was.
    """

    request: int


Frame = (
    Load
    | Generate
    | Credit
    | Cancel
    | Loading
    | Ready
    | LoadFailed
    | Started
    | Prefilled
    | Tokens
    | Ended
    | Failed
    | Cancelled
    | Embed
    | Embedded
    | Measured
    | Measure
    | Encoding
)


# A number belongs to its kind for ever: add at the end.
CODEC: Final = Codec[Frame](get_args(Frame), FRAME_BYTES_MAX)


def encode(frame: Frame) -> bytes:
    """The bytes of one frame. Raises FrameError for one that is too large or no Unicode."""
    return CODEC.encode(frame)


class FrameDecoder(Decoder[Frame]):
    """Finds these frames in a stream of bytes."""

    def __init__(self) -> None:
        super().__init__(CODEC)
