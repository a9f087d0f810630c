"""The one place for what a daemon and its llama worker say to each other, and in which bytes.

A frame on the pipe is its length (4 bytes, big-endian) and one msgpack array: the frame's number
and its fields in order. Both ends decode alike and believe nothing: wrong lengths, types, counts
and ranges are a FrameError, after which the stream is of no use.

    daemon                worker
      Load           ->
                     <-   Loading ... then Ready or LoadFailed
      Generate       ->
                     <-   Started, Prefilled ..., Tokens ..., then one of Ended, Failed, Cancelled
      Credit, Cancel ->

A request starts with CREDIT_TOKENS: the worker stops before the daemon holds more tokens than
that which nobody has taken, and `Credit` lets it go on.
"""

import dataclasses
import struct
from collections.abc import Callable, Iterator
from typing import Final, get_args, get_origin

import msgpack

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""Twice the largest prompt (runtimes/limits.py), which is the largest thing there is."""
CREDIT_TOKENS: Final = 64

ITEMS_MAX: Final = 4 * 1024 * 1024
"""Token ids in one frame at most."""
INTEGER_MIN: Final = -1
INTEGER_MAX: Final = 2**63 - 1

_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """The bytes are no frame. The stream that they came from cannot be read on."""


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Run a request under a number that was never used before."""

    request: int
    messages: tuple[tuple[str, ...], ...] | None
    """Pairs of role and content."""
    prompt: str | None
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """So many prompt tokens are decoded; a sign of life during long prompts."""

    request: int
    tokens: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Sampled tokens and the text that they complete."""

    request: int
    token_ids: tuple[int, ...]
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The completion is whole."""

    request: int
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


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
)


def encode(frame: Frame) -> bytes:
    """The bytes of one frame. Raises FrameError for one that is too large or no Unicode."""
    layout = _LAYOUTS_BY_TYPE[type(frame)]
    fields = [layout.number, *(getattr(frame, name) for name in layout.checks)]
    try:
        body: bytes = msgpack.packb(fields)
    except (ValueError, OverflowError) as error:  # lone surrogates, numbers beyond 64 bits
        raise FrameError(f"cannot be written: {error}") from error
    if len(body) > FRAME_BYTES_MAX:
        raise FrameError(f"{len(body)} bytes are more than a frame holds")
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Finds frames in a stream of bytes; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """Yield the frames that `data` completes. Raises FrameError for anything else.

        Exhaust the iterator before feeding on.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not 1 <= length <= FRAME_BYTES_MAX:
                raise FrameError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _decode(body)


def _decode(body: bytes) -> Frame:
    try:
        fields = msgpack.unpackb(body, use_list=False, max_ext_len=0, max_array_len=ITEMS_MAX)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise FrameError(f"no msgpack: {error}") from error
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise FrameError("no numbered frame")
    layout = _LAYOUTS_BY_NUMBER.get(fields[0])
    if layout is None:
        raise FrameError(f"no frame has the number {fields[0]}")
    if len(fields) != len(layout.checks) + 1:
        raise FrameError(f"frame {layout.number} with {len(fields) - 1} fields")
    values = zip(layout.checks.items(), fields[1:], strict=True)
    return layout.kind(**{name: check(value) for (name, check), value in values})


_Check = Callable[[object], object]


def _exactly(kind: type) -> _Check:
    def check(value: object) -> object:
        if type(value) is not kind:  # isinstance would take a bool for an int
            raise FrameError(f"{type(value).__name__} where {kind.__name__} belongs")
        return value

    return check


def _integer(value: object) -> object:
    if type(value) is not int or not INTEGER_MIN <= value <= INTEGER_MAX:
        raise FrameError("no number, or one out of range")
    return value


def _tuple_of(inner: _Check) -> _Check:
    def check(value: object) -> object:
        if type(value) is not tuple:
            raise FrameError("no list where a list belongs")
        return tuple(inner(item) for item in value)

    return check


def _check_for(annotation: object) -> _Check:
    """The check of one field, from its declared type."""
    if annotation is int:
        return _integer
    if isinstance(annotation, type) and not get_args(annotation):
        return _exactly(annotation)
    inner = _check_for(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return _tuple_of(inner)
    assert get_args(annotation)[1] is type(None)
    return lambda value: None if value is None else inner(value)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How one kind of frame lies in its array."""

    number: int
    kind: Callable[..., Frame]
    checks: dict[str, _Check]


# A number belongs to its kind for ever: add at the end.
_LAYOUTS = [
    _Layout(
        number=number,
        kind=kind,
        checks={field.name: _check_for(field.type) for field in dataclasses.fields(kind)},
    )
    for number, kind in enumerate(get_args(Frame))
]
_LAYOUTS_BY_NUMBER = {layout.number: layout for layout in _LAYOUTS}
_LAYOUTS_BY_TYPE = {layout.kind: layout for layout in _LAYOUTS}
