"""The one place that reads what a GGUF file says of itself, within limits and without llama.cpp.

Behind the header (`model_file.py`) lie the pairs, then what the tensors are; no weight is read:

    key string | type u32 | value           ... for each pair
    name string | dimensions u32 | size u64 each | type u32 | offset u64       ... for each tensor

A string is its length (u64) and its bytes. Files are hostile: a count beyond the limits, an end
amid a value, or a type that there is not is `invalid_model`. One budget holds for all parts of a
model, so that reading it takes seconds at the worst.
"""

import dataclasses
import math
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import BinaryIO, Final, TypeAlias

from runtimes.base import RuntimeFailure
from runtimes.llama.files.model_file import HEADER, METADATA_PAIRS_MAX, TENSORS_MAX, model_parts

READ_BYTES: Final = 1024 * 1024
BYTES_MAX: Final = 128 * 1024 * 1024
"""Of pairs and tensors of one model; the largest vocabularies take 20 MB."""
ITEMS_MAX: Final = 2_000_000
"""Pairs, tensors, texts in arrays and numbers that are kept; the largest vocabularies have 800,000
tokens and merges."""
KEY_BYTES_MAX: Final = 64 * 1024
TEXT_BYTES_KEPT: Final = 1024
"""Longer texts (chat templates) are passed over."""
ITEMS_KEPT: Final = 4_096
"""Of an array of numbers, such as one for each layer; of longer ones only the length is kept."""
DIMENSIONS_MAX: Final = 8
WEIGHTS_MAX: Final = 2**62
"""Of a whole model; what others are told of it must fit into 63 bits."""

_STRING: Final = 8
_ARRAY: Final = 9
_NUMBERS: Final[Mapping[int, str]] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Types of values, as `struct` writes them."""

Value: TypeAlias = int | float | str | tuple[int | float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a model says of itself."""

    values: Mapping[str, Value]
    """Numbers, short texts, short arrays of numbers."""
    lengths: Mapping[str, int]
    """Of all arrays."""
    parameters: int
    """Weights of all tensors in all parts."""


def read_metadata(path: pathlib.Path) -> Metadata:
    """Read what the model at `path` says, all its parts; takes a fraction of a second, so it
    belongs in a thread.

    Raises RuntimeFailure `invalid_model`.
    """
    first: _File | None = None
    parameters = 0
    budget = _Budget(BYTES_MAX, ITEMS_MAX)
    for part in model_parts(path):
        try:
            with part.open("rb") as file:
                read = _File(file, budget)
        except (OSError, struct.error, UnicodeDecodeError, _Damaged) as error:
            reason = getattr(error, "strerror", None) or "its metadata is damaged"
            raise RuntimeFailure(
                "invalid_model", f"{part} cannot be read ({reason}); download it again"
            ) from error
        first = first or read
        parameters += read.parameters
        if parameters >= WEIGHTS_MAX:
            raise RuntimeFailure("invalid_model", f"{part} has absurdly many weights")
    assert first is not None
    return Metadata(values=first.values, lengths=first.lengths, parameters=parameters)


class _Damaged(Exception):
    """The bytes are no metadata."""


@dataclasses.dataclass(slots=True)
class _Budget:
    """What may still be read."""

    bytes_left: int
    items_left: int

    def spend(self, *, size: int = 0, items: int = 0) -> None:
        """Raises _Damaged when there is no more."""
        self.bytes_left -= size
        self.items_left -= items
        if self.bytes_left < 0 or self.items_left < 0:
            raise _Damaged


class _File:
    """One file, read from its start."""

    def __init__(self, file: BinaryIO, budget: _Budget) -> None:
        self._file = file
        self._budget = budget
        self._buffer = b""
        self._at = 0
        self.values: dict[str, Value] = {}
        self.lengths: dict[str, int] = {}
        self.parameters = 0
        _, _, tensors, pairs = HEADER.unpack(self._take(HEADER.size))
        if pairs > METADATA_PAIRS_MAX or tensors > TENSORS_MAX:
            raise _Damaged
        budget.spend(items=pairs + tensors)
        for _ in range(pairs):
            self._read_pair()
        for _ in range(tensors):
            self.parameters += self._tensor()
        if file.tell() - len(self._buffer) + self._at > os.fstat(file.fileno()).st_size:
            raise _Damaged  # what was passed over last is not there

    def _read_pair(self) -> None:
        key = self._take(self._length(KEY_BYTES_MAX)).decode()
        kind = self._number("I")
        if kind == _STRING:
            length = self._length(BYTES_MAX)
            if length <= TEXT_BYTES_KEPT:
                self.values[key] = self._take(length).decode("utf-8", "replace")
            else:
                self._skip(length)
        elif kind == _ARRAY:
            self._read_array(key)
        else:
            self.values[key] = self._value(kind)

    def _read_array(self, key: str) -> None:
        kind, length = self._number("I"), self._number("Q")
        self.lengths[key] = length
        if kind == _STRING:
            self._budget.spend(items=length)
            for _ in range(length):
                self._skip(self._length(BYTES_MAX))
        elif length <= ITEMS_KEPT:
            self._budget.spend(items=length)
            self.values[key] = tuple(self._value(kind) for _ in range(length))
        else:
            self._skip(struct.calcsize("<" + _letter(kind)) * length)

    def _tensor(self) -> int:
        """How many weights it has."""
        self._skip(self._length(KEY_BYTES_MAX))
        dimensions = self._number("I")
        if dimensions > DIMENSIONS_MAX:
            raise _Damaged
        sizes = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        self._skip(4 + 8)
        weights: int = math.prod(sizes)
        if weights >= WEIGHTS_MAX:
            raise _Damaged
        return weights

    def _value(self, kind: int) -> int | float:
        letter = _letter(kind)
        value: int | float
        (value,) = struct.unpack("<" + letter, self._take(struct.calcsize("<" + letter)))
        return value

    def _length(self, most: int) -> int:
        length = self._number("Q")
        if length > most:
            raise _Damaged
        return length

    def _number(self, letter: str) -> int:
        number: int
        (number,) = struct.unpack("<" + letter, self._take(struct.calcsize("<" + letter)))
        return number

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._buffer):
            self._fill(size)
            end = size
        taken = self._buffer[self._at : end]
        self._at = end
        return taken

    def _skip(self, size: int) -> None:
        end = self._at + size
        if end <= len(self._buffer):
            self._at = end
            return
        beyond = end - len(self._buffer)
        self._budget.spend(size=beyond)
        self._buffer, self._at = b"", 0
        self._file.seek(beyond, 1)

    def _fill(self, size: int) -> None:
        """Have at least `size` bytes from here on in the buffer."""
        rest = self._buffer[self._at :]
        more = self._file.read(max(READ_BYTES, size - len(rest)))
        self._budget.spend(size=len(more))
        self._buffer, self._at = rest + more, 0
        if len(self._buffer) < size:
            raise _Damaged


def _letter(kind: int) -> str:
    letter = _NUMBERS.get(kind)
    if letter is None:
        raise _Damaged
    return letter
