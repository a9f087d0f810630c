"""The one place for whether one model is in memory: who wants it, and when it comes and leaves.

cold -> called (somebody wants it) -> inside (it has its room) -> loaded -> idle -> leaving -> cold
                                                                       -> making way ->
"""

import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

from runtimes.base import RuntimeFailure
from runtimes.llama.settings import KEEP_ALIVE_S, LlamaSettings
from runtimes.model_memory import TURN_S, ModelMemory
from runtimes.room import Room

GRACE_S = 60.0
"""What was loaded for somebody who comes again later waits for him so long."""

T = TypeVar("T")


class Residence:
    """One model's place in memory. For trio tasks of one thread."""

    def __init__(
        self,
        settings: LlamaSettings,
        *,
        worker_pid: Callable[[], int | None],
        is_busy: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        """`is_busy`: whether anything runs on it."""
        self.name = settings.name
        self.need = self.least = Room()
        self.is_pinned = settings.pin
        self.used_at = -math.inf
        self.why_not = ""
        """Why it would not fit though all others left."""
        self.refusal = ""
        """Why nobody has it who asked last, or waits for it now."""
        self.is_loaded = False
        self.began_at = 0.0
        """When the present load began."""
        self.turn_until = math.inf
        self.is_making_way = False
        """Others have their turn: nothing new begins, though somebody wants it."""
        self._keep_alive = settings.keep_alive
        self._worker_pid = worker_pid
        self._is_busy = is_busy
        self._on_change = on_change
        self._memory = ModelMemory()
        self._holds = 0
        self._called = trio.Event()
        self._is_decided = False
        """It is known whether it is loaded at the start."""
        self._has_room = False
        self._is_leaving = False
        self._is_from_start = False
        self._was_used = False
        self._scope = trio.CancelScope()
        self._gone = trio.Event()
        self._moved = trio.Event()
        """Whether it is idle may have changed."""

    # ---- runtimes.model_memory.Tenant ----

    @property
    def worker_pid(self) -> int | None:
        """See `Tenant`."""
        return self._worker_pid()

    @property
    def is_idle(self) -> bool:
        """See `Tenant`."""
        is_free = self._holds == 0 or (self.is_making_way and not self._is_busy())
        return self._is_leaving or (self.is_loaded and is_free)

    @property
    def is_wanted(self) -> bool:
        """See `Tenant`."""
        return self._holds > 0

    async def unload(self) -> bool:
        """See `Tenant`."""
        if not self.is_idle:
            return False
        if not self._is_leaving:
            self._is_leaving, self._called = True, trio.Event()
            if self.is_wanted:
                self._called.set()  # it comes again when it is its turn
            self._scope.cancel()
            self._on_change()
        await self._gone.wait()
        return True

    def make_way(self, why: str) -> None:
        """See `Tenant`."""
        if self.is_loaded and not self.is_making_way:
            self.is_making_way, self.refusal = True, why
            self._on_change()

    def stay_on(self) -> None:
        """See `Tenant`."""
        if self.is_making_way:
            self.is_making_way, self.refusal = False, ""
            self._on_change()

    def note_fit(self, why_not: str) -> None:
        """See `Tenant`."""
        flips = bool(why_not) != bool(self.why_not)
        self.why_not = why_not
        if flips:
            self._on_change()

    def note_wait(self, why: str) -> None:
        """See `Tenant`."""
        self.refusal = why

    # ---- its life ----

    @property
    def memory(self) -> ModelMemory:
        """Whose room it takes."""
        return self._memory

    def join(self, memory: ModelMemory) -> None:
        """From now on this is its memory."""
        self._memory = memory
        memory.join(self)

    @property
    def is_leaving(self) -> bool:
        """Its worker is being ended; whoever wants it has it loaded again."""
        return self._is_leaving

    @property
    def is_coming(self) -> bool:
        """It is wanted, or may be loaded at the start, and is not loaded yet."""
        is_wanted = self._called.is_set() or self._has_room or not self._is_decided
        return is_wanted and not self.is_loaded

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """See `Runtime.wanted`."""
        self._holds += 1
        self._memory.disturb()
        if not self._called.is_set():
            self.refusal = ""
            self._called.set()
        try:
            yield
        finally:
            self._holds -= 1
            self._was_used |= self.is_loaded
            self._touch()

    def loaded(self) -> None:
        """The worker has it."""
        self.is_loaded, self._was_used = True, self.is_wanted
        now = trio.current_time()
        self.turn_until = now + max(TURN_S, now - self.began_at)
        self._touch()

    def freed(self) -> None:
        """Something that ran on it has ended."""
        if self.is_making_way:
            self._touch()

    async def begin(self) -> None:
        """Find out whether it is loaded at the start."""
        self._is_from_start = self._has_room = await self._memory.begin(self)
        self._is_decided = True
        if self._has_room:
            self._called.set()

    async def wait_called(self) -> None:
        """Until somebody wants it."""
        await self._called.wait()

    async def enter(self) -> bool:
        """Get room for it; without any, those who want it are told so, and it is False."""
        try:
            if not self._has_room:
                await self._memory.enter(self)
        except RuntimeFailure as failure:
            self.refusal = failure.message
            self._called = trio.Event()
            return False
        self._has_room = True
        self.began_at = trio.current_time()
        return True

    def give_back(self, why: str) -> None:
        """It could not be loaded: others may have its room. What is loaded at the start is tried
        again, if there still is room then; anything else when somebody asks again.
        """
        self._has_room = False
        self._memory.left(self)
        if not self._is_from_start:
            self.refusal, self._called = why, trio.Event()

    async def stay(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Do `work`, which ends when it leaves; None if it has left for others."""
        self._memory.disturb()
        self._is_leaving = False
        self._gone = trio.Event()
        result: T | None = None
        try:
            with trio.CancelScope() as self._scope:
                result = await work()
        finally:
            self.is_loaded = self.is_making_way = False
            self.refusal = ""
            self.turn_until = math.inf
            self._gone.set()
        if not self._is_leaving:
            return result
        self._has_room = self._is_leaving = False
        self._is_from_start = False
        self._memory.left(self)
        return None

    async def leave_when_idle(self) -> None:
        """Leave when nobody has wanted it for long, until cancelled."""
        while True:
            keep_s: float = KEEP_ALIVE_S if self._keep_alive is None else self._keep_alive
            if self.is_pinned or (self._is_from_start and self._keep_alive is None):
                keep_s = math.inf
            elif not (self._was_used or self._is_from_start):
                keep_s = max(keep_s, GRACE_S)
            until = self.used_at + keep_s if self.is_idle else math.inf
            if until <= trio.current_time():
                await self.unload()
                continue
            with trio.move_on_at(until):
                await self._moved.wait()

    def end(self) -> None:
        """It is not served any more."""
        self._memory.leave(self)
        self._has_room = self.is_loaded = self._is_decided = False
        self._called = trio.Event()

    def _touch(self) -> None:
        self.used_at = trio.current_time()
        self._moved.set()
        self._moved = trio.Event()
        self._memory.changed()
