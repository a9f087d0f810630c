"""The one place for how a daemon's and a worker's dataclasses lie in the bytes of a pipe.

A frame is its length (4 bytes, big-endian) and one msgpack array: the number of the frame's kind
and its fields in order. Both ends decode alike and believe nothing: wrong lengths, types, counts
and ranges are a FrameError, after which the stream is of no use.

A kind is a frozen dataclass with keyword-only fields of int, float, bool, str, bytes, tuples of
one of these, or one of these or None.
"""

import dataclasses
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar, get_args, get_origin

import msgpack

ITEMS_MAX: Final = 4 * 1024 * 1024
"""Items of one array at most."""
INTEGER_MIN: Final = -1
INTEGER_MAX: Final = 2**63 - 1

_LENGTH = struct.Struct(">I")

F = TypeVar("F")


class FrameError(Exception):
    """The bytes are no frame. The stream that they came from cannot be read on."""


class Codec(Generic[F]):
    """The frames that one daemon and one sort of worker exchange."""

    def __init__(self, kinds: Sequence[type[Any]], bytes_max: int) -> None:
        """A kind's number is its place in `kinds`, for ever: add at the end."""
        self.bytes_max = bytes_max
        self._by_number = {
            number: _Layout(number=number, kind=kind, checks=_checks_of(kind))
            for number, kind in enumerate(kinds)
        }
        self._by_kind = {layout.kind: layout for layout in self._by_number.values()}

    def encode(self, frame: F) -> bytes:
        """The bytes of one frame. Raises FrameError for one that is too large or no Unicode."""
        layout = self._by_kind[type(frame)]
        fields = [layout.number, *(getattr(frame, name) for name in layout.checks)]
        try:
            body: bytes = msgpack.packb(fields)
        except (ValueError, OverflowError) as error:  # lone surrogates, numbers beyond 64 bits
            raise FrameError(f"cannot be written: {error}") from error
        if len(body) > self.bytes_max:
            raise FrameError(f"{len(body)} bytes are more than a frame holds")
        return _LENGTH.pack(len(body)) + body

    def decode(self, body: bytes) -> F:
        """The frame in `body`, which has no length in front. Raises FrameError."""
        try:
            fields = msgpack.unpackb(body, use_list=False, max_ext_len=0, max_array_len=ITEMS_MAX)
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise FrameError(f"no msgpack: {error}") from error
        if type(fields) is not tuple or not fields or type(fields[0]) is not int:
            raise FrameError("no numbered frame")
        layout = self._by_number.get(fields[0])
        if layout is None:
            raise FrameError(f"no frame has the number {fields[0]}")
        if len(fields) != len(layout.checks) + 1:
            raise FrameError(f"frame {layout.number} with {len(fields) - 1} fields")
        values = zip(layout.checks.items(), fields[1:], strict=True)
        frame: F = layout.kind(**{name: check(value) for (name, check), value in values})
        return frame


class Decoder(Generic[F]):
    """Finds frames in a stream of bytes; holds at most one unfinished frame."""

    def __init__(self, codec: Codec[F]) -> None:
        self._codec = codec
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[F]:
        """Yield the frames that `data` completes. Raises FrameError for anything else.

        Exhaust the iterator before feeding on.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not 1 <= length <= self._codec.bytes_max:
                raise FrameError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield self._codec.decode(body)


_Check = Callable[[object], object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How one kind of frame lies in its array."""

    number: int
    kind: type[Any]
    checks: dict[str, _Check]


def _checks_of(kind: type[Any]) -> dict[str, _Check]:
    return {field.name: _check_for(field.type) for field in dataclasses.fields(kind)}


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
