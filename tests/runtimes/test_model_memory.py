"""Who is loaded at the start, who makes room for whom, and who never does."""

import dataclasses
import math
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtimes.base import RuntimeFailure
from runtimes.model_memory import MEND, PATIENCE_S, TURN_S, WATCH_S, ModelMemory
from runtimes.room import Room

GB = 10**9


@dataclasses.dataclass(slots=True, eq=False)
class Model:
    """A tenant that does as it is told."""

    name: str
    need: Room
    is_pinned: bool = False
    is_idle: bool = False
    used_at: float = 0.0
    worker_pid: int | None = None
    is_loaded: bool = True
    is_wanted: bool = False
    turn_until: float = math.inf
    is_making_way: bool = False
    squeezed_to: Room | None = None
    why_not: str = ""
    why_waits: str = ""
    unloaded: int = 0

    @property
    def least(self) -> Room:
        """All of it, unless a test says otherwise."""
        return self.squeezed_to or self.need

    def make_way(self, why: str) -> None:
        """What runs is for the test to end."""
        del why
        self.is_making_way = True

    def stay_on(self) -> None:
        """As before."""
        self.is_making_way = False

    async def unload(self) -> bool:
        """Leave at once, if it is idle by then."""
        await trio.lowlevel.checkpoint()
        if not self.is_idle:
            return False
        self.is_idle = False
        self.unloaded += 1
        return True

    def note_fit(self, why_not: str) -> None:
        """Remember it."""
        self.why_not = why_not

    def note_wait(self, why: str) -> None:
        """Remember it."""
        self.why_waits = why


def model(name: str, gigabytes: float, *, vram: float = 0, **state: object) -> Model:
    """One that needs so much."""
    need = Room(int(gigabytes * GB), int(vram * GB))
    return Model(name, need, **state)  # type: ignore[arg-type]  # a test's shorthand


class House:
    """A machine with so much memory, of which what models have loaded is not taken off."""

    def __init__(self, gigabytes: float, *models: Model, vram: float = 0) -> None:
        self.free = Room(int(gigabytes * GB), int(vram * GB))
        self.asked_for_gpus: list[bool] = []
        self.memory = ModelMemory(free=self.look)
        self.models = models
        for each in models:
            self.memory.join(each)

    def look(self, *, with_gpus: bool) -> Room:
        """What is free beside our own."""
        self.asked_for_gpus.append(with_gpus)
        return self.free

    async def start(self) -> list[str]:
        """Who is loaded at the start; all ask at once, in an order of chance."""
        loaded: list[str] = []

        async def begin(each: Model) -> None:
            if await self.memory.begin(each):
                loaded.append(each.name)

        async with trio.open_nursery() as nursery:
            for each in self.models:
                nursery.start_soon(begin, each)
        return loaded


def run(test: Callable[[], Awaitable[None]]) -> None:
    """With a clock that jumps over waits."""

    async def timed() -> None:
        with trio.fail_after(10_000):
            await test()

    trio.run(timed, clock=MockClock(autojump_threshold=0.01))


def test_at_the_start_models_are_loaded_in_their_order_while_they_fit() -> None:
    """A later one that is small enough finds its place beside a large one that has none."""

    async def test() -> None:
        house = House(10, model("a", 4), model("b", 8), model("c", 5), model("d", 2))
        assert await house.start() == ["a", "c"]
        assert [each.why_not for each in house.models] == ["", "", "", ""]

    run(test)


def test_what_would_not_fit_alone_says_so() -> None:
    """In both kinds of memory; it may fit later."""

    async def test() -> None:
        large, on_gpu = model("large", 12), model("gpu", 1, vram=9)
        house = House(10, model("a", 4), large, on_gpu, vram=8)
        assert await house.start() == ["a"]
        assert large.why_not == f"it needs 12.0 GB, and 10.0 GB can be had; {MEND}"
        assert on_gpu.why_not.startswith("it needs 1.0 GB and 9.0 GB of GPU memory, and ")
        house.free = Room(13 * GB, 9 * GB)
        await house.memory.look()
        assert (large.why_not, on_gpu.why_not) == ("", "")

    run(test)


def test_gpus_are_only_looked_at_where_a_model_needs_one() -> None:
    """To ask the driver may take a second, and wakes it."""

    async def test() -> None:
        plain, other = House(4, model("a", 1)), House(4, model("b", 1, vram=1), vram=2)
        await plain.start()
        await other.start()
        assert plain.asked_for_gpus == [False]
        assert other.asked_for_gpus == [True]

    run(test)


def test_the_longest_unused_leave_and_no_more_than_needed() -> None:
    """Of three idle ones the two that were used last stay, or the large one alone leaves."""

    async def test() -> None:
        old, older, recent = model("old", 2), model("older", 2), model("recent", 6)
        new, large = model("new", 2), model("large", 8)
        house = House(10, old, older, recent, new, large)
        assert await house.start() == ["old", "older", "recent"]
        for each, used_at in ((old, 2.0), (older, 1.0), (recent, 3.0)):
            each.is_idle, each.used_at = True, used_at
        await house.memory.enter(new)
        assert [m.unloaded for m in (old, older, recent)] == [0, 1, 0]
        await house.memory.enter(large)
        # The old one has to leave too, or else the large one finds no room beside it and the new.
        assert [m.unloaded for m in (old, older, recent)] == [1, 1, 1]

    run(test)


def test_nobody_leaves_in_vain() -> None:
    """What a small one would bring is not needed when a larger one has to leave anyway."""

    async def test() -> None:
        small, large = model("small", 1, used_at=1.0), model("large", 6, used_at=2.0)
        new = model("new", 8)
        house = House(10, small, large, new)
        assert await house.start() == ["small", "large"]
        small.is_idle = large.is_idle = True
        await house.memory.enter(new)
        assert (small.unloaded, large.unloaded) == (0, 1)

    run(test)


@pytest.mark.parametrize("state", [{"is_idle": False}, {"is_idle": True, "is_pinned": True}])
def test_who_is_used_or_pinned_never_leaves(state: dict[str, bool]) -> None:
    """The other, which nobody waits for, is refused, with the reason; nobody has left in vain."""

    async def test() -> None:
        stays, idle, other = model("stays", 4), model("idle", 2), model("other", 8)
        house = House(10, stays, idle, other)
        await house.start()
        stays.is_idle, stays.is_pinned = state["is_idle"], state.get("is_pinned", False)
        idle.is_idle = True
        with pytest.raises(RuntimeFailure) as refused:
            await house.memory.enter(other)
        assert refused.value.code == "unavailable"
        assert refused.value.message == (
            "it needs 8.0 GB, and 4.0 GB can be had; stays cannot leave now"
        )
        assert (stays.unloaded, idle.unloaded) == (0, 0)

    run(test)


def test_who_is_wanted_again_in_the_last_moment_stays() -> None:
    """It was chosen to leave, and then somebody came; the other has no room then."""

    async def test() -> None:
        class Wanted(Model):
            """Somebody comes as soon as it is to leave."""

            async def unload(self) -> bool:
                await trio.lowlevel.checkpoint()
                self.is_idle = False
                return False

        first, other = Wanted("first", Room(6 * GB)), model("other", 6)
        house = House(10, first, other)
        await house.start()
        first.is_idle = True
        with pytest.raises(RuntimeFailure):
            await house.memory.enter(other)
        assert not first.unloaded

    run(test)


def test_a_pinned_model_is_loaded_whether_it_seems_to_fit_or_not() -> None:
    """The estimate may be wrong, and its owner knows."""

    async def test() -> None:
        house = House(1, model("a", 4, is_pinned=True), model("b", 1))
        assert await house.start() == ["a"]

    run(test)


def test_a_limit_counts_what_models_need() -> None:
    """However much the machine has."""

    async def test() -> None:
        house = House(100)
        house.memory = ModelMemory(5 * GB, free=house.look)
        house.models = (model("a", 3), model("b", 3))
        for each in house.models:
            house.memory.join(each)
        assert await house.start() == ["a"]
        house.models[0].is_idle = True
        await house.memory.enter(house.models[1])
        assert house.models[0].unloaded == 1

    run(test)


def test_when_memory_gets_short_idle_models_leave_one_after_the_other() -> None:
    """The longest unused first, until there is enough; one that is used stays."""

    async def test() -> None:
        old, busy, new = model("old", 1), model("busy", 1), model("new", 1)
        house = House(10, old, busy, new)
        await house.start()
        old.is_idle = new.is_idle = True
        new.used_at = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.memory.run)
            await trio.sleep(2 * WATCH_S + 1)
            assert not old.unloaded
            house.free = Room(1 * GB)  # less than what the three will still take
            await trio.sleep(WATCH_S)
            await wait_all_tasks_blocked()
            assert (old.unloaded, new.unloaded) == (1, 0)
            await trio.sleep(WATCH_S)
            assert (old.unloaded, busy.unloaded, new.unloaded) == (1, 0, 1)
            await trio.sleep(WATCH_S)
            assert not busy.unloaded
            nursery.cancel_scope.cancel()

    run(test)


def test_who_is_given_up_at_the_start_holds_up_nobody() -> None:
    """Its place is free for those behind it."""

    async def test() -> None:
        bad, good = model("bad", 1), model("good", 1)
        house = House(10, bad, good)
        house.models = (good,)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def begin() -> None:
                assert await house.start() == ["good"]

            await wait_all_tasks_blocked()
            house.memory.leave(bad)

    run(test)


class Waiting:
    """Models that are wanted and wait for room, and in which order they had it."""

    def __init__(self, house: House, nursery: trio.Nursery) -> None:
        self.entered: list[str] = []
        self.refused: list[str] = []
        self._house = house
        self._nursery = nursery
        self._next = trio.Event()

    async def next(self) -> None:
        """Until another one has entered."""
        await self._next.wait()
        self._next = trio.Event()

    async def wants(self, each: Model) -> None:
        """From now on somebody wants it."""
        each.is_wanted = True
        self._nursery.start_soon(self._enter, each)
        await wait_all_tasks_blocked()

    async def _enter(self, each: Model) -> None:
        try:
            await self._house.memory.enter(each)
            self.entered.append(each.name)
            self._next.set()
        except RuntimeFailure as failure:
            self.refused.append(failure.message)


def test_who_is_wanted_waits_until_another_is_idle() -> None:
    """First come, first served, also before one that is smaller; who is in use never leaves."""

    async def test() -> None:
        busy, large, small = model("busy", 8), model("large", 8), model("small", 2)
        house = House(9, busy, large, small)
        assert await house.start() == ["busy"]
        async with trio.open_nursery() as nursery:
            waiting = Waiting(house, nursery)
            for each in (large, small):
                await waiting.wants(each)
            assert (waiting.entered, busy.unloaded) == ([], 0)
            busy.is_idle = True
            house.memory.changed()
            await waiting.next()
            assert (waiting.entered, large.why_waits) == (["large"], "")
            large.is_idle = True
            house.memory.changed()
        assert waiting.entered == ["large", "small"]

    run(test)


def test_who_is_never_idle_makes_way_after_its_turn() -> None:
    """When another has waited as long: the one that is here longest, and no more than needed; what
    runs on it ends first, and who is pinned, or has come just now, does not.
    """

    async def test() -> None:
        busy = [model(name, 4, turn_until=until) for name, until in (("b", 2.0), ("a", 1.0))]
        pinned = model("pinned", 4, is_pinned=True, turn_until=0.0)
        fresh = model("fresh", 4)
        wanted = model("wanted", 4)
        house = House(16, *busy, pinned, fresh, wanted)
        house.memory.limit_bytes = 16 * GB
        assert await house.start() == ["b", "a", "pinned", "fresh"]
        async with trio.open_nursery() as nursery:
            waiting = Waiting(house, nursery)
            await waiting.wants(wanted)
            await trio.sleep(TURN_S - 1)
            assert not any(each.is_making_way for each in house.models)
            await trio.sleep(1 + 2 * WATCH_S)
            assert [each.name for each in house.models if each.is_making_way] == ["a"]
            assert (waiting.entered, busy[1].unloaded) == ([], 0)
            busy[1].is_idle = True
            house.memory.changed()
            await waiting.next()
        assert (waiting.entered, busy[1].unloaded) == (["wanted"], 1)

    run(test)


def test_nobody_makes_way_in_vain() -> None:
    """Where it would not be enough, or nobody wants the room any more, all goes on."""

    async def test() -> None:
        busy, young = model("busy", 4, turn_until=0.0), model("young", 4)
        wanted, large = model("wanted", 4), model("large", 6)
        house = House(8, busy, young, wanted, large)
        house.memory.limit_bytes = 8 * GB
        assert await house.start() == ["busy", "young"]
        async with trio.open_nursery() as nursery:
            waiting = Waiting(house, nursery)
            await waiting.wants(large)
            await trio.sleep(3 * TURN_S)
            assert not busy.is_making_way
            large.is_wanted = False
            house.memory.changed()
            await waiting.wants(wanted)
            await trio.sleep(TURN_S + WATCH_S)
            assert busy.is_making_way
            wanted.is_wanted = False
            house.memory.changed()
        assert not busy.is_making_way
        assert (len(waiting.refused), busy.unloaded) == (2, 0)

    run(test)


def test_who_is_wanted_no_more_waits_no_longer() -> None:
    """The deadline of the request has passed; whoever comes next has its turn."""

    async def test() -> None:
        busy, large, small = model("busy", 8), model("large", 8), model("small", 1)
        house = House(9, busy, large, small)
        house.models = (busy,)
        house.memory.leave(large)
        house.memory.leave(small)
        await house.start()
        async with trio.open_nursery() as nursery:
            waiting = Waiting(house, nursery)
            for each in (large, small):
                await waiting.wants(each)
            large.is_wanted = False
            house.memory.changed()
        assert waiting.entered == ["small"]
        assert waiting.refused == ["it needs 8.0 GB, and 1.0 GB can be had; busy cannot leave now"]

    run(test)


def test_who_leaves_by_itself_is_waited_for() -> None:
    """Its process takes its time to vanish; also when nobody waits for the other."""

    async def test() -> None:
        class Slow(Model):
            """It takes a second to leave, whoever began that."""

            async def unload(self) -> bool:
                await trio.sleep(1)
                return await Model.unload(self)

        first, other = Slow("first", Room(8 * GB)), model("other", 8)
        house = House(10, first, other)
        await house.start()
        first.is_idle = True
        await house.memory.enter(other)
        assert first.unloaded == 1

    run(test)


def test_who_becomes_idle_while_the_memory_is_looked_at_leaves() -> None:
    """Nobody is refused because of what was true a moment ago."""

    async def test() -> None:
        first, other = model("first", 8), model("other", 8, is_wanted=True)
        house = House(10, first, other)
        await house.start()
        look = house.memory._free

        def ends(*, with_gpus: bool) -> Room:
            first.is_idle = not first.unloaded
            return look(with_gpus=with_gpus)

        house.memory._free = ends
        await house.memory.enter(other)
        assert first.unloaded == 1

    run(test)


def test_a_model_that_is_too_large_may_be_here_alone() -> None:
    """Its weights are mapped. Others leave for it, nobody stays beside it, and it does not leave
    for want of memory.
    """

    async def test() -> None:
        large = model("large", 12.5, squeezed_to=Room(2 * GB))
        house = House(12, large)
        assert await house.start() == ["large"]
        small, large = model("small", 3), model("large", 12.5, squeezed_to=Room(2 * GB))
        house = House(12, small, large)
        assert await house.start() == ["small"]
        assert large.why_not == ""
        small.is_idle = large.is_wanted = True
        await house.memory.enter(large)
        assert small.unloaded == 1
        large.is_idle = True
        await house.memory.look()
        assert [each.unloaded for each in (large, small)] == [0, 1]
        await house.memory.enter(small)
        assert [each.unloaded for each in (large, small)] == [1, 1]

    run(test)


def test_with_a_limit_or_beside_a_pinned_one_nothing_is_too_large() -> None:
    """It is refused, with what mends it."""

    async def test() -> None:
        pinned = model("pinned", 1, is_pinned=True)
        large = model("large", 12.5, squeezed_to=Room(2 * GB))
        house = House(12, pinned, large)
        assert await house.start() == ["pinned"]
        assert large.why_not.endswith(MEND)
        limited = House(100, model("large", 12.5, squeezed_to=Room(2 * GB)))
        limited.memory.limit_bytes = 12 * GB
        assert await limited.start() == []

    run(test)


def test_gpu_memory_is_promised_until_a_model_is_loaded() -> None:
    """A worker that has just begun has none of it yet."""

    async def test() -> None:
        loads = [model(name, 0.1, vram=30, is_loaded=False, worker_pid=1) for name in "abc"]
        assert await House(100, *loads, vram=80).start() == ["a", "b"]

    run(test)


def test_who_is_late_at_the_start_loses_its_place() -> None:
    """Its disk hangs while its file is looked at; the others keep their order."""

    async def test() -> None:
        late, first, second = model("late", 1), model("first", 6), model("second", 6)
        house = House(10, late, first, second)
        house.models = (second, first)
        begun = trio.current_time()
        assert await house.start() == ["first"]
        assert trio.current_time() - begun == PATIENCE_S
        assert await house.memory.begin(late)

    run(test)


def test_speeds_are_measured_one_at_a_time_while_nothing_disturbs() -> None:
    """Not while a model is read, on its way into memory, or wanted; what is disturbed by one is
    done anew when that is over.
    """

    async def test() -> None:
        first, second = model("first", 1), model("second", 1, is_loaded=False)
        house = House(8, first, second)
        memory, began, ends = house.memory, [], trio.Semaphore(0)
        await house.start()

        async def measure(name: str) -> None:
            async def work() -> None:
                began.append(name)
                await ends.acquire()

            await memory.undisturbed(work)
            began.append(f"{name} ended")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(measure, "a")
            await wait_all_tasks_blocked()
            assert began == [], "the second one loads"
            second.is_loaded, first.is_wanted = True, True
            memory.changed()
            await wait_all_tasks_blocked()
            assert began == [], "the first one is wanted"
            first.is_wanted = False
            async with memory.reading:
                memory.changed()
                await wait_all_tasks_blocked()
                assert began == [], "files are read"
            await wait_all_tasks_blocked()
            nursery.start_soon(measure, "b")
            await wait_all_tasks_blocked()
            assert began == ["a"], "one at a time"
            second.is_loaded = False
            memory.disturb()
            await wait_all_tasks_blocked()
            assert began == ["a"], "it is disturbed, and so would be the other"
            second.is_loaded = True
            memory.changed()
            await wait_all_tasks_blocked()
            ends.release()
            await wait_all_tasks_blocked()
            ends.release()
        assert len(began) == 5
        assert began[1:3] in (["a", "a ended"], ["b", "b ended"])

    trio.run(test)
