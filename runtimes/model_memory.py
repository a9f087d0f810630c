"""The one place that decides which models are in this machine's memory.

At the start models are loaded in the order in which they were given, as long as they fit together;
the others wait until somebody asks. Then those that have been idle longest make room, as far as it
is needed: never one that somebody waits for or uses, nor one that is pinned. When memory gets
short because of other programs, idle ones leave too.

What fits is what is free beside what the models here have not taken yet of what they need. A limit
may be set besides; it counts what they need.
"""

from typing import Final, Protocol

import trio

from runtimes.base import RuntimeFailure
from runtimes.hardware import free_room, own_bytes
from runtimes.load_pace import LoadPace
from runtimes.room import Room

WATCH_S: Final = 5.0
"""How often the memory is looked at."""


class Tenant(Protocol):
    """A model as the memory sees it."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def need(self) -> Room:
        """What it takes while it is in memory."""

    @property
    def worker_pid(self) -> int | None:
        """Who holds it, while it is there."""

    @property
    def is_pinned(self) -> bool:
        """It stays, and is loaded whether it seems to fit or not."""

    @property
    def is_idle(self) -> bool:
        """It is loaded, and nobody waits for it or uses it."""

    @property
    def used_at(self) -> float:
        """When it was used last, by trio's clock."""

    async def unload(self) -> bool:
        """Leave the memory, unless it is not idle any more; whether it has."""

    def note_fit(self, why_not: str) -> None:
        """Whether it would fit if all others made room, and if not, why."""


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
        self._deciding = trio.Lock()
        self._starting: list[Tenant] = []
        """Those whose place at the start is not decided yet, in the order given."""
        self._decided = trio.Event()
        self._all: list[Tenant] = []
        self._inside: dict[Tenant, None] = {}
        """Those that are in memory, or on their way."""
        self.pace = LoadPace()
        self.reading = trio.Lock()
        """Held by who reads a model's files just to know them: one at a time."""

    def join(self, tenant: Tenant) -> None:
        """A model is to be served. The order counts at the start."""
        self._all.append(tenant)
        self._starting.append(tenant)

    def leave(self, tenant: Tenant) -> None:
        """It is not served any more."""
        for group in (self._all, self._starting):
            if tenant in group:
                group.remove(tenant)
        self._inside.pop(tenant, None)
        self._tell()

    async def begin(self, tenant: Tenant) -> bool:
        """Whether it is loaded at the start; then it has its room from now on."""
        if tenant not in self._all:
            self.join(tenant)
        while self._starting and self._starting[0] is not tenant:
            await self._decided.wait()
        try:
            async with self._deciding:
                free = await self._measure()
                fits = tenant.is_pinned or free.holds(tenant.need)
                if fits:
                    self._inside[tenant] = None
                self._judge(tenant, free)
                return fits
        finally:
            if tenant in self._starting:
                self._starting.remove(tenant)
            self._tell()

    async def enter(self, tenant: Tenant) -> None:
        """Give a model its room; others that are idle leave for it.

        Raises RuntimeFailure `unavailable` when they cannot make enough.
        """
        async with self._deciding:
            if tenant in self._inside:
                return
            free = await self._measure()
            if not tenant.is_pinned:
                for other in self._who_must_leave(tenant, free):
                    if not await other.unload():
                        continue
                    self._inside.pop(other, None)
                free = await self._measure()
                if not free.holds(tenant.need):
                    self._judge(tenant, free)
                    raise RuntimeFailure("unavailable", self._why_not(tenant, free))
            self._inside[tenant] = None

    def left(self, tenant: Tenant) -> None:
        """It is out of memory."""
        self._inside.pop(tenant, None)

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
                idle = self._idle()
                if idle and await idle[0].unload():
                    self.left(idle[0])
                    return
            for tenant in self._all:
                if tenant not in self._inside and tenant not in self._starting:
                    self._judge(tenant, free)

    def _tell(self) -> None:
        self._decided.set()
        self._decided = trio.Event()

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
            # GPU memory is taken at once, when a worker begins to load.
            vram = tenant.need.vram_bytes if pid is None else 0
            free -= Room(max(0, tenant.need.memory_bytes - has), vram)
        if self.limit_bytes is not None:
            left = self.limit_bytes - sum(t.need.memory_bytes for t in self._inside)
            free = Room(min(free.memory_bytes, left), free.vram_bytes)
        return free

    def _idle(self) -> list[Tenant]:
        """Who may leave, the longest unused first."""
        idle = [tenant for tenant in self._inside if tenant.is_idle and not tenant.is_pinned]
        return sorted(idle, key=lambda tenant: tenant.used_at)

    def _who_must_leave(self, tenant: Tenant, free: Room) -> list[Tenant]:
        """The longest unused whose leaving makes enough room; nobody leaves in vain."""
        chosen: list[Tenant] = []
        for other in self._idle():
            if free.holds(tenant.need):
                break
            chosen.append(other)
            free += other.need
        if not free.holds(tenant.need):
            return []
        for other in list(chosen):
            if (free - other.need).holds(tenant.need):
                chosen.remove(other)
                free -= other.need
        return chosen

    def _judge(self, tenant: Tenant, free: Room) -> None:
        """Tell it whether it would fit if the others left."""
        others = (t.need for t in self._inside if t is not tenant and not t.is_pinned)
        alone = sum(others, free)
        if tenant in self._inside:
            alone += tenant.need
        tenant.note_fit("" if tenant.is_pinned else _lack(tenant, alone))

    def _why_not(self, tenant: Tenant, free: Room) -> str:
        busy = [t.name for t in self._inside if not t.is_idle or t.is_pinned]
        lack = _lack(tenant, free)
        return f"{lack}; {', '.join(busy[:4])} cannot leave now" if busy else lack


def _lack(tenant: Tenant, room: Room) -> str:
    if room.holds(tenant.need):
        return ""
    there = room if tenant.need.vram_bytes else Room(room.memory_bytes)
    return f"it needs {tenant.need}, and {there} can be had"
