"""The llama engine beside other servers of the same llama.cpp, on the same machine and model.

A model of about 85 M random weights (F16) is made on the spot. Side by side, one server after the
other: (a) tokens per second of 1, 4 and 8 streams of 64 tokens, all together; (b) the time to the
first token of a short request that comes 0.2 s after a prompt of 4,000 tokens; (c) the time to
the first token of a first and of a second turn, with 2,000 tokens of history. The engine is asked
through its runtime and worker process, `python -m llama_cpp.server` and llama-server by HTTP.
Each figure is the median of the runs; every run has prompts that were never seen before.

Run: python -m tests.benchmarks.engine [--runs 3] [--threads N] [--llama-server PATH] [--short]
--short shows with a tiny model that it works; its figures say nothing.
"""

import argparse
import contextlib
import functools
import http.client
import json
import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

import trio

from runtimes.base import Chunk, GenerateRequest
from runtimes.llama.demo import build
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings

SHAPE = build.Shape(width=768, layers=12, heads=12, feed_forward=2048, context_tokens=6144)
SHORT_SHAPE = build.Shape(context_tokens=6144)
STREAMS = (1, 4, 8)
TOKENS = 64
LONG_PROMPT_TOKENS = 4000
HISTORY_TOKENS = 2000
HEAD_START_S = 0.2
LETTERS = "bdgjkpqxz"
"""None of them is merged with another: each is a token."""
TOKENS_KNOWN = len(build.vocabulary())
END_TOKENS = range(TOKENS_KNOWN - len(build.SPECIALS), TOKENS_KNOWN)
"""Forbidden, so that every answer has its full length."""
START_S = 120.0

Ask = Callable[[str, int], Awaitable[tuple[float, str]]]
"""(prompt, tokens) -> seconds to the first text, and the text."""


def prompt_of(tokens: int, dice: random.Random) -> str:
    """So many tokens that nobody has seen before."""
    return "".join(dice.choices(LETTERS, k=tokens))


async def ask_runtime(runtime: LlamaRuntime, prompt: str, tokens: int) -> tuple[float, str]:
    """One request of the engine."""
    request = GenerateRequest(model="m", prompt=prompt, max_tokens=tokens, seed=1, ignore_eos=True)
    started, first_s, text, count = time.perf_counter(), 0.0, "", 0
    async with contextlib.aclosing(runtime.generate(request)) as events:
        async for event in events:
            if isinstance(event, Chunk):
                first_s = first_s or time.perf_counter() - started
                text += event.text
                count += len(event.token_ids)
    assert count == tokens
    return first_s, text


async def ask_server(port: int, prompt: str, tokens: int) -> tuple[float, str]:
    """One streamed request of an HTTP server."""
    return await trio.to_thread.run_sync(_ask_server, port, prompt, tokens)


def _ask_server(port: int, prompt: str, tokens: int) -> tuple[float, str]:
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
    started, first_s, text, reason = time.perf_counter(), 0.0, "", None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(
        "POST", "/v1/completions", json.dumps(fields), {"content-type": "application/json"}
    )
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line.removeprefix(b"data: ")).get("choices", []):
            # The first event comes with the first token, also where that is half a character.
            first_s = first_s or time.perf_counter() - started
            text += choice.get("text") or ""
            reason = choice.get("finish_reason") or reason
    connection.close()
    assert reason == "length", reason
    return first_s, text


async def measure(name: str, ask: Ask, runs: int, seed: int) -> None:
    """Print all figures of one server."""
    dice = random.Random(seed)
    await ask(prompt_of(8, dice), 4)  # whatever is only done once
    rates: dict[int, list[float]] = {streams: [] for streams in STREAMS}
    beside, first_turns, second_turns = [], [], []
    for _ in range(runs):
        for streams in STREAMS:
            rates[streams].append(await rate(ask, streams, dice))
        beside.append(await beside_long_prompt(ask, dice))
        history = prompt_of(HISTORY_TOKENS, dice)
        first_s, text = await ask(history, 16)
        second_s, _ = await ask(history + text + prompt_of(16, dice), 4)
        first_turns.append(first_s)
        second_turns.append(second_s)
    shown = ", ".join(
        f"{streams}: {statistics.median(values):.0f}" for streams, values in rates.items()
    )
    print(f"{name}")
    print(f"  tokens/s by streams      {shown}")
    print(f"  first token beside a long prompt   {statistics.median(beside):.2f} s")
    print(
        f"  first token of turn 1, turn 2      {statistics.median(first_turns):.2f} s, "
        f"{statistics.median(second_turns):.3f} s",
        flush=True,
    )


async def rate(ask: Ask, streams: int, dice: random.Random) -> float:
    """Tokens per second of so many streams at once, prompts included."""
    prompts = [prompt_of(16, dice) for _ in range(streams)]
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for prompt in prompts:
            nursery.start_soon(ask, prompt, TOKENS)
    return streams * TOKENS / (time.perf_counter() - started)


async def beside_long_prompt(ask: Ask, dice: random.Random) -> float:
    """Seconds to the first token of a short request behind a long prompt."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, prompt_of(LONG_PROMPT_TOKENS, dice), 4)
        await trio.sleep(HEAD_START_S)
        first_s, _ = await ask(prompt_of(16, dice), 4)
    return first_s


async def measure_engine(model: pathlib.Path, threads: int, runs: int) -> None:
    """Our own engine, as the daemon runs it."""
    options = {"threads": str(threads), "slots": "8", "kv_tokens": "12288"}
    options["context_tokens"] = str(SHAPE.context_tokens)
    runtime = LlamaRuntime(read_settings(str(model), options))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, lambda: None)
        with trio.fail_after(START_S):
            while runtime.card is None:  # noqa: ASYNC110  # a benchmark's start
                await trio.sleep(0.05)
        await measure("meshd's engine", functools.partial(ask_runtime, runtime), runs, 1)
        nursery.cancel_scope.cancel()


async def measure_server(name: str, command: list[str], port: int, runs: int) -> None:
    """A server that is started for this, and ended after it."""
    quiet = subprocess.DEVNULL
    process = await trio.to_thread.run_sync(
        functools.partial(subprocess.Popen, command, stdout=quiet, stderr=quiet)
    )
    try:
        with trio.fail_after(START_S):
            while not await trio.to_thread.run_sync(_answers, port):
                if process.poll() is not None:
                    print(f"{name}: did not start (exit status {process.returncode})")
                    return
                await trio.sleep(0.2)
        await measure(name, functools.partial(ask_server, port), runs, 1)
    finally:
        process.kill()
        process.wait()


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


async def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--llama-server", metavar="PATH")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "model.gguf"
        build.write(model, SHORT_SHAPE if arguments.short else SHAPE)
        runs = 1 if arguments.short else arguments.runs
        print(f"load before: {os.getloadavg()[0]:.1f}, threads: {arguments.threads}", flush=True)
        await measure_engine(model, arguments.threads, runs)
        size = ["--n_ctx", str(SHAPE.context_tokens), "--n_threads", str(arguments.threads)]
        size += ["--n_threads_batch", str(arguments.threads), "--interrupt_requests", "false"]
        port = _free_port()
        command = [*(sys.executable, "-m", "llama_cpp.server", "--model", str(model)), *size]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        await measure_server("python -m llama_cpp.server", command, port, runs)
        if arguments.llama_server:
            port = _free_port()
            command = [arguments.llama_server, "--model", str(model), "--parallel", "8"]
            command += ["--kv-unified", "--ctx-size", "12288", "--port", str(port)]
            command += ["--threads", str(arguments.threads)]
            await measure_server("llama-server", command, port, runs)
        print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    trio.run(main)
