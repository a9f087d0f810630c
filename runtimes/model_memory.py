"""The one place that decides which models are in this machine's memory.

At the start models are loaded in the order in which they were given, as long as they fit together;
the others wait until somebody asks. Then those that have been idle longest make room, as far as it
is needed: never one that somebody waits for or uses, nor one that is pinned. Where they would make
room later, who waits for a model waits for that, first come, first served. One that is never idle
makes way when it has had its turn, and another was waited for as long: what runs on it ends,
nothing new begins, and it goes. When memory gets short because of other programs, idle ones leave
too.

What fits is what is free beside what the models here have not taken yet of what they need. A limit
may be set besides; it counts what they need. Without one, a model that is too large for what there
is may be here alone: its weights are mapped, so it is slow rather than impossible.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import trio

from runtimes.base import RuntimeFailure
from runtimes.hardware import free_room, own_bytes
from runtimes.load_pace import LoadPace
from runtimes.room import Room

WATCH_S: Final = 5.0
"""How often the memory is looked at."""
TURN_S: Final = 30.0
"""So long a model that is never idle stays at least, or as long as it took to load it if that is
longer; and so long others wait for it at least."""
PATIENCE_S: Final = 10.0
"""At the start, so long others wait for one that does not even know what it needs."""
MEND: Final = "a lower kv_tokens or context_tokens needs less, pin=1 loads it all the same"

T = TypeVar("T")


class Tenant(Protocol):
    """A model as the memory sees it."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def need(self) -> Room:
        """What it takes while it is in memory."""

    @property
    def least(self) -> Room:
        """What it cannot do without, all else being read from the disk again and again."""

    @property
    def is_loaded(self) -> bool:
        """It has taken all that it needs."""

    @property
    def worker_pid(self) -> int | None:
        """Who holds it, while it is there."""

    @property
    def is_pinned(self) -> bool:
        """It stays, and is loaded whether it seems to fit or not."""

    @property
    def is_idle(self) -> bool:
        """It is loaded, and nobody waits for it or uses it; or it is leaving."""

    @property
    def is_wanted(self) -> bool:
        """Somebody waits for it, or uses it."""

    @property
    def used_at(self) -> float:
        """When it was used last, by trio's clock."""

    @property
    def turn_until(self) -> float:
        """Until then it need not make way for others, by trio's clock."""

    def make_way(self, why: str) -> None:
        """Begin nothing new; it is idle when what runs has ended."""

    def stay_on(self) -> None:
        """Nobody needs its room any more."""

    async def unload(self) -> bool:
        """Leave the memory, unless it is not idle any more; whether it has. It is gone then."""

    def note_fit(self, why_not: str) -> None:
        """Whether it would fit if all others made room, and if not, why."""

    def note_wait(self, why: str) -> None:
        """Why it is not given its room yet; empty: it is."""


class FreeRoom(Protocol):
    """Looks at the machine; see `free_room`."""

    def __call__(self, *, with_gpus: bool) -> Room: ...


class ModelMemory:
    """The memory of one machine, and the models of one process in it."""

    def __init__(self, limit_bytes: int | None = None, *, free: FreeRoom = free_room) -> None:
        """`limit_bytes`: what models may take of ordinary memory, together; None: what there is.
        `free` is what there is, apart from what our own models have already taken; it may block.
        """
        self.limit_bytes = limit_bytes
        self._free = free
        self._entering = trio.Lock()
        """Held by who waits for room; the others wait in their order."""
        self._deciding = trio.Lock()
        self._starting: list[Tenant] = []
        """Those whose place at the start is not decided yet, in the order given."""
        self._changed = trio.Event()
        self._all: list[Tenant] = []
        self._inside: dict[Tenant, bool] = {}
        """Those that are in memory, or on their way; True: one for whom there is too little."""
        self.pace = LoadPace()
        self.reading = trio.Lock()
        """Held by who reads a model's files just to know them, or tries out how fast one is: one
        at a time.
        """
        self._quiet = trio.CancelScope()
        """What is done only as long as it is quiet."""

    def join(self, tenant: Tenant) -> None:
        """A model is to be served. The order counts at the start."""
        self._all.append(tenant)
        self._starting.append(tenant)

    def leave(self, tenant: Tenant) -> None:
        """It is not served any more."""
        for group in (self._all, self._starting):
            if tenant in group:
                group.remove(tenant)
        self.left(tenant)

    async def begin(self, tenant: Tenant) -> bool:
        """Whether it is loaded at the start; then it has its room from now on."""
        if tenant not in self._all:
            self.join(tenant)
        await self._wait_for_turn(tenant)
        try:
            async with self._deciding:
                free = await self._measure()
                fits = self._admit(tenant, free)
                self._judge(tenant, free)
                return fits
        finally:
            if tenant in self._starting:
                self._starting.remove(tenant)
            self.changed()

    async def _wait_for_turn(self, tenant: Tenant) -> None:
        """Until those before it are decided; one that is late (its disk hangs) loses its place."""
        while tenant in self._starting and (first := self._starting[0]) is not tenant:
            with trio.move_on_after(PATIENCE_S) as patience:
                while self._starting[:1] == [first]:
                    await self._changed.wait()
            if patience.cancelled_caught and self._starting[:1] == [first]:
                self._starting.remove(first)
                self.changed()

    async def enter(self, tenant: Tenant) -> None:
        """Give a model its room, when those before it have theirs; others that are idle leave for
        it. While somebody wants it, it waits for those that are not idle, which make way for it
        when they have had their turn.

        Raises RuntimeFailure `unavailable` when they cannot make enough.
        """
        waits_since = trio.current_time()
        making_way: set[Tenant] = set()
        async with self._entering:
            try:
                while True:
                    changed = self._changed
                    free = await self._try_to_enter(tenant)
                    if free is None:
                        return
                    if not tenant.is_wanted or self._lack(tenant, self._without(tenant, free)):
                        raise RuntimeFailure("unavailable", self._why_not(tenant, free))
                    tenant.note_wait(self._why_not(tenant, free))
                    if trio.current_time() >= waits_since + TURN_S:
                        making_way |= self._ask_for_way(tenant, free)
                    with trio.move_on_after(WATCH_S):
                        await changed.wait()
            finally:
                for other in making_way:
                    other.stay_on()

    async def _try_to_enter(self, tenant: Tenant) -> Room | None:
        """Make room of those that are idle; what there is if it is not enough, None if it is."""
        async with self._deciding:
            while not self._admit(tenant, free := await self._measure()):
                leaving = self._who_must_leave(tenant, free, self._idle())
                for other in leaving:
                    if await other.unload():
                        self.left(other)
                if not leaving:
                    self._judge(tenant, free)
                    return free
        tenant.note_wait("")
        return None

    def _ask_for_way(self, tenant: Tenant, free: Room) -> set[Tenant]:
        """Who makes way for it now, of those that have had their turn: the longest here first."""
        now = trio.current_time()
        busy = [t for t in self._inside if not (t.is_idle or t.is_pinned) and t.turn_until <= now]
        busy.sort(key=lambda other: other.turn_until)
        chosen = set(self._who_must_leave(tenant, free, [*self._idle(), *busy])) & set(busy)
        for other in chosen:
            other.make_way(f"it is the turn of {tenant.name}")
        return chosen

    def left(self, tenant: Tenant) -> None:
        """It is out of memory."""
        self._inside.pop(tenant, None)
        self.changed()

    def changed(self) -> None:
        """Some model may be idle, or is not wanted any more: who waits looks again."""
        self._changed.set()
        self._changed = trio.Event()

    async def undisturbed(self, measure: Callable[[], Awaitable[T]]) -> T:
        """Do `measure` while no model is wanted, and none is on its way into memory or read. One at
        a time; when a model is wanted or loaded meanwhile, it is cancelled and done anew later.
        """
        while True:
            if not self._is_quiet:
                with trio.move_on_after(WATCH_S):
                    await self._changed.wait()
                continue
            async with self.reading:
                if self._is_quiet:
                    with trio.CancelScope() as self._quiet:
                        return await measure()

    @property
    def _is_quiet(self) -> bool:
        is_loading = any(not tenant.is_loaded for tenant in self._inside)
        return not is_loading and not any(tenant.is_wanted for tenant in self._all)

    def disturb(self) -> None:
        """A model is wanted, or its load begins."""
        self._quiet.cancel()

    async def run(self) -> None:
        """Keep an eye on the memory until cancelled."""
        while True:
            await trio.sleep(WATCH_S)
            await self.look()

    async def look(self) -> None:
        """Let one idle model leave if memory is short, and see again which would fit."""
        async with self._deciding:
            free = await self._measure()
            if free.memory_bytes < 0:
                idle = [tenant for tenant in self._idle() if not self._inside[tenant]]
                if idle and await idle[0].unload():
                    self.left(idle[0])
                    return
            for tenant in self._all:
                if tenant not in self._inside and tenant not in self._starting:
                    self._judge(tenant, free)

    def _admit(self, tenant: Tenant, free: Room) -> bool:
        """Whether there is room for it; then it has it."""
        if tenant in self._inside:
            return True
        is_squeezed = not free.holds(tenant.need)
        fits = tenant.is_pinned or not is_squeezed
        fits = fits or (not self._inside and not self._lack(tenant, free))
        if fits:
            self._inside[tenant] = is_squeezed
        return fits

    async def _measure(self) -> Room:
        """What is free beside what those inside have, and will have."""
        pids = {tenant: tenant.worker_pid for tenant in self._inside}
        with_gpus = any(tenant.need.vram_bytes for tenant in self._all)

        def measure() -> tuple[Room, dict[int, int]]:
            free = self._free(with_gpus=with_gpus)
            return free, own_bytes(pid for pid in pids.values() if pid is not None)

        free, taken = await trio.to_thread.run_sync(measure, abandon_on_cancel=True)
        for tenant, pid in pids.items():
            has = taken.get(pid, 0) if pid is not None else 0
            # Of GPU memory it is not told who has it; while one loads, some may count twice.
            vram = 0 if tenant.is_loaded else tenant.need.vram_bytes
            free -= Room(max(0, tenant.need.memory_bytes - has), vram)
        if self.limit_bytes is not None:
            left = self.limit_bytes - sum(t.need.memory_bytes for t in self._inside)
            free = Room(min(free.memory_bytes, left), free.vram_bytes)
        return free

    def _idle(self) -> list[Tenant]:
        """Who may leave, the longest unused first."""
        idle = [tenant for tenant in self._inside if tenant.is_idle and not tenant.is_pinned]
        return sorted(idle, key=lambda tenant: tenant.used_at)

    def _who_must_leave(
        self, tenant: Tenant, free: Room, candidates: Sequence[Tenant]
    ) -> list[Tenant]:
        """The first of them whose leaving makes enough room; nobody leaves in vain."""
        chosen: list[Tenant] = []
        for other in candidates:
            if free.holds(tenant.need):
                break
            chosen.append(other)
            free += other.need
        if not free.holds(tenant.need):
            # For one that is too large anyway all have to leave.
            is_alone = len(chosen) == len(self._inside) and not self._lack(tenant, free)
            return chosen if is_alone else []
        for other in list(chosen):
            if (free - other.need).holds(tenant.need):
                chosen.remove(other)
                free -= other.need
        return chosen

    def _without(self, tenant: Tenant, free: Room) -> Room:
        """What it could have if the others left."""
        return sum((t.need for t in self._inside if t is tenant or not t.is_pinned), free)

    def _judge(self, tenant: Tenant, free: Room) -> None:
        """Tell it whether it would fit if the others left."""
        tenant.note_fit(self._lack(tenant, self._without(tenant, free)))

    def _lack(self, tenant: Tenant, room: Room) -> str:
        """Why it could not even be here alone, with so much room; empty if it could."""
        if tenant.is_pinned or room.holds(tenant.need):
            return ""
        is_pinned = any(other.is_pinned for other in self._inside)
        if self.limit_bytes is None and not is_pinned and room.holds(tenant.least):
            return ""
        return f"{_words(tenant, room)}; {MEND}"

    def _why_not(self, tenant: Tenant, free: Room) -> str:
        busy = [t.name for t in self._inside if not t.is_idle or t.is_pinned]
        words = _words(tenant, free)
        return f"{words}; {', '.join(busy[:4])} cannot leave now" if busy else f"{words}; {MEND}"


def _words(tenant: Tenant, room: Room) -> str:
    there = room if tenant.need.vram_bytes else Room(room.memory_bytes)
    return f"it needs {tenant.need}, and {there} can be had"
