"""The one place for beginnings that were moved out of the KV cache into ordinary memory.

Attention looks at the mask of every cell that is in use, whoever's it is: on a processor, 8,000
cells that are only kept for later make prompts twice as slow. Copying a sequence out or in takes
milliseconds where decoding it again takes seconds.
"""

import ctypes
import dataclasses
from collections.abc import Sequence

from runtimes.llama.engine.bindings import Bindings, Handle

PARKED_TOKENS_MIN = 64
"""A shorter beginning is as soon decoded."""


@dataclasses.dataclass(slots=True, eq=False)
class Parked:
    """A sequence's tokens, and llama.cpp's state of it."""

    tokens: list[int]
    state: bytearray


class Parking:
    """Sequences in ordinary memory; the least recently used one goes first."""

    def __init__(self, bindings: Bindings, context: Handle, bytes_max: int) -> None:
        self._llama = bindings
        self._context = context
        self._bytes_max = bytes_max
        self._bytes = 0
        self._parked: list[Parked] = []
        """The least recently used first."""

    @property
    def parked(self) -> Sequence[Parked]:
        """All that are here."""
        return self._parked

    def put(self, number: int, tokens: list[int]) -> None:
        """Copy what the context knows as sequence `number`, if it is worth it and has room."""
        if len(tokens) < PARKED_TOKENS_MIN:
            return
        size = self._llama.llama_state_seq_get_size(self._context, number)
        if not 0 < size <= self._bytes_max:
            return
        for parked in list(self._parked):  # what this goes on from
            if len(parked.tokens) - common_length(parked.tokens, tokens) < PARKED_TOKENS_MIN:
                self.drop(parked)
        while self._bytes + size > self._bytes_max:
            self.drop(self._parked[0])
        state = bytearray(size)
        buffer = (ctypes.c_uint8 * size).from_buffer(state)
        if self._llama.llama_state_seq_get_data(self._context, buffer, size, number) == size:
            self._parked.append(Parked(list(tokens), state))
            self._bytes += size

    def restore(self, parked: Parked, number: int) -> bool:
        """Copy it into the empty sequence `number`; False, and forgotten, if that fails."""
        size = len(parked.state)
        buffer = (ctypes.c_uint8 * size).from_buffer(parked.state)
        read = self._llama.llama_state_seq_set_data(self._context, buffer, size, number)
        if not read:
            self.drop(parked)
            return False
        self._parked.remove(parked)
        self._parked.append(parked)  # used last
        return True

    def drop(self, parked: Parked) -> None:
        """Forget it."""
        self._parked.remove(parked)
        self._bytes -= len(parked.state)


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """With how many equal items two lists begin."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # slices are compared in C: faster than item by item
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
