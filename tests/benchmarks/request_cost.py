"""What a request and an idle daemon cost, from the first day on.

Two real daemons on loopback: `front` has no model, `back` has the demo model. The same prompt is
asked (a) directly of a worker process that this program starts itself, (b) of back's own gateway
(one hop: HTTP), (c) of front's gateway (two hops: HTTP, then mutual TLS to back). Prints time to
first token (one stream, p50 and p99), requests per second (8 streams of 16 tokens), then what an
idle gateway-only daemon takes, and how long commands take to start.

Run: python -m tests.benchmarks.request_cost [--requests 100] [--short]
--short shows in seconds that it works; its figures say nothing.
"""

import argparse
import http.client
import json
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, aclosing

import psutil
import trio

from runtimes.base import ChatMessage, Chunk, GenerateRequest
from runtimes.registry import make_source

PROMPT = "Tell me something about the sea."
TOKENS = 16
STREAMS = 8
IDLE_S = 20.0
STARTS = 7
"""Of each command."""


class Daemon:
    """One `meshd up`."""

    def __init__(self, folder: pathlib.Path, name: str, *more: str) -> None:
        self.home = folder / name
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "meshd", "up", "--json", "--home", str(self.home)),
                *("--name", name, "--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0"),
                *("--no-lan", *more),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.ready_s = time.perf_counter() - started
        self.gateway = ready["gateway"].removeprefix("http://")

    def command(self, *words: str) -> str:
        """Run a `meshd` command on this daemon's home."""
        return subprocess.run(
            [sys.executable, "-m", "meshd", *words, "--home", str(self.home)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def get(self, path: str) -> dict[str, object]:
        """GET a JSON document from the gateway."""
        connection = http.client.HTTPConnection(self.gateway, timeout=10)
        connection.request("GET", path)
        document: dict[str, object] = json.loads(connection.getresponse().read())
        connection.close()
        return document

    def stop(self) -> None:
        """SIGTERM, then wait."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)


def ask(connection: http.client.HTTPConnection) -> float:
    """One streamed chat; seconds to the first token's event."""
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
        "temperature": 0,
    }
    started = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    assert response.status == 200, response.read()
    first = 0.0
    while line := response.readline():
        if not first and b'"content":"' in line.replace(b" ", b"") and b'content":""' not in line:
            first = time.perf_counter() - started
    return first


def measure(make: Callable[[], Callable[[], float]], requests: int) -> tuple[list[float], float]:
    """(times to first token of one stream, requests per second of eight)."""
    one = make()
    for _ in range(5):
        one()
    firsts = sorted(one() for _ in range(requests))
    asks = [make() for _ in range(STREAMS)]
    per_stream = max(1, requests // STREAMS)

    def work(once: Callable[[], float]) -> None:
        for _ in range(per_stream):
            once()

    threads = [threading.Thread(target=work, args=(once,)) for once in asks]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return firsts, STREAMS * per_stream / (time.perf_counter() - started)


def over_http(daemon: Daemon) -> Callable[[], Callable[[], float]]:
    """A maker of streams, each with a connection of its own."""

    def make() -> Callable[[], float]:
        connection = http.client.HTTPConnection(daemon.gateway, timeout=60)
        return lambda: ask(connection)

    return make


async def measure_worker(requests: int) -> tuple[list[float], float]:
    """The same, asked directly of the runtime's worker process."""
    (runtime,) = make_source("demo", {}).runtimes
    request = GenerateRequest(
        model="demo",
        messages=(ChatMessage(role="user", content=PROMPT),),
        max_tokens=TOKENS,
        ignore_eos=True,
        temperature=0.0,
    )

    async def once() -> float:
        started = time.perf_counter()
        first = 0.0
        async with aclosing(runtime.generate(request)) as events:
            async for event in events:
                if not first and isinstance(event, Chunk) and event.text:
                    first = time.perf_counter() - started
        return first

    async def work(count: int) -> None:
        for _ in range(count):
            await once()

    up = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, up.set)
        while runtime.card is None:
            await up.wait()
            up = trio.Event()
        await work(5)
        firsts = sorted([await once() for _ in range(requests)])
        started = time.perf_counter()
        async with trio.open_nursery() as streams:
            for _ in range(STREAMS):
                streams.start_soon(work, max(1, requests // STREAMS))
        rate = STREAMS * max(1, requests // STREAMS) / (time.perf_counter() - started)
        nursery.cancel_scope.cancel()
    return firsts, rate


def print_row(name: str, firsts: list[float], rate: float) -> None:
    """One line of the table."""
    p50, p99 = statistics.median(firsts), firsts[int(len(firsts) * 0.99) - 1]
    print(f"{name:<34}{p50 * 1000:9.2f}{p99 * 1000:9.2f}{rate:11.1f}")


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
    for words in (("--help",), ("nodes", "--home", str(daemon.home))):
        times: list[float] = []
        for _ in range(starts):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "meshd", *words], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        print(f"meshd {words[0]}: median {statistics.median(times):.3f} s, max {max(times):.3f} s")
    print(f"meshd up until ready, without a model, joining: {daemon.ready_s:.2f} s")


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--short", action="store_true", help="only show that it works")
    arguments = parser.parse_args()
    is_short: bool = arguments.short
    requests: int = 4 if is_short else arguments.requests
    with ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        back = Daemon(folder, "back", "--model", "demo")
        stack.callback(back.stop)
        token = json.loads(back.command("invite", "--json"))["token"]
        front = Daemon(folder, "front", "--model", "none", "--join", token)
        stack.callback(front.stop)
        while not front.get("/v1/models")["data"]:
            time.sleep(0.1)
        print(f"{'demo model, ' + str(TOKENS) + ' tokens':<34}{'TTFT p50':>9}{'p99 ms':>9}", end="")
        print(f"{'req/s of 8':>11}")
        print_row("its worker, asked directly", *trio.run(measure_worker, requests))
        print_row("one hop (its node's gateway)", *measure(over_http(back), requests))
        print_row("two hops (another node's)", *measure(over_http(front), requests))
        print_idle(front, 1.0 if is_short else IDLE_S)
        print_start_up(front, 1 if is_short else STARTS)


if __name__ == "__main__":
    main()
