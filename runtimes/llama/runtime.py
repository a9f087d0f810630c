"""The one place where a llama.cpp worker becomes a `Runtime`: kept up, queued for, asked.

`serve` runs one worker after the other. `generate` waits for a slot and hands the request to the
worker that is up then. A slot is free again when the worker says so or is gone, not when the
consumer leaves: until then the worker may still be busy with what nobody waits for.
"""

import dataclasses
from collections.abc import AsyncGenerator

import trio

from runtimes import hardware
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
from runtimes.limits import check_request, check_task
from runtimes.llama import frames
from runtimes.llama.link import WorkerEnd, WorkerLink
from runtimes.llama.settings import LlamaSettings
from runtimes.slots import Slots

RUNTIME_NAME = "llama"
LOAD_CRASHES_MAX = 3
"""So many workers in a row that die while loading, and the file is held to be the cause."""
GPU_BUILD = (
    "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir llama-cpp-python"
)


@dataclasses.dataclass(slots=True)
class RestartDelay:
    """How long to wait before the next worker: longer each time, short again after good health."""

    least_s: float = 0.5
    most_s: float = 30.0
    healthy_s: float = 60.0
    """A worker that was up for so long has forgiven the ones before it."""
    _next_s: float = dataclasses.field(default=0.0, init=False)

    def after(self, up_s: float) -> float:
        """The wait, in seconds, after a worker that was up for `up_s`."""
        if up_s >= self.healthy_s or self._next_s == 0.0:
            self._next_s = self.least_s
        delay_s = self._next_s
        self._next_s = min(self.most_s, 2 * delay_s)
        return delay_s


class LlamaRuntime(Runtime):
    """One GGUF file, served by llama.cpp in a process of its own."""

    def __init__(
        self, settings: LlamaSettings, *, restart_delay: RestartDelay | None = None
    ) -> None:
        self._settings = settings
        self._restart_delay = restart_delay or RestartDelay()
        self._slots = Slots(settings.slots or 1, settings.queue_max)
        self._link: WorkerLink | None = None
        self._card: ModelCard | None = None
        self._ready_at: float | None = None
        self._lacks_gpu = False
        self._trouble = ""
        self._advice: str | None = None

    @property
    def card(self) -> ModelCard | None:
        """See `Runtime.card`."""
        return self._card if self._link is not None and self._link.is_up else None

    @property
    def load(self) -> Load:
        """See `Runtime.load`."""
        return self._slots.load

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
        return self._advice

    @property
    def worker_pid(self) -> int | None:
        """The worker process, while there is one."""
        return None if self._link is None else self._link.pid

    async def serve(self, on_change: ChangeCallback) -> None:
        """See `Runtime.serve`."""
        assert self._link is None, "a runtime is served once at a time"
        load_crashes = 0
        try:
            while True:
                end = await self._run_worker(on_change)
                if end.failure is not None and end.failure.code != "unavailable":
                    raise end.failure
                # SIGKILL comes from outside (memory ran out, a person), so it proves nothing.
                if end.was_ready or end.returncode == -9:
                    load_crashes = 0
                elif end.failure is None:
                    load_crashes += 1
                if load_crashes >= LOAD_CRASHES_MAX:
                    raise RuntimeFailure(
                        "invalid_model",
                        f"llama.cpp dies of {self._settings.path} ({end.reason}); "
                        "download it again or choose another file",
                    )
                now = trio.current_time()
                up_s = 0.0 if self._ready_at is None else now - self._ready_at
                await trio.sleep(self._restart_delay.after(up_s))
        finally:
            self._link = None

    async def generate(self, request: Request) -> AsyncGenerator[GenerateEvent, None]:
        """See `Runtime.generate`."""
        check_request(request)
        self._live_link()
        await self._slots.acquire()
        try:
            link = self._live_link()
            assert self._card is not None, "it came with the link"
            check_task(request, self._card)
            reply = link.start(request, on_end=self._slots.release)
        except BaseException:
            self._slots.release()
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

    async def _run_worker(self, on_change: ChangeCallback) -> WorkerEnd:
        """Run one worker to its end."""
        became_ready = trio.Event()

        def ready(frame: frames.Ready) -> None:
            self._card = self._make_card(frame)
            self._slots.resize(frame.slots)
            self._ready_at = trio.current_time()
            self._lacks_gpu = not frame.gpu_offload
            self._trouble = ""
            became_ready.set()
            on_change()

        self._ready_at = None
        self._link = link = WorkerLink(self._settings, on_ready=ready)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_for_gpu, became_ready, on_change)
                try:
                    end = await link.run()
                except OSError as error:  # no process to be had: out of memory or processes
                    reason = f"no worker can be started ({error})"
                    end = WorkerEnd(
                        reason=reason,
                        failure=RuntimeFailure("unavailable", reason),
                        was_ready=False,
                        returncode=None,
                    )
                nursery.cancel_scope.cancel()
        finally:
            on_change()
        self._trouble = end.failure.message if end.failure else end.reason
        return end

    async def _look_for_gpu(self, became_ready: trio.Event, on_change: ChangeCallback) -> None:
        """Say what to do when there is a GPU that this build of llama.cpp cannot use."""
        await became_ready.wait()
        if self._advice is not None or not self._lacks_gpu:
            return
        # NVML may hang with a sick driver; nobody waits for it.
        gpus = await trio.to_thread.run_sync(hardware.gpus, abandon_on_cancel=True)
        if gpus:
            self._advice = (
                f"{gpus[0].name} is idle, because this llama.cpp is built without GPU support: "
                f"{GPU_BUILD}"
            )
            on_change()

    def _live_link(self) -> WorkerLink:
        if self._link is not None and self._link.is_up:
            return self._link
        why = self._trouble or f"it is loading, {self.progress:.0%} done"
        raise RuntimeFailure("unavailable", f"{self._settings.name} is not ready: {why}")

    def _make_card(self, frame: frames.Ready) -> ModelCard:
        return ModelCard(
            name=self._settings.name,
            content_hash=frame.content_hash,
            runtime=RUNTIME_NAME,
            architecture=frame.architecture,
            parameters=frame.parameters,
            quantization=frame.quantization,
            size_bytes=frame.size_bytes,
            context_tokens=frame.context_tokens,
            tasks=(frame.task,),
        )
