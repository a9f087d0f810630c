"""Many requests through one worker process: each is served as if it were alone."""

import contextlib
import dataclasses

import pytest
import trio

from runtimes.base import Chunk, RuntimeFailure
from runtimes.llama.frames import CREDIT_TOKENS
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import LlamaSettings
from tests.runtimes.serving import Completion, ask, complete, needs_llama, serving, wait_idle

pytestmark = [pytest.mark.llama, needs_llama]


def make(demo: LlamaSettings, **changes: object) -> LlamaRuntime:
    """A runtime with changed settings."""
    return LlamaRuntime(dataclasses.replace(demo, **changes))  # type: ignore[arg-type]  # a test's shorthand


def test_the_worker_says_how_many_run_at_a_time(demo: LlamaSettings) -> None:
    """Eight for a small model; what was asked for otherwise."""

    async def main() -> None:
        for slots, expected in ((None, 8), (3, 3)):
            runtime = make(demo, slots=slots)
            async with serving(runtime):
                assert runtime.load.slots == expected

    trio.run(main)


def test_concurrent_requests_have_the_answers_that_they_have_alone(demo: LlamaSettings) -> None:
    """Reproducible: more requests than slots, all at once, token for token."""

    async def main() -> None:
        runtime = make(demo, reproducible=True)
        requests = [ask(30 + n, seed=n, prompt="Once " * (n + 1)) for n in range(12)]
        answers: dict[int, Completion] = {}

        async def keep(number: int) -> None:
            answers[number] = await complete(runtime, requests[number])

        async with serving(runtime):
            async with trio.open_nursery() as nursery:
                for number in range(len(requests)):
                    nursery.start_soon(keep, number)
            for number, request in enumerate(requests):
                alone = await complete(runtime, request)
                assert (answers[number].ids, answers[number].text) == (alone.ids, alone.text)

    trio.run(main)


def test_a_slow_consumer_pauses_only_itself(demo: LlamaSettings) -> None:
    """One that takes nothing, and no room for two: others are served, it has all in the end."""

    async def main() -> None:
        runtime = make(demo, kv_tokens=2048, hang_timeout_s=20.0)
        async with serving(runtime):
            async with contextlib.aclosing(runtime.generate(ask(600, prompt="xq" * 500))) as slow:
                await anext(slow)
                taken: list[int] = []
                event = await anext(slow)
                assert isinstance(event, Chunk)
                taken += event.token_ids
                for number in range(4):
                    other = await complete(runtime, ask(100, prompt=f"{number}" + "yz" * 700))
                    assert len(other.ids) == 100 > CREDIT_TOKENS
                async for event in slow:
                    if isinstance(event, Chunk):
                        taken += event.token_ids
            assert len(taken) == 600
            await wait_idle(runtime)

    trio.run(main)


def test_cached_tokens_are_told(demo: LlamaSettings) -> None:
    """The end says how much of the prompt was known."""

    async def main() -> None:
        runtime = make(demo)
        async with serving(runtime):
            first = await complete(runtime, ask(4))
            again = await complete(runtime, ask(4))
            assert first.finished.cached_tokens == 0
            assert again.finished.cached_tokens == len(again.prompt_ids) - 1

    trio.run(main)


def test_bad_grammars_cost_only_their_own_request(demo: LlamaSettings) -> None:
    """While others run: a bad request, and the same worker goes on."""

    async def main() -> None:
        runtime = make(demo)
        async with serving(runtime):
            pid = runtime.worker_pid
            async with contextlib.aclosing(runtime.generate(ask(200))) as events:
                await anext(events)
                for form in (
                    {"grammar": "root ::= ("},
                    {"grammar": "root ::= " + "(" * 60_000},
                    {"json_schema": '{"type": "nothing"}'},
                    {"json_schema": "[" * 60_000},
                ):
                    with pytest.raises(RuntimeFailure) as failed:
                        await complete(runtime, ask(5, **form))
                    assert failed.value.code == "bad_request"
                async for _ in events:
                    pass
            assert runtime.worker_pid == pid

    trio.run(main)
