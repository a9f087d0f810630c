"""How an answer of a real llama-server goes on when it is cut, and the server is killed.

Two llama-servers serve the demo model, each as an upstream. An answer is cut behind so many of its
pieces, and goes on at the other server as a node's would (`meshd/begun_text.py`). Counted are the
cuts behind which the whole text is that of the unbroken answer, greedily; and in any case whether
what had come is neither changed nor said again. Text is cut into tokens anew there, so that a cut
inside of a word may lead elsewhere: such answers differ, and are counted.

Run: python -m tests.benchmarks.upstream_continuation [--prompts 25] [--cuts 8]
Needs the program that tests.benchmarks.llama_server builds. The exit status is 1 when anything is
said twice or lost, or fewer than LEAST of the answers are the unbroken ones.
"""

import argparse
import contextlib
import dataclasses
import random
import sys
from collections.abc import AsyncIterator

import trio

from meshd.continuing import Progress
from runtimes.base import ChatMessage, Chunk, GenerateRequest, Runtime
from runtimes.llama.settings import DEMO_FILE
from runtimes.openai.settings import read_settings
from runtimes.openai.source import UpstreamSource
from tests.benchmarks import engine_servers, llama_server
from tests.benchmarks.continuation import questions

TOKENS = 96
LEAST = 0.9


@dataclasses.dataclass(slots=True)
class Tally:
    """What became of the cuts."""

    cuts: int = 0
    same: int = 0
    repeated: int = 0
    """Answers in which what had come was said again."""
    lost: int = 0
    """Answers that lack the unbroken answer's next words."""


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[Runtime]:
    """One llama-server, as a node has it."""
    command = engine_servers.llama_server_command(
        llama_server.llama_server(), DEMO_FILE, 1, slots=1, tokens=2_048
    )
    async with engine_servers.http_server(command) as (port, _), trio.open_nursery() as nursery:
        source = UpstreamSource(read_settings(f"http://127.0.0.1:{port}", {}))
        is_there = trio.Event()

        def on_change() -> None:
            if source.runtimes:
                is_there.set()

        nursery.start_soon(source.serve, on_change)
        await is_there.wait()
        yield source.runtimes[0]
        nursery.cancel_scope.cancel()


async def run(runtime: Runtime, progress: Progress, cut: int | None = None) -> list[str]:
    """The pieces of one run; up to its end, or so many."""
    card = runtime.card
    assert card is not None
    request, pieces = progress.next_request(card), list[str]()
    progress.goes_on_with(card)
    async with contextlib.aclosing(runtime.generate(request)) as events:
        async for event in events:
            progress.take(event)
            if isinstance(event, Chunk):
                pieces.append(event.text)
                if len(pieces) == cut:
                    break
    return pieces


def judge(tally: Tally, whole: list[str], cut: int, rest: list[str]) -> None:
    """Count one answer that was cut."""
    before, expected, said = "".join(whole[:cut]), "".join(whole[cut:]), "".join(rest)
    tally.cuts += 1
    tally.same += said == expected
    tally.repeated += len(before) > 20 and said.startswith(before[:20]) and said != expected
    tally.lost += bool(expected.strip()) and not said.strip()


async def measure(prompts: int, cuts: int) -> Tally:
    """All of it."""
    tally, dice = Tally(), random.Random(1)
    async with upstream() as first, upstream() as second:
        for question in dice.choices(questions(), k=prompts):
            request = GenerateRequest(
                model="m",
                messages=(ChatMessage(role="user", content=question),),
                max_tokens=TOKENS,
                temperature=0.0,
                with_markers=True,
            )
            whole = await run(first, Progress(request))
            for cut in sorted(dice.sample(range(1, len(whole)), min(cuts, len(whole) - 1))):
                progress = Progress(request)
                await run(first, progress, cut)
                judge(tally, whole, cut, await run(second, progress))
    return tally


def main() -> None:
    """Measure, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--prompts", type=int, default=25)
    parser.add_argument("--cuts", type=int, default=8, help="of each answer")
    options = parser.parse_args()
    try:
        tally = trio.run(measure, options.prompts, options.cuts)
    except llama_server.NotBuilt as error:
        sys.exit(str(error))
    print(f"{tally.same} of {tally.cuts} answers are the unbroken ones")
    print(f"{tally.repeated} say again what had come, {tally.lost} lack the rest")
    is_good = not tally.repeated and not tally.lost and tally.same >= LEAST * tally.cuts
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
