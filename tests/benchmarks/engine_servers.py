"""The servers that tests.benchmarks.engine puts side by side, each asked in the same way."""

import contextlib
import dataclasses
import functools
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import psutil
import trio

from runtimes.base import Chunk, GenerateRequest
from runtimes.llama.demo import build
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings

SLOTS = 8
CONTEXT_TOKENS = 6144
KV_TOKENS = 12288
TOKENS_KNOWN = len(build.vocabulary())
END_TOKENS = range(TOKENS_KNOWN - len(build.SPECIALS), TOKENS_KNOWN)
"""Forbidden, so that every answer has its full length."""
START_S = 120.0


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What came of one request; times since it was sent."""

    first_s: float
    first_cpu_s: float
    """Processor time of the server up to its first token, that for others included."""
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """One server that runs."""

    name: str
    ask: Callable[[str, int], Awaitable[Told]]
    """A prompt and how many tokens it shall be answered with."""
    cpu_s: Callable[[], float]
    """Processor time so far, of all its threads."""
    is_one_at_a_time: bool = False


@contextlib.asynccontextmanager
async def our_engine(model: pathlib.Path, threads: int) -> AsyncIterator[Server]:
    """The llama runtime with its worker process, as the daemon runs it."""
    options = {
        "threads": str(threads),
        "slots": str(SLOTS),
        "kv_tokens": str(KV_TOKENS),
        "context_tokens": str(CONTEXT_TOKENS),
    }
    runtime = LlamaRuntime(read_settings(str(model), options))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, lambda: None)
        with trio.fail_after(START_S):
            while runtime.worker_pid is None or runtime.card is None:  # noqa: ASYNC110
                await trio.sleep(0.05)
        worker = cpu_of(runtime.worker_pid)

        def cpu_s() -> float:
            return worker() + time.process_time()  # this process is the daemon's part

        async def ask(prompt: str, tokens: int) -> Told:
            started, cpu_before, first, text = time.perf_counter(), cpu_s(), (0.0, 0.0), ""
            request = GenerateRequest(
                model="m", prompt=prompt, max_tokens=tokens, seed=1, ignore_eos=True
            )
            count = 0
            async with contextlib.aclosing(runtime.generate(request)) as events:
                async for event in events:
                    if isinstance(event, Chunk):
                        if not count:
                            first = time.perf_counter() - started, cpu_s() - cpu_before
                        text += event.text
                        count += len(event.token_ids)
            assert count == tokens
            return Told(*first, text)

        yield Server("meshd's engine", ask, cpu_s)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def llama_server(
    program: pathlib.Path, model: pathlib.Path, threads: int
) -> AsyncIterator[Server]:
    """llama.cpp's own server."""
    command = llama_server_command(program, model, threads, slots=SLOTS, tokens=KV_TOKENS)
    async with http_server(command) as (port, pid):
        yield _asked_by_http("llama-server", port, pid)


def llama_server_command(
    program: pathlib.Path, model: pathlib.Path, threads: int, *, slots: int, tokens: int
) -> list[str]:
    """How llama.cpp's own server is started with one KV cache of so many tokens for all slots."""
    command = [str(program), "--model", str(model), "--parallel", str(slots), "--kv-unified"]
    return [*command, "--ctx-size", str(tokens), "--threads", str(threads)]


@contextlib.asynccontextmanager
async def python_server(model: pathlib.Path, threads: int) -> AsyncIterator[Server]:
    """llama-cpp-python's server, which runs one request at a time."""
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model)]
    command += ["--n_ctx", str(CONTEXT_TOKENS), "--n_threads", str(threads)]
    command += ["--n_threads_batch", str(threads), "--interrupt_requests", "false"]
    async with http_server([*command, "--host", "127.0.0.1"]) as (port, pid):
        server = _asked_by_http("llama_cpp.server", port, pid)
        yield dataclasses.replace(server, is_one_at_a_time=True)


@contextlib.asynccontextmanager
async def http_server(command: list[str]) -> AsyncIterator[tuple[int, int]]:
    """A server process that answers: its port and its process id. It is killed in the end."""
    port = _free_port()
    process = await trio.to_thread.run_sync(
        functools.partial(
            subprocess.Popen,
            [*command, "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    try:
        with trio.fail_after(START_S):
            while not await trio.to_thread.run_sync(_answers, port):
                if process.poll() is not None:
                    raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
                await trio.sleep(0.2)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def _asked_by_http(name: str, port: int, pid: int) -> Server:
    cpu_s = cpu_of(pid)

    async def ask(prompt: str, tokens: int) -> Told:
        return await trio.to_thread.run_sync(_ask, port, cpu_s, prompt, tokens)

    return Server(name, ask, cpu_s)


def _ask(port: int, cpu_s: Callable[[], float], prompt: str, tokens: int) -> Told:
    fields: dict[str, object] = {
        "model": "m",
        "prompt": prompt,
        "max_tokens": tokens,
        "seed": 1,
        "stream": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.0,
        "logit_bias": {str(token): -100 for token in END_TOKENS},
    }
    started, cpu_before, first, text, reason = time.perf_counter(), cpu_s(), (0.0, 0.0), "", None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(
        "POST", "/v1/completions", json.dumps(fields), {"content-type": "application/json"}
    )
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line.removeprefix(b"data: ")).get("choices", []):
            # The first event comes with the first token, also where that is half a character.
            if not first[0]:
                first = time.perf_counter() - started, cpu_s() - cpu_before
            text += choice.get("text") or ""
            reason = choice.get("finish_reason") or reason
    connection.close()
    assert reason == "length", reason
    return Told(*first, text)


def cpu_of(*pids: int) -> Callable[[], float]:
    """Processor time so far, of these processes and of the children that they have now."""
    roots = [psutil.Process(pid) for pid in pids]
    all_of_them = [each for root in roots for each in (root, *root.children(recursive=True))]

    def cpu_s() -> float:
        times = [process.cpu_times() for process in all_of_them]
        return sum(each.user + each.system for each in times)

    return cpu_s


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def usable_threads() -> int:
    """Threads by default: one for each processor that may be used."""
    return len(os.sched_getaffinity(0))
