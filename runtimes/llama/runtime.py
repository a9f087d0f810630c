"""The one place where a llama.cpp worker becomes a `Runtime`: kept up, queued for, asked.

`serve` runs one worker after the other. `generate` waits for a slot and hands the request to the
worker that is up then. A slot is free again when the worker says so or is gone, not when the
consumer leaves: until then the worker may still be busy with what nobody waits for.
"""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Iterator

import trio

from runtimes.base import (
    ChangeCallback,
    Chunk,
    Finished,
    GenerateEvent,
    Load,
    ModelCard,
    Request,
    Runtime,
    RuntimeFailure,
)
from runtimes.embedding import Vector
from runtimes.hardware import Gpu
from runtimes.limits import check_request, check_task
from runtimes.llama import frames
from runtimes.llama.files.hash_cache import HashCache
from runtimes.llama.files.known_file import KnownFile
from runtimes.llama.files.prospect import RUNTIME_NAME, Prospect
from runtimes.llama.files.speed_cache import SpeedCache
from runtimes.llama.link import WorkerEnd, WorkerLink
from runtimes.llama.residence import Residence
from runtimes.llama.seen_gpus import SeenGpus
from runtimes.llama.settings import LlamaSettings
from runtimes.model_memory import ModelMemory
from runtimes.slots import Slots
from runtimes.standing import ModelState, Standing
from runtimes.worker.restart_delay import RestartDelay

LOAD_CRASHES_MAX = 3
"""So many workers in a row that die while loading, and the file is held to be the cause."""


class LlamaRuntime(Runtime):
    """One GGUF file, served by llama.cpp in a process of its own."""

    def __init__(
        self,
        settings: LlamaSettings,
        *,
        restart_delay: RestartDelay | None = None,
        hashes: HashCache | None = None,
        speeds: SpeedCache | None = None,
    ) -> None:
        """`hashes`: where content hashes are remembered; None: nowhere. `speeds`: where it is
        remembered how fast the model is; None: that is not tried out.
        """
        self._settings = settings
        self._restart_delay = restart_delay or RestartDelay()
        self._file = KnownFile(settings, hashes, speeds)
        self._slots = Slots(settings.slots or 1, settings.queue_max)
        self._residence = Residence(
            settings,
            worker_pid=lambda: self.worker_pid,
            is_busy=lambda: self._slots.load.running > 0,
            on_change=self._tell,
        )
        self._on_change: ChangeCallback | None = None
        """Of who serves it."""
        self._told = trio.Event()
        self._link: WorkerLink | None = None
        self._is_down = False
        self._failure: RuntimeFailure | None = None
        """Why it is served no more."""
        self._ready_at: float | None = None
        self._seen_gpus = SeenGpus()
        self._trouble = ""

    @property
    def card(self) -> ModelCard | None:
        """See `Runtime.card`."""
        standing = self.standing
        if standing is None or not standing.card.content_hash:
            return None  # what has no identity yet cannot be offered
        if standing.state is ModelState.READY:
            return standing.card
        if standing.state not in (ModelState.LOADING, ModelState.COLD):
            return None
        expected_s = self._residence.memory.pace.expected_s(standing.card.size_bytes)
        return dataclasses.replace(standing.card, load_ms=int(1000 * expected_s))

    @property
    def standing(self) -> Standing | None:
        """See `Runtime.standing`."""
        prospect, home = self._file.prospect, self._residence
        if self._failure is not None:
            card = ModelCard(name=self._settings.name, content_hash="", runtime=RUNTIME_NAME)
            reason = self._failure.message
            return Standing(card=card, state=ModelState.UNUSABLE, reason=reason)
        if prospect is None or self._on_change is None:
            return None
        state, share, ready_in_s = ModelState.COLD, 0.0, 0.0
        reason = home.refusal or self._file.trouble
        size_bytes = prospect.card.size_bytes
        if home.is_leaving or home.is_making_way:
            state = ModelState.LOADING if home.is_wanted else ModelState.COLD
            ready_in_s = home.memory.pace.expected_s(size_bytes)
        elif home.is_loaded and self._link is not None and self._link.is_up:
            state, reason, share = ModelState.READY, "", 1.0
        elif self._is_down or home.is_loaded:
            state, reason, share = ModelState.DOWN, self._trouble, self.progress
        elif home.is_coming:
            state, reason, share = ModelState.LOADING, home.refusal, self.progress
            elapsed_s = 0.0 if self._link is None else trio.current_time() - home.began_at
            ready_in_s = home.memory.pace.left_s(size_bytes, elapsed_s, share)
        elif home.why_not:
            state, reason = ModelState.UNUSABLE, home.why_not
        else:
            ready_in_s = home.memory.pace.expected_s(size_bytes)
        return Standing(
            card=prospect.card,
            state=state,
            share=share,
            ready_in_s=ready_in_s,
            need=prospect.need,
            times=self._file.times,
            reason=reason,
        )

    @property
    def load(self) -> Load:
        """See `Runtime.load`."""
        return self._slots.load

    @property
    def kept_tokens(self) -> int:
        """See `Runtime.kept_tokens`."""
        return 0 if self._file.prospect is None else self._file.prospect.shared_tokens

    @property
    def progress(self) -> float:
        """How far the model is loaded, 0 to 1."""
        return 0.0 if self._link is None else self._link.progress

    @property
    def trouble(self) -> str:
        """Why the last worker ended, in one line; empty while all is well."""
        return self._trouble

    @property
    def advice(self) -> str | None:
        """One line with the command that would make this runtime faster, if there is one."""
        return self._seen_gpus.advice

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """See `Runtime.gpus`."""
        return self._seen_gpus.gpus

    @property
    def worker_pid(self) -> int | None:
        """The worker process, while there is one."""
        return None if self._link is None else self._link.pid

    def use_memory(self, memory: ModelMemory) -> None:
        """See `Source.use_memory`."""
        self._residence.join(memory)

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        """See `Runtime.wanted`."""
        with self._residence.held():
            yield

    async def serve(self, on_change: ChangeCallback) -> None:
        """See `Runtime.serve`."""
        assert self._on_change is None, "a runtime is served once at a time"
        self._on_change, self._failure = on_change, None
        try:
            await self._look()
            await self._residence.begin()
            self._tell()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._residence.leave_when_idle)
                nursery.start_soon(self._identify)
                failure = await self._keep_up()
                nursery.cancel_scope.cancel()
            raise failure
        except RuntimeFailure as failure:
            self._failure = failure
            raise
        finally:
            self._residence.end()
            self._link = self._file.prospect = None
            self._is_down = False
            self._tell()
            self._on_change = None

    async def generate(self, request: Request) -> AsyncGenerator[GenerateEvent, None]:
        """See `Runtime.generate`."""
        check_request(request)
        with self.wanted():
            await self._until_turn()
            try:
                link = self._live_link()
                assert self._file.prospect is not None, "it came before the link"
                check_task(request, self._file.prospect.card)
                reply = link.start(request, on_end=self._free_slot)
            except BaseException:
                self._free_slot()
                raise
            try:
                while True:
                    event = await reply.next()
                    yield event
                    if isinstance(event, Finished):
                        return
                    if isinstance(event, Chunk | Vector):
                        reply.take(event)
            finally:
                reply.leave()

    async def _until_turn(self) -> None:
        """Wait until it is up and there is a slot. Raises RuntimeFailure as `generate`."""
        while True:
            await self._until_up()
            await self._slots.acquire()
            if not self._residence.is_making_way:
                return
            self._free_slot()

    def _free_slot(self) -> None:
        self._slots.release()
        self._residence.freed()

    async def _until_up(self) -> None:
        """Wait while it is loaded. Raises RuntimeFailure `unavailable` when it is not to be."""
        while self._on_change is not None and self._failure is None:
            standing = self.standing
            if standing is not None and standing.state is not ModelState.LOADING:
                break
            await self._told.wait()
        self._live_link()

    def _tell(self) -> None:
        """What is offered, or how it stands, may have changed."""
        self._told.set()
        self._told = trio.Event()
        if self._on_change is not None:
            self._on_change()

    async def _look(self) -> None:
        """Read what the file says of itself now. Raises RuntimeFailure `invalid_model`."""
        home = self._residence
        prospect = await self._file.look(home.memory.limit_bytes)
        home.need, home.least = prospect.need, prospect.least
        self._slots.resize(prospect.slots)

    def _lacks_hash(self) -> bool:
        """Whether nobody loads it and its hash is not known: so it is not offered."""
        home, prospect = self._residence, self._file.prospect
        has_worker = home.is_coming or home.is_loaded
        return prospect is not None and not prospect.card.content_hash and not has_worker

    async def _identify(self) -> None:
        memory = self._residence.memory
        await self._file.keep_identified(
            is_due=self._lacks_hash,
            next_change=lambda: self._told,
            tell=self._tell,
            reading=memory.reading,
            limit_bytes=memory.limit_bytes,
        )

    async def _keep_up(self) -> RuntimeFailure:
        """Run one worker after the other, whenever the model is wanted; why that cannot be."""
        home, load_crashes, falls = self._residence, 0, 0
        is_fresh = home.is_coming
        while True:
            await home.wait_called()
            try:
                if not is_fresh:
                    await self._look()
                is_fresh = False
                has_room = await home.enter()
                if has_room and not await self._file.is_current(self._file.prospect):
                    await self._look()  # it was exchanged while there was no room
            except RuntimeFailure as failure:
                return failure
            if not has_room:
                self._is_down = False
                self._tell()
                continue
            end = await home.stay(self._run_worker)
            if end is None:
                self._link, self._trouble = None, ""
                self._tell()
                continue
            # Who waits for a load is not sent away because it has to be begun anew, once.
            falls = 0 if end.was_ready else falls + 1
            self._is_down = end.was_ready or end.failure is not None or falls > 1
            if not (end.was_ready or home.is_pinned or (home.is_wanted and falls == 1)):
                home.give_back(self._trouble)
            self._tell()
            if end.failure is not None and end.failure.code != "unavailable":
                return end.failure
            # SIGKILL comes from outside (memory ran out, a person), so it proves nothing.
            if end.was_ready or end.returncode == -9:
                load_crashes = 0
            elif end.failure is None:
                load_crashes += 1
            if load_crashes >= LOAD_CRASHES_MAX:
                return RuntimeFailure(
                    "invalid_model",
                    f"llama.cpp dies of {self._settings.path} ({end.reason}); "
                    "download it again or choose another file",
                )
            now = trio.current_time()
            up_s = 0.0 if self._ready_at is None else now - self._ready_at
            await trio.sleep(self._restart_delay.after(up_s))
            if not home.is_coming:
                self._is_down = False  # it is tried again when somebody asks
                self._tell()

    async def _run_worker(self) -> WorkerEnd:
        """Run one worker to its end."""
        became_ready = trio.Event()

        def ready(frame: frames.Ready) -> None:
            self._take_over(frame)
            became_ready.set()
            self._tell()
            memory = self._residence.memory
            nursery.start_soon(self._file.try_out, link.measure, memory, self._tell)

        self._ready_at = None
        assert self._file.prospect is not None
        known_hash = self._file.prospect.card.content_hash or None
        settings = dataclasses.replace(self._settings, content_hash=known_hash)
        memory_bytes = self._file.prospect.memory_bytes
        self._link = link = WorkerLink(
            settings,
            memory_bytes=memory_bytes,
            on_ready=ready,
            on_measured=self._file.note_measured,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._after_ready, became_ready, self._file.prospect)
            try:
                end = await link.run()
            except OSError as error:
                end = WorkerEnd.without_process(error)
            nursery.cancel_scope.cancel()
        self._trouble = end.failure.message if end.failure else end.reason
        return end

    def _take_over(self, frame: frames.Ready) -> None:
        """The worker is up, and knows better than the file's metadata told."""
        assert self._file.prospect is not None
        now = trio.current_time()
        card = ModelCard(
            name=self._settings.name,
            content_hash=frame.content_hash,
            runtime=RUNTIME_NAME,
            architecture=frame.architecture,
            parameters=frame.parameters,
            quantization=frame.quantization,
            size_bytes=frame.size_bytes,
            context_tokens=frame.context_tokens,
            tasks=frame.tasks,
        )
        self._file.prospect = dataclasses.replace(self._file.prospect, card=card)
        self._residence.loaded()
        self._residence.memory.pace.note(frame.size_bytes, now - self._residence.began_at)
        self._slots.resize(frame.slots)
        self._ready_at = now
        self._seen_gpus.note(frame)
        self._trouble = ""
        self._is_down = False

    async def _after_ready(self, became_ready: trio.Event, before: Prospect) -> None:
        """Keep the hash that the worker has computed, and look for a GPU that lies idle."""
        await became_ready.wait()
        assert self._file.prospect is not None
        if not before.card.content_hash:
            await self._file.note_hash(before, self._file.prospect.card.content_hash)
        if await self._seen_gpus.look_for_idle():
            self._tell()

    def _live_link(self) -> WorkerLink:
        if self._link is not None and self._link.is_up:
            return self._link
        standing = self.standing
        why = self._trouble or (standing and standing.reason) or "it is not loaded"
        raise RuntimeFailure("unavailable", f"{self._settings.name} is not ready: {why}")
