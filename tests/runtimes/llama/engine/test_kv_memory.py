"""What lies in the KV cache is known exactly, whatever comes and goes."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.llama.engine.kv_memory import Held, KvMemory
from runtimes.llama.engine.parking import PARKED_TOKENS_MIN, Parking, common_length


class FakeCache:
    """The KV cache as llama.cpp has it: which cell each position of each sequence lies in."""

    def __init__(self) -> None:
        self.cells: dict[int, dict[int, object]] = {}

    def llama_memory_seq_rm(self, _memory: object, number: int, start: int, end: int) -> bool:
        """As in llama.cpp."""
        held = self.cells.setdefault(number, {})
        for position in list(held):
            if position >= start and (end < 0 or position < end):
                del held[position]
        return True

    def llama_memory_seq_cp(
        self, _memory: object, source: int, target: int, _start: int, end: int
    ) -> None:
        """As in llama.cpp, where all cells are shared."""
        copied = {p: cell for p, cell in self.cells.get(source, {}).items() if p < end}
        self.cells.setdefault(target, {}).update(copied)

    def llama_state_seq_get_size(self, _context: object, number: int) -> int:
        """One byte a token."""
        return len(self.cells.get(number, {}))

    def llama_state_seq_get_data(
        self, _context: object, _buffer: object, size: int, number: int
    ) -> int:
        """As in llama.cpp, but nothing is in it."""
        assert sorted(self.cells[number]) == list(range(size))
        return size

    def llama_state_seq_set_data(
        self, _context: object, _buffer: object, size: int, number: int
    ) -> int:
        """As in llama.cpp: cells of its own."""
        assert not self.cells.get(number)
        self.cells[number] = {position: object() for position in range(size)}
        return size

    def decode(self, held: Held, count: int) -> None:
        """Put tokens behind those of a sequence."""
        for position in range(len(held.tokens), len(held.tokens) + count):
            self.cells.setdefault(held.number, {})[position] = object()

    @property
    def used(self) -> int:
        """Cells that some sequence uses."""
        return len({id(cell) for held in self.cells.values() for cell in held.values()})


@dataclasses.dataclass(slots=True)
class _Run:
    held: Held
    tokens: list[int]


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=12)
acts = st.lists(
    st.tuples(st.sampled_from(["take", "grow", "cut", "keep", "drop"]), st.integers(0, 9), prompts),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(acts=acts, is_shared=st.booleans(), can_cut=st.booleans(), is_parking=st.booleans())
def test_the_count_is_that_of_the_cache(
    acts: list[tuple[str, int, list[int]]], is_shared: bool, can_cut: bool, is_parking: bool
) -> None:
    """Free cells are those that nothing uses; what a sequence has is its beginning, no more."""
    is_parking = is_parking and is_shared
    times = PARKED_TOKENS_MIN if is_parking else 1
    cache, slots, cells = FakeCache(), 3, 40 * times
    parking = Parking(cache, None, 14 * times)
    memory = KvMemory(
        cache,
        None,
        cells=cells,
        sequences=6 if is_shared else 3,
        is_shared=is_shared,
        can_cut=can_cut,
        parking=parking if is_parking else None,
        kept_max=5 * times if is_parking else None,
    )
    running: list[_Run] = []
    for act, which, prompt in acts:
        tokens = [token for token in prompt for _ in range(times)]
        if act == "take" and len(running) < slots:
            held = memory.take(tokens, prompt_tokens=len(tokens))
            if held is None:
                assert is_shared
                continue
            assert held.tokens == tokens[: len(held.tokens)]
            assert len(held.tokens) < len(tokens)
            assert sorted(cache.cells.get(held.number, {})) == list(range(len(held.tokens)))
            running.append(_Run(held, tokens))
        elif act == "grow" and running:
            run = running[which % len(running)]
            more = run.tokens[len(run.held.tokens) :] or [which]
            if not is_shared or memory.make_room(len(more)):
                cache.decode(run.held, len(more))
                memory.grow(run.held, more)
        elif act == "cut" and can_cut and running:
            run = running[which % len(running)]
            length = min(which, len(run.held.tokens))
            kept = run.held.tokens[:length]
            cache.decode(run.held, 1)  # which the memory is not told of
            memory.cut(run.held, length)
            assert run.held.tokens == kept
            assert sorted(cache.cells.get(run.held.number, {})) == list(range(length))
        elif act in ("keep", "drop") and running:
            memory.release(running.pop(which % len(running)).held, keep=act == "keep")
        assert memory.free_cells == cells - cache.used
        assert sum(len(each.state) for each in parking.parked) <= 14 * times
        numbers = [run.held.number for run in running]
        assert len(numbers) == len(set(numbers))
    for run in running:
        memory.release(run.held, keep=False)
    assert memory.make_room(cells) or not is_shared


def test_what_was_used_least_recently_goes_first() -> None:
    """Room is made of the oldest that is kept; one that is used again is young again."""
    cache = FakeCache()
    memory = KvMemory(cache, None, cells=30, sequences=8, is_shared=True)
    for first in (1, 2, 3):
        held = memory.take([first] * 10, prompt_tokens=10)
        assert held is not None
        cache.decode(held, 10)
        memory.grow(held, [first] * 10)
        memory.release(held, keep=True)
    again = memory.take([1] * 10 + [9], prompt_tokens=11, margin=9)
    assert again is not None
    assert len(again.tokens) == 10
    memory.release(again, keep=True)
    for first, known in ((2, 0), (1, 9), (3, 9)):
        probe = memory.take([first] * 10, prompt_tokens=10)
        assert probe is not None
        assert len(probe.tokens) == known
        memory.release(probe, keep=known > 0)


def test_whose_beginning_is_shared_was_used() -> None:
    """It is not the next to be forgotten."""
    cache = FakeCache()
    memory = KvMemory(cache, None, cells=30, sequences=8, is_shared=True)
    for first in (1, 2, 3):
        held = memory.take([first] * 9, prompt_tokens=9)
        assert held is not None
        cache.decode(held, 9)
        memory.grow(held, [first] * 9)
        memory.release(held, keep=True)
    sharing = memory.take([1] * 8 + [5], prompt_tokens=9)
    assert sharing is not None
    assert len(sharing.tokens) == 8
    memory.release(sharing, keep=False)
    assert memory.make_room(4)
    for first, known in ((2, 0), (1, 8)):
        probe = memory.take([first] * 9, prompt_tokens=9)
        assert probe is not None
        assert len(probe.tokens) == known


def kept(memory: KvMemory, cache: FakeCache, tokens: list[int]) -> int:
    """Run a sequence to its end and keep it; how many of its tokens were known."""
    held = memory.take(tokens, prompt_tokens=len(tokens))
    assert held is not None
    known = len(held.tokens)
    cache.decode(held, len(tokens) - known)
    memory.grow(held, tokens[known:])
    memory.release(held, keep=True)
    return known


def test_what_is_only_kept_makes_way_and_comes_back() -> None:
    """While something runs few kept cells are in its way; the rest is known nevertheless."""
    cache = FakeCache()
    memory = KvMemory(
        cache,
        None,
        cells=1000,
        sequences=8,
        is_shared=True,
        parking=Parking(cache, None, 10_000),
        kept_max=100,
    )
    for first in (1, 2, 3):
        assert kept(memory, cache, [first] * 200) == 0
    running = memory.take([9] * 70, prompt_tokens=70)
    assert running is not None
    assert cache.used == 0
    memory.release(running, keep=False)
    assert kept(memory, cache, [2] * 200 + [5] * 10) == 200
    assert kept(memory, cache, [1] * 150 + [5] * 10) == 150
    assert kept(memory, cache, [1] * 200) == 199  # it was only copied: its end was not needed


def test_parked_memory_is_bounded() -> None:
    """The least recently used one is forgotten; one that is too large is never copied."""
    cache = FakeCache()
    parking = Parking(cache, None, 450)
    memory = KvMemory(
        cache, None, cells=1000, sequences=8, is_shared=True, parking=parking, kept_max=0
    )
    for first in (1, 2, 3):
        kept(memory, cache, [first] * 200)
    kept(memory, cache, [4] * 500)
    kept(memory, cache, [5])
    assert [each.tokens[0] for each in parking.parked] == [2, 3]


@pytest.mark.parametrize(("new", "known"), [(1, 300), (16, 300), (17, 253), (63, 299), (64, 300)])
def test_too_few_new_tokens_for_a_tile_are_filled_up(new: int, known: int) -> None:
    """Decoding some known tokens again is faster than an unfilled tile."""
    cache = FakeCache()
    memory = KvMemory(cache, None, cells=1000, sequences=8, is_shared=True, tile=64)
    kept(memory, cache, [1] * 300)
    assert kept(memory, cache, [1] * 300 + [2] * new) == known


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_the_common_beginning(left: list[int], right: list[int]) -> None:
    """As counted item by item."""
    counted = 0
    while counted < min(len(left), len(right)) and left[counted] == right[counted]:
        counted += 1
    assert common_length(left, right) == counted


@pytest.mark.parametrize("unit", [4, 16])
def test_only_whole_pieces_of_a_prompt_are_reused(unit: int) -> None:
    """Where shapes matter, neither part of a piece nor generated tokens are taken over."""
    cache = FakeCache()
    memory = KvMemory(cache, None, cells=99, sequences=1, is_shared=False, unit=unit)
    held = memory.take([1] * 22, prompt_tokens=18)
    assert held is not None
    cache.decode(held, 22)
    memory.grow(held, [1] * 22)
    memory.release(held, keep=True)
    again = memory.take([1] * 30, prompt_tokens=30)
    assert again is not None
    assert len(again.tokens) == 18 // unit * unit
