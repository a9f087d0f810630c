"""The one place that fills llama.cpp's batch: which tokens one decode works on, and for whom."""

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from runtimes.llama.engine.bindings import Bindings, Handle


class EngineBroken(Exception):
    """llama.cpp failed in a way after which its state is unknown; the process must end."""


class Batch:
    """The tokens of one `llama_decode`. Reused for every step."""

    def __init__(self, bindings: Bindings, tokens_max: int) -> None:
        self._llama = bindings
        self._tokens_max = tokens_max
        self._batch = bindings.llama_batch_init(tokens_max, 0, 1)

    def clear(self) -> None:
        """Begin a new batch."""
        self._batch.n_tokens = 0

    def add(
        self,
        sequence: int,
        position: int,
        tokens: Iterable[int],
        *,
        wants_logits: bool,
        wants_all: bool = False,
    ) -> int:
        """Add tokens of a sequence from `position` on; `wants_logits` of the last of them, or the
        output of all.

        Returns the row of the last one, by which its logits are found.
        """
        batch = self._batch
        row = batch.n_tokens
        for token in tokens:
            assert row < self._tokens_max
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = int(wants_all)
            position += 1
            row += 1
        batch.n_tokens = row
        batch.logits[row - 1] = int(wants_logits or wants_all)
        return int(row - 1)

    def decode(self, context: Handle) -> int:
        """Run the model over the batch; llama.cpp's code, 0 when all is well, 1 without room."""
        return int(self._llama.llama_decode(context, self._batch))


class VectorBatch:
    """Vectors that are read in the place of tokens, all of one sequence, for one `llama_decode`.
    Nothing is sampled behind them.
    """

    def __init__(
        self,
        bindings: Bindings,
        vectors: Any,  # noqa: ANN401  # a ctypes array of floats
        width: int,
        part: range,
        sequence: int,
    ) -> None:
        """Those in `part`, each of `width` numbers."""
        count = len(part)
        self._llama = bindings
        self._vectors = vectors  # it is not copied
        one = (bindings.llama_seq_id * 1)(sequence)
        pointer = ctypes.POINTER(bindings.llama_seq_id)
        at = ctypes.byref(vectors, part.start * width * ctypes.sizeof(ctypes.c_float))
        self._batch = bindings.llama_batch(
            n_tokens=count,
            embd=ctypes.cast(at, ctypes.POINTER(ctypes.c_float)),
            n_seq_id=(ctypes.c_int32 * count)(*[1] * count),
            seq_id=(pointer * count)(*[ctypes.cast(one, pointer)] * count),
            logits=(ctypes.c_int8 * count)(),
        )

    def place(self, positions: Sequence[int]) -> None:
        """Their positions; where each has several, all first ones, then all second ones, ..."""
        self._batch.pos = (self._llama.llama_pos * len(positions))(*positions)

    def decode(self, context: Handle) -> int:
        """As `Batch.decode`."""
        return int(self._llama.llama_decode(context, self._batch))


def fair_shares(needs: Sequence[int], room: int, least: int = 1) -> list[int]:
    """Share `room` out: who needs less than an equal part leaves the rest to the others.

    Nobody who can help it is left with less than `least` to do after this.
    """
    shares = [0] * len(needs)
    smallest_first = sorted(range(len(needs)), key=lambda index: needs[index])
    for place, index in enumerate(smallest_first):
        need = needs[index]
        share = min(need, room // (len(needs) - place))
        if share < need < share + least and need >= 2 * least:
            share = need - least
        shares[index] = share
        room -= share
    return shares
