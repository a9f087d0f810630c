"""The llama engine beside other servers of the same llama.cpp, on the same machine and model.

A model of about 85 M random weights (F16) is made on the spot. Measured are (a) tokens per second
of 1, 4 and 8 streams of 64 tokens, all together; (b) the time to the first token of a short
request that comes 0.2 s after a prompt of 4,000 tokens; (c) the time to the first token of a first
and of a second turn, with 2,000 tokens of history. The engine is asked through its runtime and
worker process, llama-server (tests.benchmarks.llama_server) and `python -m llama_cpp.server` by
HTTP. All are up all the time and are asked in turn, each measure after the other, so that what
else the machine does hits them alike; ratios are the medians of the runs' own ratios.

Run: python -m tests.benchmarks.engine [--runs 5] [--threads N] [--llama-server PATH] [--short]
The exit status is 1 when the engine is not as fast as it has to be. --short shows with a tiny
model that it works; its figures say nothing.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence

import trio

from runtimes.llama.demo import build
from tests.benchmarks import engine_servers, llama_server
from tests.benchmarks.engine_servers import CONTEXT_TOKENS, Server

SHAPE = build.Shape(
    width=768, layers=12, heads=12, feed_forward=2048, context_tokens=CONTEXT_TOKENS
)
SHORT_SHAPE = build.Shape(context_tokens=CONTEXT_TOKENS)
STREAMS = (1, 4, 8)
TOKENS = 64
LONG_PROMPT_TOKENS = 4000
HISTORY_TOKENS = 2000
HEAD_START_S = 0.2
LETTERS = "bdgjkpqxz"
"""None of them is merged with another: each is a token."""

Figures = dict[str, list[float]]
"""By the name of a figure, its value in each run; less is better."""


def prompt_of(tokens: int, dice: random.Random) -> str:
    """So many tokens that nobody has seen before."""
    return "".join(dice.choices(LETTERS, k=tokens))


async def streams(server: Server, count: int, dice: random.Random) -> dict[str, float]:
    """Seconds per token of so many streams at once, prompts included."""
    prompts = [prompt_of(16, dice) for _ in range(count)]
    started, cpu_before = trio.current_time(), server.cpu_s()
    async with trio.open_nursery() as nursery:
        for prompt in prompts:
            nursery.start_soon(server.ask, prompt, TOKENS)
    tokens = count * TOKENS
    return {
        f"{count} streams, s/token": (trio.current_time() - started) / tokens,
        f"{count} streams, CPU s/token": (server.cpu_s() - cpu_before) / tokens,
    }


async def beside_long_prompt(server: Server, dice: random.Random) -> dict[str, float]:
    """Seconds to the first token of a short request behind a long prompt."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.ask, prompt_of(LONG_PROMPT_TOKENS, dice), 4)
        await trio.sleep(HEAD_START_S)
        told = await server.ask(prompt_of(16, dice), 4)
    return {"beside a prompt, s": told.first_s, "beside a prompt, CPU s": told.first_cpu_s}


async def turns(server: Server, dice: random.Random) -> dict[str, float]:
    """Seconds to the first token of a first turn, and of the next."""
    history = prompt_of(HISTORY_TOKENS, dice)
    first = await server.ask(history, 16)
    second = await server.ask(history + first.text + prompt_of(16, dice), 4)
    return {
        "turn 1, s": first.first_s,
        "turn 1, CPU s": first.first_cpu_s,
        "turn 2, s": second.first_s,
        "turn 2, CPU s": second.first_cpu_s,
    }


async def measure(servers: Sequence[Server], runs: int) -> dict[str, Figures]:
    """All figures of all servers, by their names."""
    figures: dict[str, Figures] = {s.name: collections.defaultdict(list) for s in servers}
    for server in servers:
        await server.ask(prompt_of(8, random.Random(0)), 4)  # whatever is only done once
    for run in range(runs):
        for number in range(len(STREAMS) + 2):
            turn = (run + number) % len(servers)
            for server in (*servers[turn:], *servers[:turn]):
                dice = random.Random(f"{run} {number}")  # the same prompts for each
                if number < len(STREAMS):
                    told = await streams(server, STREAMS[number], dice)
                elif server.is_one_at_a_time:
                    continue  # a minute for each, which says nothing new
                elif number == len(STREAMS):
                    told = await beside_long_prompt(server, dice)
                else:
                    told = await turns(server, dice)
                for name, value in told.items():
                    figures[server.name][name].append(value)
        print(f"run {run + 1} of {runs}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return figures


def show(figures: Mapping[str, Figures]) -> None:
    """Medians, a line a figure; streams as tokens per second."""
    print(f"{'':28}" + "".join(f"{name:>18}" for name in figures))
    for name in next(iter(figures.values())):
        medians = [statistics.median(them[name]) for them in figures.values() if name in them]
        if "/token" in name:
            name = name.replace("s/token", "tokens/s").replace("CPU tokens/s", "tokens/CPU s")
            medians = [1 / median for median in medians]
        print(f"{name:28}" + "".join(f"{median:>18.3f}" for median in medians))


def judge(figures: Mapping[str, Figures]) -> bool:
    """Print how the engine does against what it has to reach; whether it reaches all."""
    ours, llama, python = figures.values()

    def ratio(name: str, numerator: Figures, denominator: Figures) -> float:
        pairs = zip(numerator[name], denominator[name], strict=True)
        return statistics.median(above / below for above, below in pairs)

    rows = [(f"{n} streams, rate to llama-server's", 1.0, f"{n} streams, {{}}s/token", llama, ours)
            for n in STREAMS]  # fmt: skip
    rows += [("8 streams, rate to llama_cpp.server's", 4.0, "8 streams, {}s/token", python, ours)]
    passed = True
    for what, least, name, slower, faster in rows:
        wall, cpu = (ratio(name.format(kind), slower, faster) for kind in ("", "CPU "))
        passed &= wall >= least
        print(f"{_verdict(wall >= least)} {what}: {wall:.2f} (CPU {cpu:.2f}), at least {least}")
    wall, cpu = (ratio(f"beside a prompt, {kind}s", ours, llama) for kind in ("", "CPU "))
    passed &= wall <= 1.5
    print(f"{_verdict(wall <= 1.5)} first token beside a prompt to llama-server's: {wall:.2f} "
          f"(CPU {cpu:.2f}), at most 1.5")  # fmt: skip
    later, first = ours["turn 2, s"], ours["turn 1, s"]
    share = statistics.median(two / one for one, two in zip(first, later, strict=True))
    passed &= share <= 0.2
    print(f"{_verdict(share <= 0.2)} second turn's first token to the first's: {share:.3f}, "
          "at most 0.2")  # fmt: skip
    wall = ratio("turn 1, s", ours, llama)
    print(f"     first turn's first token to llama-server's: {wall:.2f}; "
          f"second's: {ratio('turn 2, s', ours, llama):.2f}")  # fmt: skip
    return passed


def _verdict(is_good: bool) -> str:
    return "pass" if is_good else "MISS"


async def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=engine_servers.usable_threads())
    parser.add_argument("--llama-server", metavar="PATH", type=pathlib.Path)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    try:
        program = arguments.llama_server or llama_server.llama_server()
    except llama_server.NotBuilt as missing:
        sys.exit(str(missing))
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "model.gguf"
        build.write(model, SHORT_SHAPE if arguments.short else SHAPE)
        threads = arguments.threads
        print(f"load before: {os.getloadavg()[0]:.1f}, threads: {threads}", flush=True)
        async with contextlib.AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(context)
                for context in (
                    engine_servers.our_engine(model, threads),
                    engine_servers.llama_server(program, model, threads),
                    engine_servers.python_server(model, threads),
                )
            ]
            figures = await measure(servers, 1 if arguments.short else arguments.runs)
    show(figures)
    passed = judge(figures)
    print(f"load after: {os.getloadavg()[0]:.1f}")
    if not passed and not arguments.short:
        sys.exit(1)


if __name__ == "__main__":
    trio.run(main)
