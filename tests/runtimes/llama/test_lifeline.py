"""No worker outlives its daemon, and none dies before it."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest

import runtimes
from runtimes.llama.frames import FrameDecoder, Load, Ready, encode
from runtimes.llama.settings import DEMO_FILE
from tests.runtimes.serving import TIMEOUT_S, needs_llama

pytestmark = [pytest.mark.llama, needs_llama]

ROOT = pathlib.Path(runtimes.__file__).parents[1]

DAEMON = """
import contextlib, trio
from runtimes.base import Chunk, GenerateRequest
from runtimes.registry import make_source

async def main():
    runtime = make_source("demo", {})
    up = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, up.set)
        await up.wait()
        while True:
            request = GenerateRequest(model="m", prompt="x" * 1000, ignore_eos=True)
            async with contextlib.aclosing(runtime.generate(request)) as events:
                async for event in events:
                    if isinstance(event, Chunk) and not said:
                        said.append(print(runtime.worker_pid, flush=True))

said = []
trio.run(main)
"""


def is_running(pid: int) -> bool:
    """Whether there is such a process that is not just waiting to be reaped."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Look at another process's state until it is so."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the worker outlived its daemon"
        time.sleep(0.01)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("worker_is", ["decoding", "stopped"])
def test_a_killed_daemon_leaves_no_worker(worker_is: str) -> None:
    """kill -9 of the daemon while a decode runs, or while the worker is stopped: it is gone."""
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    ) as daemon:
        assert daemon.stdout is not None
        worker = int(daemon.stdout.readline())
        assert is_running(worker)
        if worker_is == "stopped":
            os.kill(worker, signal.SIGSTOP)
            wait_until(lambda: psutil.Process(worker).status() == psutil.STATUS_STOPPED)
        daemon.kill()
    wait_until(lambda: not is_running(worker))


def start_worker(parent: int) -> "subprocess.Popen[bytes]":
    """A worker by itself, told that `parent` is its daemon."""
    return subprocess.Popen(
        [sys.executable, "-m", "runtimes.llama.worker", str(parent)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_worker_survives_the_thread_that_started_it() -> None:
    """The kernel counts a thread as the parent; trio's threads retire, and daemons go on."""
    started: list[subprocess.Popen[bytes]] = []
    loaded = threading.Event()

    def start_and_retire() -> None:
        worker = start_worker(os.getpid())
        started.append(worker)
        assert worker.stdin is not None
        assert worker.stdout is not None
        load = Load(
            path=os.fsencode(DEMO_FILE),
            context_tokens=64,
            cores=1,
            threads=1,
            gpu_layers=0,
            content_hash=None,
            slots=1,
            kv_tokens=None,
            reproducible=False,
            flash_attention=None,
            memory_bytes=0,
        )
        worker.stdin.write(encode(load))
        worker.stdin.flush()
        decoder = FrameDecoder()
        while not loaded.is_set():
            for frame in decoder.feed(os.read(worker.stdout.fileno(), 65536)):
                if isinstance(frame, Ready):
                    loaded.set()

    thread = threading.Thread(target=start_and_retire)
    thread.start()
    thread.join(TIMEOUT_S)
    assert loaded.is_set()
    with started[0] as worker:
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.5)  # the signal is delivered at once; half a second is for ever
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(TIMEOUT_S) == 0


def test_a_worker_whose_daemon_is_gone_already_ends() -> None:
    """The daemon may die between starting a worker and the worker's first line."""
    with start_worker(parent=1 if os.getpid() != 1 else 2) as worker:
        assert worker.wait(TIMEOUT_S) == 3


def test_a_daemon_that_sends_nonsense_ends_the_worker() -> None:
    """The worker leaves with a line about it."""
    with start_worker(os.getpid()) as worker:
        assert worker.stdin is not None
        worker.stdin.write(b"\xff" * 64)
        worker.stdin.flush()
        assert worker.wait(TIMEOUT_S) == 2


def test_what_c_code_prints_goes_to_standard_error() -> None:
    """After the pipes are taken over, descriptor 1 is standard error and 0 is empty."""
    program = (
        "import os\n"
        "from runtimes.worker.pipe import take_over_pipes\n"
        "from runtimes.llama.frames import CODEC, Loading\n"
        "pipe = take_over_pipes(CODEC)\n"
        "os.write(1, b'from C')\n"
        "assert os.read(0, 10) == b''\n"
        "pipe.send(Loading(progress=0.5))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, input=b"data", capture_output=True, timeout=30
    )
    assert done.stderr == b"from C"
    assert list(FrameDecoder().feed(done.stdout))
