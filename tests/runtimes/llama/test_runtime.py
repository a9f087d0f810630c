"""A worker that crashes, hangs, or has a file that is no model: what the daemon sees of it."""

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import struct
from collections.abc import AsyncGenerator

import pytest
import trio
import trio.testing

from runtimes import hardware
from runtimes.base import Chunk, GenerateEvent, RuntimeFailure
from runtimes.hardware import Gpu
from runtimes.llama.files.model_file import content_hash
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import DEMO_FILE, LlamaSettings
from runtimes.worker import process
from runtimes.worker.restart_delay import RestartDelay
from tests.runtimes.serving import (
    TIMEOUT_S,
    Served,
    ask,
    complete,
    needs_llama,
    serving,
    wait_idle,
)

pytestmark = [pytest.mark.llama, needs_llama]


def make(settings: LlamaSettings, **changes: object) -> LlamaRuntime:
    """A runtime that restarts its worker without delay."""
    changed = dataclasses.replace(settings, **changes)  # type: ignore[arg-type]  # a test's shorthand
    return LlamaRuntime(changed, restart_delay=RestartDelay(least_s=0.0, most_s=0.0))


def test_a_killed_worker_crashes_the_request_and_comes_back(demo: LlamaSettings) -> None:
    """kill -9 in the middle of a stream: `crashed`, no card, then a new worker that serves."""

    async def main() -> None:
        runtime = make(demo)
        async with serving(runtime) as served:
            before = await complete(runtime, ask(20))
            for _ in range(3):
                killed = runtime.worker_pid
                assert killed is not None
                with pytest.raises(RuntimeFailure) as failed:
                    await kill_while_streaming(runtime, killed)
                assert failed.value.code == "crashed"
                assert "SIGKILL" in failed.value.message
                assert runtime.card is None
                await served.wait_up()
                assert runtime.worker_pid != killed
                again = await complete(runtime, ask(20))
                assert (again.ids, again.text) == (before.ids, before.text)
                assert again.finished == before.finished
                await wait_idle(runtime)

    trio.run(main)


async def drain(events: AsyncGenerator[GenerateEvent, None]) -> None:
    """Take what still comes."""
    with trio.fail_after(TIMEOUT_S):
        async for event in events:
            assert isinstance(event, Chunk)


async def kill_while_streaming(runtime: LlamaRuntime, pid: int) -> None:
    """Start a long answer and kill the worker at its third chunk."""
    chunks = 0
    with trio.fail_after(TIMEOUT_S):
        async with contextlib.aclosing(runtime.generate(ask(2000))) as events:
            async for event in events:
                chunks += isinstance(event, Chunk)
                if chunks == 3:
                    os.kill(pid, signal.SIGKILL)


def test_those_who_wait_are_told_at_once_when_the_worker_dies(demo: LlamaSettings) -> None:
    """A queued request is `unavailable`, so that its sender can go elsewhere."""

    async def main() -> None:
        runtime = make(demo, slots=1)
        codes: list[str] = []

        async def waiter() -> None:
            try:
                await complete(runtime, ask(5))
            except RuntimeFailure as failure:
                codes.append(failure.code)

        async with serving(runtime):
            async with (
                trio.open_nursery() as nursery,
                contextlib.aclosing(runtime.generate(ask(2000))) as events,
            ):
                await anext(events)
                for _ in range(3):
                    nursery.start_soon(waiter)
                await trio.testing.wait_all_tasks_blocked()
                assert runtime.worker_pid is not None
                os.kill(runtime.worker_pid, signal.SIGKILL)
                with pytest.raises(RuntimeFailure):
                    await drain(events)
            assert codes == ["unavailable"] * 3
            assert runtime.load.running == 0

    trio.run(main)


def test_a_silent_worker_is_killed_and_replaced(demo: LlamaSettings) -> None:
    """A worker that stops in the middle of a stream: `crashed` after the watchdog's time."""

    async def main() -> None:
        runtime = make(demo, hang_timeout_s=1.5)
        async with serving(runtime) as served:
            async with contextlib.aclosing(runtime.generate(ask(2000))) as events:
                await anext(events)
                assert runtime.worker_pid is not None
                os.kill(runtime.worker_pid, signal.SIGSTOP)
                with pytest.raises(RuntimeFailure, match="silent") as failed:
                    await drain(events)
                assert failed.value.code == "crashed"
            await served.wait_up()
            await complete(runtime, ask(2))

    trio.run(main)


def test_a_consumer_slower_than_the_watchdog_is_no_hang(demo: LlamaSettings) -> None:
    """Who takes nothing for longer than a worker may be silent still gets the whole answer."""

    async def main() -> None:
        runtime = make(demo, hang_timeout_s=1.5)
        async with serving(runtime):
            pid = runtime.worker_pid
            whole = await complete(runtime, ask(600))
            taken: list[int] = []
            async with contextlib.aclosing(runtime.generate(ask(600))) as events:
                async for event in events:
                    if isinstance(event, Chunk):
                        if len(taken) in (0, 333):
                            await trio.sleep(2.5)  # the property is about elapsed time
                        taken += event.token_ids
            assert taken == whole.ids
            assert runtime.worker_pid == pid

    trio.run(main)


def test_a_cancel_that_is_not_confirmed_ends_the_worker(demo: LlamaSettings) -> None:
    """The slot does not wait for ever for a stuck worker: it is killed, and the next one serves."""

    async def main() -> None:
        runtime = make(demo, cancel_timeout_s=0.3, hang_timeout_s=60.0)
        async with serving(runtime) as served:
            stuck = runtime.worker_pid
            assert stuck is not None
            async with contextlib.aclosing(runtime.generate(ask(2000))) as events:
                await anext(events)
                os.kill(stuck, signal.SIGSTOP)
            assert runtime.load.running == 1
            await wait_idle(runtime)
            await served.wait_down()
            await served.wait_up()
            assert runtime.worker_pid != stuck
            await complete(runtime, ask(2))

    trio.run(main)


def test_ending_serve_ends_what_runs(demo: LlamaSettings) -> None:
    """A request under way is `unavailable` when the daemon stops, and no process stays."""

    async def main() -> None:
        runtime = make(demo)
        async with serving(runtime):
            pid = runtime.worker_pid
            events = runtime.generate(ask(2000))
            await anext(events)
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(RuntimeFailure) as failed:
            await drain(events)
        assert failed.value.code == "unavailable"
        await events.aclose()
        assert runtime.load.running == 0

    trio.run(main)


def test_the_hash_is_of_the_file_unless_it_is_given(demo: LlamaSettings) -> None:
    """The worker computes the same hash as `content_hash`; a known one is believed."""

    async def main() -> None:
        for given in (None, "12" * 32):
            runtime = make(demo, content_hash=given)
            async with serving(runtime):
                assert runtime.card is not None
                assert runtime.card.content_hash == (given or content_hash(demo.path))
                assert runtime.card.size_bytes == demo.path.stat().st_size
                assert runtime.card.architecture == "llama"
                assert runtime.card.quantization == "F16"
                assert runtime.card.parameters > 0

    trio.run(main)


@pytest.mark.parametrize("context_tokens", [64, 1000])
def test_the_context_is_as_asked(demo: LlamaSettings, context_tokens: int) -> None:
    """Exactly that many tokens fit, whatever llama.cpp rounds to."""

    async def main() -> None:
        runtime = make(demo, context_tokens=context_tokens)
        async with serving(runtime):
            finished = (await complete(runtime, ask(None))).finished
            assert finished.prompt_tokens + finished.completion_tokens == context_tokens

    trio.run(main)


def broken_files() -> dict[str, bytes]:
    """Files that begin like a model and are none."""
    good = DEMO_FILE.read_bytes()
    dice = random.Random(5)
    noise = bytearray(good)
    for _ in range(3000):
        noise[dice.randrange(24, 8000)] = dice.randrange(256)
    return {
        "header only": good[:24],
        "cut in the metadata": good[:3000],
        "cut in the tensors": good[: len(good) - 100_000],
        "cut by one byte": good[:-40],
        "noise behind the header": good[:24] + dice.randbytes(50_000),
        "noisy metadata": bytes(noise),
        "absurd counts": struct.pack("<4sIQQ", b"GGUF", 3, 999_999, 999_999) + good[24:],
        "huge string": good[:24] + struct.pack("<Q", 2**62) + good[32:],
        "zeros": good[:24] + bytes(100_000),
        "no tensors": struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + good[24:200],
        "unknown architecture": good.replace(b"llama", b"lIama"),
    }


@pytest.mark.parametrize("kind", sorted(broken_files()))
def test_a_damaged_file_is_an_invalid_model(
    demo: LlamaSettings, tmp_path: pathlib.Path, kind: str
) -> None:
    """serve says so in one line that names the file, and does not try for ever."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(broken_files()[kind])

    async def main() -> None:
        runtime = make(demo, path=path)
        with pytest.raises(RuntimeFailure) as failed, trio.fail_after(TIMEOUT_S):
            await runtime.serve(lambda: None)
        assert failed.value.code == "invalid_model"
        assert str(path) in failed.value.message
        assert "\n" not in failed.value.message
        assert len(failed.value.message) < 600
        assert runtime.card is None

    trio.run(main)


def test_a_file_that_vanishes_is_an_invalid_model(
    demo: LlamaSettings, tmp_path: pathlib.Path
) -> None:
    """Deleted between the check and the load."""

    async def main() -> None:
        runtime = make(demo, path=tmp_path / "gone.gguf")
        with pytest.raises(RuntimeFailure) as failed, trio.fail_after(TIMEOUT_S):
            await runtime.serve(lambda: None)
        assert failed.value.code == "invalid_model"

    trio.run(main)


def install_fake_llama_cpp(
    monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path, program: str
) -> None:
    """Let workers find a llama_cpp that is just this program."""
    package = folder / "llama_cpp"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "llama_cpp.py").write_text(program)
    monkeypatch.syspath_prepend(folder)


def test_a_llama_cpp_that_does_not_load_is_a_missing_dependency(
    demo: LlamaSettings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken installation is not restarted for ever; the line has the command that mends it."""
    install_fake_llama_cpp(monkeypatch, tmp_path, "raise OSError('libllama.so: no such file')")

    async def main() -> None:
        with (
            pytest.raises(RuntimeFailure, match="pip install") as failed,
            trio.fail_after(TIMEOUT_S),
        ):
            await make(demo).serve(lambda: None)
        assert failed.value.code == "missing_dependency"
        assert "libllama.so" in failed.value.message

    trio.run(main)


def test_a_file_that_kills_every_worker_is_an_invalid_model(
    demo: LlamaSettings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that abort while loading, one after the other: given up, with their last words."""
    install_fake_llama_cpp(
        monkeypatch, tmp_path, "import os; os.write(1, b'GGML_ASSERT\\n'); os.abort()"
    )

    async def main() -> None:
        with pytest.raises(RuntimeFailure) as failed, trio.fail_after(TIMEOUT_S):
            await make(demo).serve(lambda: None)
        assert failed.value.code == "invalid_model"
        assert "SIGABRT (GGML_ASSERT)" in failed.value.message

    trio.run(main)


def test_a_worker_that_cannot_start_is_tried_again(
    demo: LlamaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process to be had is trouble that may pass: no failure of serve, and it says why."""
    attempts: list[int] = []

    async def refuse(module: str) -> trio.Process:
        attempts.append(1)
        if len(attempts) < 6:
            raise OSError(11, "Resource temporarily unavailable")
        return await opened(module)

    opened = process.open_worker
    monkeypatch.setattr(process, "open_worker", refuse)

    async def main() -> None:
        runtime = make(demo)
        async with serving(runtime):
            assert len(attempts) == 6
            assert runtime.trouble == ""
            await complete(runtime, ask(2))

    trio.run(main)


def test_a_gpu_that_lies_idle_is_said_with_the_mend(
    demo: LlamaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU and a build without GPU support: one line with a pip command; otherwise nothing."""
    gpu = Gpu(name="Big GPU", vram_bytes=2**34, vram_free_bytes=2**34)

    async def main() -> None:
        for seen in ((), (gpu,)):
            looked = trio.Event()
            token = trio.lowlevel.current_trio_token()

            def look(
                seen: tuple[Gpu, ...] = seen,
                looked: trio.Event = looked,
                token: trio.lowlevel.TrioToken = token,
            ) -> tuple[Gpu, ...]:
                token.run_sync_soon(looked.set)
                return seen

            monkeypatch.setattr(hardware, "gpus", look)
            runtime = make(demo)
            async with serving(runtime):
                with trio.fail_after(TIMEOUT_S):
                    await looked.wait()
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    while seen and runtime.advice is None:
                        await trio.testing.wait_all_tasks_blocked(0.05)
                if seen:
                    assert runtime.advice is not None
                    assert "Big GPU" in runtime.advice
                    assert "CMAKE_ARGS=-DGGML_CUDA=on pip install" in runtime.advice
                    assert "\n" not in runtime.advice
                else:
                    assert runtime.advice is None

    trio.run(main)


def test_a_loud_llama_cpp_does_not_disturb_the_pipe(
    demo: LlamaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its log switched on, everything still works; the log is on standard error."""
    monkeypatch.setenv("MESHD_LLAMA_LOG", "1")

    async def main() -> None:
        runtime = make(demo)
        async with serving(runtime):
            assert len((await complete(runtime, ask(30))).ids) == 30

    trio.run(main)


def test_restarts_come_slower_until_a_worker_was_healthy() -> None:
    """0.5 s, doubled to 30 s at most; a minute of health starts it anew."""
    delay = RestartDelay()
    waits = [delay.after(up_s=1.0) for _ in range(8)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert delay.after(up_s=60.0) == 0.5
    assert delay.after(up_s=0.0) == 1.0


def test_a_request_waits_while_the_model_is_loaded(demo: LlamaSettings) -> None:
    """It is answered as soon as it is up; until then there is no card, and progress ends at 1."""

    async def main() -> None:
        runtime = make(demo)
        served = Served(runtime)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.serve, served.on_change)
            await trio.testing.wait_all_tasks_blocked()
            assert runtime.card is None
            assert len((await complete(runtime, ask(3))).ids) == 3
            assert runtime.progress == 1.0
            nursery.cancel_scope.cancel()

    trio.run(main)
