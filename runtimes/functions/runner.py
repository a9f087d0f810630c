"""The one place that runs a machine's functions: one process per job, a bounded queue before them.

Rule 1: a job's process, and what it started, is gone when `run` ends, however it ends.
Rule 2: so is its working folder. What a daemon that was killed left there, the next one removes.
Rule 3: whatever a function does, the daemon takes bounded frames and bounded lines from it.
"""

import contextlib
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import psutil
import trio

from runtimes.base import Load, RuntimeFailure
from runtimes.functions.call import LOG_LINES_MAX, FunctionCall, Returned, check_call
from runtimes.functions.frames import CODEC, Began, Frame, Refused, Result, Run
from runtimes.slots import Slots
from runtimes.worker import process
from runtimes.worker.framing import Decoder, FrameError

WORKER: Final = "runtimes.functions.worker"
QUEUE_MAX: Final = 32
END_TIMEOUT_S: Final = 5.0
"""For a killed process to vanish."""
LAST_WORDS_S: Final = 1.0
"""For what a function printed to arrive, when its result has."""
MEMORY_BYTES_MIN: Final = 2**30

OnStart = Callable[[], Awaitable[None]]
"""Raises nothing but Cancelled."""


class FunctionRunner:
    """Used by one daemon, from trio tasks of one thread."""

    def __init__(
        self,
        functions: Mapping[str, str],
        scratch: pathlib.Path,
        *,
        slots: int | None = None,
        queue_max: int = QUEUE_MAX,
        memory_bytes_max: int | None = None,
    ) -> None:
        """`functions`: MODULE:ATTRIBUTE by name. `scratch`: a folder that is this runner's alone.

        `slots` None: half of the cores. `memory_bytes_max` None: half of the machine's memory.
        """
        self._functions = dict(functions)
        self._scratch = scratch
        self._slots = Slots(slots or max(1, (os.cpu_count() or 1) // 2), queue_max)
        self._memory_bytes_max = memory_bytes_max

    @property
    def names(self) -> list[str]:
        """The functions that can be run, sorted."""
        return sorted(self._functions)

    @property
    def load(self) -> Load:
        """Jobs waiting and running now."""
        return self._slots.load

    def sweep(self) -> None:
        """Remove what an earlier daemon left behind; blocks, and belongs before the first `run`."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    async def run(self, call: FunctionCall, on_start: OnStart, *, deadline_s: float) -> Returned:
        """Run a function; `on_start` is called when it has a slot and its arguments fit.

        `deadline_s` only bounds the processor time: the caller cancels when it is over. Raises
        RuntimeFailure with the codes that `call.py` names. `on_start` raises nothing.
        """
        check_call(call)
        target = self._functions.get(call.function)
        if target is None:
            raise RuntimeFailure("unknown_function", f"no function {call.function!r} is here")
        await self._slots.acquire(call.priority)
        try:
            folder = await trio.to_thread.run_sync(self._make_folder, call)
            try:
                return await self._run_in(folder, call, target, on_start, deadline_s)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(_remove, folder)
        finally:
            self._slots.release()

    def _make_folder(self, call: FunctionCall) -> pathlib.Path:
        try:
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = pathlib.Path(tempfile.mkdtemp(prefix="job-", dir=self._scratch))
            for name, content in call.inputs:
                (folder / name).write_bytes(content)
        except OSError as error:
            raise RuntimeFailure(
                "unavailable", f"it has no room for the job's files ({error.strerror})"
            ) from error
        return folder

    async def _run_in(
        self,
        folder: pathlib.Path,
        call: FunctionCall,
        target: str,
        on_start: OnStart,
        deadline_s: float,
    ) -> Returned:
        run = Run(
            target=target,
            arguments=call.arguments,
            input_names=tuple(name for name, _ in call.inputs),
            cpu_s=math.ceil(deadline_s) * (os.cpu_count() or 1) + 1,
            memory_bytes=self._memory_bytes_max or _half_of_memory(),
        )
        try:
            worker = await process.open_worker(WORKER, folder)
        except OSError as error:
            raise RuntimeFailure(
                "unavailable", f"it cannot start a process ({error.strerror})"
            ) from error
        return await Job(worker, on_start).run(run)


class Job:
    """One job's process, from start to end."""

    def __init__(self, worker: trio.Process, on_start: OnStart) -> None:
        self._worker = worker
        self._on_start = on_start
        self._printed = process.StderrTail(lines_kept=LOG_LINES_MAX)

    async def run(self, run: Run) -> Returned:
        """Have it do `run`. Raises RuntimeFailure."""
        outcome: Result | Refused | str = ""
        try:
            async with trio.open_nursery() as nursery:
                assert self._worker.stderr is not None
                nursery.start_soon(self._printed.read, self._worker.stderr)
                nursery.start_soon(self._send, run)
                outcome = await self._receive()
                with trio.move_on_after(LAST_WORDS_S):
                    await self._printed.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_TIMEOUT_S):
                await self._end()
        match outcome:
            case Result(value=value):
                return Returned(result=value, log=self._printed.lines())
            case Refused(code=code, message=message):
                raise RuntimeFailure(code, message)
            case _:
                last = self._printed.last_line()
                reason = outcome or process.how_it_ended(self._worker.returncode, last)
                raise RuntimeFailure("crashed", f"the function's process ended: {reason}")

    async def _send(self, run: Run) -> None:
        assert self._worker.stdin is not None
        with contextlib.suppress(trio.BrokenResourceError):  # gone, which the reader notices
            await self._worker.stdin.send_all(CODEC.encode(run))
        # It stays open: its end tells the worker that the daemon is gone.

    async def _receive(self) -> Result | Refused | str:
        """What came of it: a reason in words for nonsense, none when it just ended."""
        assert self._worker.stdout is not None
        decoder = Decoder[Frame](CODEC)
        has_begun = False
        try:
            async for data in self._worker.stdout:
                for frame in decoder.feed(data):
                    match frame:
                        case Began() if not has_begun:
                            has_begun = True
                            await self._on_start()
                        case Result() if has_begun:
                            return frame
                        case Refused(code="failed") if has_begun:
                            return frame
                        case Refused(code="bad_arguments" | "unavailable") if not has_begun:
                            return frame
                        case _:
                            return f"it said {type(frame).__name__} out of turn"
        except FrameError as error:
            return f"it sent nonsense ({error})"
        except trio.BrokenResourceError:
            pass  # as good as the end of the pipe
        return ""

    async def _end(self) -> None:
        process.kill_with_group(self._worker)
        try:
            await self._worker.wait()
        finally:
            for stream in (self._worker.stdin, self._worker.stdout, self._worker.stderr):
                if stream is not None:
                    await trio.aclose_forcefully(stream)


def _half_of_memory() -> int:
    return max(int(psutil.virtual_memory().total) // 2, MEMORY_BYTES_MIN)


def _remove(folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
