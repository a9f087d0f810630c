"""Kills the llama worker again and again under many short requests: each ends, and nothing stays.

The demo model is served as the daemon serves it, with requests coming all the time. Workers die in
turn by SIGKILL, by SIGABRT (what llama.cpp's assertions do), by SIGSEGV, by a memory limit below
what they have, and by falling silent (SIGSTOP; the watchdog has to notice). Every request must end
with its whole answer or a typed failure, whole answers must be what an undisturbed worker gave,
and at the end no process, file or memory may be left behind.

Run: python -m tests.benchmarks.worker_crashes [--crashes 200] [--seed 1]
Linux only. The exit status is 1 when anything was lost or left.
"""

import argparse
import collections
import contextlib
import dataclasses
import gc
import os
import random
import resource
import signal
import statistics
import sys
from collections.abc import Sequence

import psutil
import trio

from runtimes.base import Chunk, Finished, GenerateRequest, RuntimeFailure
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from runtimes.worker.restart_delay import RestartDelay

CLIENTS = 8
KINDS = ("SIGKILL", "SIGABRT", "SIGSEGV", "memory limit", "silence")
HANG_S = 2.0
OUTLIVED_S = 5.0
"""Who lives for so long with a memory limit needs no more memory."""
REQUEST_S = 60.0
"""Within which a request must have ended, somehow."""
ANSWERS_MAX = 30
"""Between two crashes."""
UNAVAILABLE_PAUSE_S = 0.2
GROWTH_BYTES_MAX = 16 * 2**20
CODES = {"crashed", "unavailable", "queue_full"}
"""How a request may fail because of a crash."""


@dataclasses.dataclass(slots=True)
class Soak:
    """What was seen."""

    ends: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    deaths: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    faults: list[str] = dataclasses.field(default_factory=list)
    down_s: list[float] = dataclasses.field(default_factory=list)
    """From each blow until the next worker served."""
    crashes: int = 0
    is_over: bool = False


class Requests:
    """A few kinds of short requests, and the answers of an undisturbed worker."""

    def __init__(self) -> None:
        self._kinds = [
            GenerateRequest(
                model="demo",
                prompt="Once upon a time " * (1 + 20 * (number % 3)),
                max_tokens=8 + 5 * number,
                seed=number,
                ignore_eos=True,
            )
            for number in range(12)
        ]
        self._answers: dict[int, list[int]] = {}

    async def learn(self, runtime: LlamaRuntime) -> None:
        """Ask each once."""
        for number in range(len(self._kinds)):
            self._answers[number] = await self._ask(runtime, number)

    async def ask(self, runtime: LlamaRuntime, dice: random.Random) -> bool:
        """Ask any; whether its whole answer is right. Raises RuntimeFailure."""
        number = dice.randrange(len(self._kinds))
        return await self._ask(runtime, number) == self._answers[number]

    async def _ask(self, runtime: LlamaRuntime, number: int) -> list[int]:
        ids: list[int] = []
        finished = None
        async with contextlib.aclosing(runtime.generate(self._kinds[number])) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    ids += event.token_ids
                elif isinstance(event, Finished):
                    finished = event
        assert finished is not None
        assert finished.completion_tokens == len(ids)
        return ids


async def client(runtime: LlamaRuntime, requests: Requests, soak: Soak, seed: int) -> None:
    """Ask one request after the other until it is over."""
    dice = random.Random(seed)
    while not soak.is_over:
        try:
            with trio.fail_after(REQUEST_S):
                is_right = await requests.ask(runtime, dice)
        except RuntimeFailure as failure:
            soak.ends[failure.code] += 1
            if failure.code not in CODES:
                soak.faults.append(f"a request failed with {failure.code}: {failure.message}")
            await trio.sleep(UNAVAILABLE_PAUSE_S)
        except trio.TooSlowError:
            soak.faults.append(f"a request had no end within {REQUEST_S:g} s")
        else:
            soak.ends["answered"] += 1
            if not is_right:
                soak.faults.append("a whole answer was not the right one")


def strike(pid: int, kind: str) -> None:
    """Do it to the worker."""
    match kind:
        case "memory limit":
            # Nothing that it asks for from now on is given.
            resource.prlimit(pid, resource.RLIMIT_AS, (1, 1))
        case "silence":
            os.kill(pid, signal.SIGSTOP)
        case _:
            os.kill(pid, signal.Signals[kind])


async def ask_for_memory(runtime: LlamaRuntime) -> None:
    """What takes more than a worker can have left: the first logprobs load a library."""
    request = GenerateRequest(model="demo", prompt="x", max_tokens=1, logprobs=1)
    with contextlib.suppress(RuntimeFailure):
        async with contextlib.aclosing(runtime.generate(request)) as events:
            async for _ in events:
                pass


async def attack(
    runtime: LlamaRuntime,
    soak: Soak,
    crashes: int,
    dice: random.Random,
    nursery: trio.Nursery,
) -> None:
    """Strike so often, each time when the worker is up and busy."""
    while soak.crashes < crashes:
        answers = soak.ends["answered"] + dice.randrange(ANSWERS_MAX)
        with trio.fail_after(REQUEST_S):
            while soak.ends["answered"] < answers:  # noqa: ASYNC110  # a benchmark polls
                await trio.sleep(0.005)
            pid = await _busy_worker(runtime)
        await trio.sleep(dice.uniform(0.0, 0.1))
        if runtime.worker_pid != pid:
            continue
        kind = KINDS[soak.crashes % len(KINDS)]
        struck_at = trio.current_time()
        strike(pid, kind)
        if kind == "memory limit":
            nursery.start_soon(ask_for_memory, runtime)
        is_limit = kind == "memory limit"
        if not await _died(runtime, pid, OUTLIVED_S if is_limit else REQUEST_S):
            # With a limit it may have had all that it needs. It has to work then, as always.
            if not is_limit:
                soak.faults.append(f"a worker lived on for {REQUEST_S:g} s ({kind})")
            kind += ", outlived"
            os.kill(pid, signal.SIGKILL)
            await _died(runtime, pid, REQUEST_S)
        with trio.fail_after(REQUEST_S):
            while runtime.card is None:  # noqa: ASYNC110  # a benchmark polls
                await trio.sleep(0.005)
        soak.down_s.append(trio.current_time() - struck_at)
        soak.deaths[kind] += 1
        soak.crashes += 1
        if soak.crashes % 20 == 0:
            print(f"{soak.crashes} crashes, {soak.ends.total()} requests", file=sys.stderr)


async def _died(runtime: LlamaRuntime, pid: int, within_s: float) -> bool:
    with trio.move_on_after(within_s) as patience:
        while runtime.worker_pid == pid:  # noqa: ASYNC110  # a benchmark polls
            await trio.sleep(0.005)
    return not patience.cancelled_caught


async def _busy_worker(runtime: LlamaRuntime) -> int:
    while True:
        if runtime.card is not None and runtime.load.running and runtime.worker_pid is not None:
            return runtime.worker_pid
        await trio.sleep(0.005)


async def run(crashes: int, seed: int) -> Soak:
    """The whole soak."""
    soak = Soak()
    settings = read_settings("demo", {"threads": "1", "reproducible": "1", "slots": "4"})
    settings = dataclasses.replace(settings, hang_timeout_s=HANG_S, cancel_timeout_s=HANG_S)
    runtime = LlamaRuntime(settings, restart_delay=RestartDelay(least_s=0.0, most_s=0.0))
    requests = Requests()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, lambda: None)
        with trio.fail_after(REQUEST_S):
            while runtime.card is None:  # noqa: ASYNC110  # a benchmark polls
                await trio.sleep(0.05)
        await requests.learn(runtime)
        async with trio.open_nursery() as clients:
            for number in range(CLIENTS):
                clients.start_soon(client, runtime, requests, soak, seed * 1_000 + number)
            await attack(runtime, soak, min(10, crashes), random.Random(seed), clients)
            before = _own_memory(), _own_files()
            await attack(runtime, soak, crashes, random.Random(seed + 1), clients)
            soak.is_over = True
        if _own_files() > before[1]:
            soak.faults.append(f"{_own_files() - before[1]} more open files than before")
        growth = _own_memory() - before[0]
        if growth > GROWTH_BYTES_MAX:
            soak.faults.append(f"the daemon's process grew by {growth / 2**20:.1f} MiB")
        if runtime.load.running or runtime.load.queued:
            soak.faults.append(f"slots are still taken: {runtime.load}")
        print(f"memory of the daemon's process: {growth / 2**20:+.1f} MiB")
        nursery.cancel_scope.cancel()
    left = psutil.Process().children(recursive=True)
    if left:
        soak.faults.append(f"{len(left)} processes are left: {left}")
    return soak


def _own_memory() -> int:
    gc.collect()
    memory: int = psutil.Process().memory_info().rss
    return memory


def _own_files() -> int:
    files: int = psutil.Process().num_fds()
    return files


def show(soak: Soak) -> None:
    """Print the figures."""
    print(f"crashes: {soak.crashes} ({_counts(soak.deaths)})")
    print(f"requests: {soak.ends.total()} ({_counts(soak.ends)})")
    if soak.down_s:
        print(f"until the next worker served: {_seconds(soak.down_s)}")
    print(f"faults: {len(soak.faults)}")
    for fault, times in collections.Counter(soak.faults).most_common(10):
        print(f"  {times} x {fault}")


def _counts(counter: collections.Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def _seconds(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):.2f} s, at most {max(values):.2f} s"


def main() -> None:
    """Soak and judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--crashes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    soak = trio.run(run, options.crashes, options.seed)
    show(soak)
    if soak.faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
