"""What a request and an idle daemon cost.

Two real daemons on loopback: `front` has no model, `back` has the demo model. The same request, 16
tokens, streamed, is asked (a) directly of a worker process that this program starts itself, (b) of
back's own gateway (one hop: HTTP), (c) of front's gateway (two hops: HTTP, then mutual TLS to
back), (d) of a llama-server of the same model and llama.cpp (tests.benchmarks.llama_server), (e) of
a LiteLLM proxy in front of it (tests.benchmarks.litellm_proxy). All are up all the time and are
asked in turn, so that what else the machine does hits them alike. Prints time to first token (one
stream, p50 and p99), requests per second (8 streams), the median of the runs' own ratios to
LiteLLM's rate, and processor time a request, of all that serve; then what an idle gateway-only
daemon takes, and how long commands take to start. `--memory` instead watches the daemons' memory
over many requests.

Run: python -m tests.benchmarks.request_cost [--requests 40] [--runs 5] [--short]
     python -m tests.benchmarks.request_cost --memory [100000]
The exit status is 1 when two hops cost more than they may, and when that could not be measured.
--short shows in seconds that it works, without others to compare with; its figures say nothing.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import psutil
import trio

from tests.benchmarks import litellm_proxy, llama_server, request_memory, request_servers
from tests.benchmarks.request_servers import MODEL, STREAMS, TOKENS, Measured, Server
from tests.helpers.daemons import Daemon, Daemons, meshd, wait_offered

REQUESTS: Final = 40
"""To each in each run: in one stream, then as many in STREAMS."""
RUNS: Final = 5
MEMORY_REQUESTS: Final = 100_000
WARM_UP: Final = 8
IDLE_S: Final = 20.0
STARTS: Final = 7
"""Of each command."""
ADDED_MS_MAX: Final = 3.0
RATIO_MIN: Final = 3.0

Figures = Mapping[str, Sequence[Measured]]
"""By what was asked: one of each run."""


@contextlib.asynccontextmanager
async def ours(back: Daemon, front: Daemon) -> AsyncIterator[list[Server]]:
    """The worker, one hop, two hops."""
    async with request_servers.worker() as worker:
        yield [
            worker,
            request_servers.gateway("one hop (its node's gateway)", back),
            request_servers.gateway("two hops (another node's)", front, back),
        ]


async def measure(servers: Sequence[Server], requests: int, runs: int) -> Figures:
    """All of them in turn, so often."""
    for server in servers:
        await server.measure(WARM_UP)
    figures: dict[str, list[Measured]] = {server.name: [] for server in servers}
    for run in range(runs):
        for server in (*servers[run % len(servers) :], *servers[: run % len(servers)]):
            figures[server.name].append(await server.measure(requests))
        print(f"run {run + 1} of {runs}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return figures


def p50_ms(runs: Sequence[Measured]) -> float:
    """Time to first token."""
    return 1000 * statistics.median(first for run in runs for first in run.firsts_s)


def ratio(runs: Sequence[Measured], to: Sequence[Measured]) -> float:
    """Of the rates in each run; the median."""
    return statistics.median(one.rate / other.rate for one, other in zip(runs, to, strict=True))


def show(figures: Figures, proxy: str | None) -> None:
    """A line for each; `proxy`: to whose rate they are compared."""
    head = ("TTFT p50", "p99 ms", f"req/s of {STREAMS}", "to LiteLLM's", "CPU ms/req")
    print(f"{f'demo model, {TOKENS} tokens':<34}", *(f"{each:>12}" for each in head))
    for name, runs in figures.items():
        firsts = sorted(first for run in runs for first in run.firsts_s)
        compared = f"{ratio(runs, figures[proxy]):12.2f}" if proxy else f"{'-':>12}"
        print(
            f"{name:<34} {p50_ms(runs):12.2f} {firsts[int(len(firsts) * 0.99) - 1] * 1000:12.2f}",
            f"{statistics.median(run.rate for run in runs):12.1f} {compared}",
            f"{statistics.median(run.cpu_s for run in runs) * 1000:12.2f}",
        )


def judge(figures: Figures, proxy: str | None) -> bool:
    """Print whether two hops cost no more than they may, as far as that was measured."""
    worker, _, two_hops, *_ = figures.values()
    added_ms = p50_ms(two_hops) - p50_ms(worker)
    passed = added_ms <= ADDED_MS_MAX
    print(
        f"{_verdict(passed)} two hops' first token behind the worker's (p50): {added_ms:.2f} ms, "
        f"at most {ADDED_MS_MAX}"
    )
    if proxy is None:
        print(f"{_verdict(False)} two hops' rate to LiteLLM's: not measured")
        return False
    compared = ratio(two_hops, figures[proxy])
    print(
        f"{_verdict(compared >= RATIO_MIN)} two hops' rate to LiteLLM's: {compared:.2f}, "
        f"at least {RATIO_MIN}"
    )
    return passed and compared >= RATIO_MIN


def _verdict(is_good: bool) -> str:
    return "pass" if is_good else "MISS"


async def compare(
    back: Daemon,
    front: Daemon,
    folder: pathlib.Path,
    requests: int,
    runs: int,
    *,
    with_others: bool,
) -> bool:
    """The table and what follows from it."""
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(ours(back, front))
        proxy: str | None = None
        if with_others:
            try:
                programs = llama_server.llama_server(), litellm_proxy.litellm()
                others = request_servers.others(*programs, folder)
                servers += await stack.enter_async_context(others)
                proxy = servers[-1].name
            except (llama_server.NotBuilt, litellm_proxy.NotInstalled) as missing:
                print(missing)
        figures = await measure(servers, requests, runs)
    show(figures, proxy)
    return judge(figures, proxy)


def print_idle(daemon: Daemon, idle_s: float) -> None:
    """Memory, CPU and traffic of a daemon that nobody asks anything."""
    process = psutil.Process(daemon.process.pid)
    before = process.cpu_times()
    time.sleep(idle_s)
    after = process.cpu_times()
    cpu = (after.user + after.system - before.user - before.system) / idle_s
    print(f"idle gateway-only daemon: {process.memory_info().rss / 1e6:.1f} MB resident, ", end="")
    print(f"{cpu * 100:.2f} % of a core over {idle_s:.0f} s (mesh of 2)")


def print_start_up(daemon: Daemon, starts: int) -> None:
    """Whole-process times of the command line."""
    for words in (("--help",), ("nodes", "--home", str(daemon.home.path))):
        times: list[float] = []
        for _ in range(starts):
            started = time.perf_counter()
            done = meshd(*words)
            times.append(time.perf_counter() - started)
            assert done.returncode == 0, done.stderr
        print(f"meshd {words[0]}: median {statistics.median(times):.3f} s, max {max(times):.3f} s")


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--memory", type=int, nargs="?", const=MEMORY_REQUESTS)
    parser.add_argument("--short", action="store_true", help="only show that it works")
    arguments = parser.parse_args()
    is_short: bool = arguments.short
    if arguments.memory is not None and arguments.memory < request_memory.REQUESTS_MIN:
        parser.error(f"--memory takes {request_memory.REQUESTS_MIN} requests or more")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if arguments.memory is not None:
            sys.exit(0 if request_memory.is_flat(folder, arguments.memory) else 1)
        print(f"load before: {os.getloadavg()[0]:.1f}", flush=True)
        requests, runs = (4, 1) if is_short else (arguments.requests, arguments.runs)
        with Daemons(folder) as daemons:
            back, front = daemons.add("back", model=MODEL), daemons.add("front")
            token = back.launch().ready().invite()
            started = time.perf_counter()
            front.launch("--join", token).ready()
            ready_s = time.perf_counter() - started
            wait_offered([front], MODEL, "back")
            passed = trio.run(
                functools.partial(
                    compare, back, front, folder, requests, runs, with_others=not is_short
                )
            )
            print_idle(front, 1.0 if is_short else IDLE_S)
            print_start_up(front, 1 if is_short else STARTS)
            print(f"meshd up until ready, without a model, joining: {ready_s:.2f} s")
    print(f"load after: {os.getloadavg()[0]:.1f}")
    if not passed and not is_short:
        sys.exit(1)


if __name__ == "__main__":
    main()
