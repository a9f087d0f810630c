"""The one place that knows what lies in llama.cpp's KV cache: whose tokens, in how many cells.

A sequence that runs holds its tokens' cells. One that has ended is kept while there is room, so
that a later prompt with the same beginning need not be decoded again; the least recently used one
goes first, into ordinary memory (parking.py) if it can. In the shared layout all sequences lie in
one pool of cells and a common beginning is stored once. In the other layout each has a stream of
its own, whose cells depend on nothing else.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from runtimes.llama.engine.bindings import Bindings, Handle
from runtimes.llama.engine.parking import PARKED_TOKENS_MIN, Parking, common_length
from runtimes.llama.images.image_tokens import place_in_image


@dataclasses.dataclass(slots=True, eq=False)
class Held:
    """One sequence's part of the cache."""

    number: int
    """llama.cpp's sequence id."""
    reusable: int
    """Of the tokens from the front, how many another prompt may start from."""
    expected: int = 0
    """So many tokens it will have soon: this room is promised to it."""
    straight: int = 2**31
    """Of the tokens from the front, those whose position is their place; only they are kept."""
    tokens: list[int] = dataclasses.field(default_factory=list)
    """The token ids in it, and what stands for those of images; the place in the list is the
    position, but see `straight`."""
    cells: list[int] = dataclasses.field(default_factory=list)
    """A name for the cell of each; sequences that share a cell have the same name."""


class KvMemory:
    """The KV cache of one context."""

    def __init__(
        self,
        bindings: Bindings,
        memory: Handle,
        *,
        cells: int,
        sequences: int,
        is_shared: bool,
        can_cut: bool = True,
        unit: int = 1,
        tile: int = 1,
        parking: Parking | None = None,
        kept_max: int | None = None,
    ) -> None:
        """`cells` in all where they are shared, else for each of `sequences`.

        `can_cut`: whether a sequence can lose its end (models with a recurrent state cannot).
        What is reused is a multiple of `unit` tokens. Fewer than `tile` tokens are slow to decode.
        With `parking`, `kept_max` cells at most are only kept while anything runs; None: all may.
        """
        self._llama = bindings
        self._memory = memory
        self._cells = cells
        self._is_shared = is_shared
        self._can_cut = can_cut
        self._unit = unit
        self._tile = tile
        self._parking = parking
        self._kept_max = cells if kept_max is None else kept_max
        self._free_numbers = list(reversed(range(sequences)))
        self._running: list[Held] = []
        self._kept: list[Held] = []
        """The least recently used first."""
        self._users: dict[int, int] = {}
        """For each cell in use, how many sequences use it."""
        self._next_cell = 0

    @property
    def free_cells(self) -> int:
        """Cells that nobody uses, of a pool that is shared."""
        return self._cells - len(self._users)

    def take(
        self,
        tokens: Sequence[int],
        *,
        prompt_tokens: int,
        margin: int = 0,
        straight: int = 2**31,
    ) -> Held | None:
        """A place for a sequence that will hold `tokens`, with what is there of them already.

        The last token is never there, so that something is left to decode. None: there is no
        room for them and `margin` more, even without all that is kept. `straight`: see `Held`.
        """
        source, common = self._longest_beginning(tokens)
        whole = min(len(tokens) + margin, self._cells)
        if self._is_shared:
            promised = sum(max(0, held.expected - len(held.tokens)) for held in self._running)
            needed = whole + promised
            own = common if source in self._running else 0
            if needed - own > self._cells - len(self._running_cells()):
                return None  # what is kept is not forgotten in vain
            if self._fetch(tokens, common):
                source, common = self._longest_beginning(tokens)
            if not self.make_room(needed - common, spare=source):
                source, common = None, 0
                if not self.make_room(needed):
                    return None
        if source is None:
            held = self._begin()
        elif source in self._kept and (not self._is_shared or common == len(source.tokens)):
            held = self._take_over(source, common)
        else:
            held = self._share(source, common)
        held.reusable = min(prompt_tokens if self._unit > 1 else 2**31, straight)
        held.straight = straight
        held.expected = whole
        self._running.append(held)
        if self._is_shared:
            self._keep_few()
        return held

    def grow(self, held: Held, tokens: Iterable[int]) -> None:
        """`tokens` have been decoded behind what `held` has."""
        for token in tokens:
            held.tokens.append(token)
            held.cells.append(self._next_cell)
            self._users[self._next_cell] = 1
            self._next_cell += 1

    def cut(self, held: Held, length: int) -> bool:
        """Keep its first `length` tokens, and nothing that was decoded behind them, `grow` told of
        it or not; whether that can be done.
        """
        if not self._llama.llama_memory_seq_rm(self._memory, held.number, length, -1):
            return False
        self._leave_cells(held.cells[length:])
        del held.tokens[length:], held.cells[length:]
        return True

    def release(self, held: Held, *, keep: bool) -> None:
        """The sequence runs no more; keep its tokens for later prompts, or remove exactly them."""
        self._running.remove(held)
        if keep and held.tokens and self._cut(held, held.straight) and held.tokens:
            self._kept.append(held)
        else:
            self._remove(held)

    def make_room(self, cells: int, *, spare: Held | None = None) -> bool:
        """Forget kept sequences, except `spare`, until so many cells are free."""
        for held in list(self._kept):
            if self.free_cells >= cells:
                break
            if held is not spare:
                self._park(held)
        return self.free_cells >= cells

    def _running_cells(self) -> set[int]:
        return {cell for held in self._running for cell in held.cells}

    def _keep_few(self) -> None:
        """Move what is kept out of the way of those that run."""
        running = self._running_cells()
        while self._kept and len(self._users) - len(running) > self._kept_max:
            self._park(self._kept[0])

    def _park(self, held: Held) -> None:
        """A kept sequence leaves the cache; it is copied unless another has nearly all of it."""
        self._kept.remove(held)
        if self._parking is not None:
            others = [other.tokens for other in (*self._kept, *self._running)]
            others += [other.tokens for other in self._parking.parked]
            known = max((common_length(held.tokens, other) for other in others), default=0)
            if len(held.tokens) - known >= PARKED_TOKENS_MIN:
                self._parking.put(held.number, held.tokens)
        self._remove(held)

    def _fetch(self, tokens: Sequence[int], common: int) -> bool:
        """Bring back what is parked, if more than `common` tokens of it are the beginning."""
        if self._parking is None:
            return False
        lengths = {each: self._usable(each.tokens, tokens) for each in self._parking.parked}
        best = max(lengths, key=lengths.__getitem__, default=None)
        if best is None or lengths[best] < common + PARKED_TOKENS_MIN:
            return False
        if not self.make_room(len(best.tokens)):
            return False
        held = self._begin()
        held.reusable = 2**31
        # What was parked to make room may have pushed it out.
        is_there = best in self._parking.parked
        if not is_there or not self._parking.restore(best, held.number):
            self._remove(held)
            return False
        self.grow(held, best.tokens)
        self._kept.append(held)
        return True

    def _longest_beginning(self, tokens: Sequence[int]) -> tuple[Held | None, int]:
        best, best_length = None, 0
        for held in [*self._kept, *(self._running if self._is_shared and self._can_cut else ())]:
            length = self._usable(held.tokens, tokens, held.reusable)
            if length >= best_length and length > 0:  # of equals the one used last
                best, best_length = held, length
        return best, best_length

    def _usable(self, known: Sequence[int], tokens: Sequence[int], most: int = 2**31) -> int:
        """How many of the tokens that a sequence has another may begin with, the last never."""
        length = min(common_length(known, tokens), most, len(tokens) - 1)
        if self._can_cut and self._tile // 4 < len(tokens) - length < self._tile <= length:
            length = len(tokens) - self._tile
        length = length // self._unit * self._unit
        length -= place_in_image(tokens[length])  # images are decoded from their beginning
        return length if self._can_cut or length == len(known) else 0

    def _take_over(self, source: Held, common: int) -> Held:
        self._kept.remove(source)
        if self._cut(source, common):
            return source
        self._remove(source)
        return self._begin()

    def _cut(self, held: Held, length: int) -> bool:
        """The same where it has no more than `grow` was told of: nothing, where it is as short."""
        return length >= len(held.tokens) or self.cut(held, length)

    def _share(self, source: Held, common: int) -> Held:
        """A sequence that begins with the same cells as `source`, which stays."""
        if source in self._kept:  # used last from now on, and not to be forgotten now
            self._kept.remove(source)
            self._kept.append(source)
        held = self._begin()
        self._llama.llama_memory_seq_cp(self._memory, source.number, held.number, 0, common)
        held.tokens = source.tokens[:common]
        held.cells = source.cells[:common]
        for cell in held.cells:
            self._users[cell] += 1
        return held

    def _begin(self) -> Held:
        """An empty sequence. There are numbers for one more than can run, with one kept."""
        if not self._free_numbers:
            self._park(self._kept[0])
        return Held(self._free_numbers.pop(), 0)

    def _remove(self, held: Held) -> None:
        self._llama.llama_memory_seq_rm(self._memory, held.number, -1, -1)
        self._leave_cells(held.cells)
        self._free_numbers.append(held.number)

    def _leave_cells(self, cells: Iterable[int]) -> None:
        for cell in cells:
            if self._users[cell] == 1:
                del self._users[cell]
            else:
                self._users[cell] -= 1
