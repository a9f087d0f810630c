"""The one place that brings a runtime up and collects what it answers, for the tests here."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from runtimes.base import (
    ChatMessage,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Runtime,
    Started,
)

TIMEOUT_S = 20.0
"""For anything that takes a moment; only a hang comes near it."""

needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="the [llama] extra is not installed"
)
PROMPT = "Once upon a time"
CHAT = (ChatMessage(role="user", content="Who are you?"),)


@dataclasses.dataclass(slots=True)
class Completion:
    """All of one answer."""

    events: list[GenerateEvent] = dataclasses.field(default_factory=list)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """From `Started`, which must be there."""
        started = self.events[0]
        assert isinstance(started, Started)
        return started.prompt_token_ids

    @property
    def chunks(self) -> list[Chunk]:
        """All chunks in order."""
        return [event for event in self.events if isinstance(event, Chunk)]

    @property
    def ids(self) -> list[int]:
        """The completion's tokens."""
        return [token for chunk in self.chunks for token in chunk.token_ids]

    @property
    def text(self) -> str:
        """The completion's text."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def finished(self) -> Finished:
        """The last event, which must be `Finished`."""
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last


class Served:
    """A runtime that is being served, and how often it said that something changed."""

    def __init__(self, runtime: Runtime) -> None:
        self.changes = 0
        self._runtime = runtime
        self._changed = trio.Event()

    def on_change(self) -> None:
        """The callback for `serve`."""
        self.changes += 1
        self._changed.set()

    async def wait_up(self) -> None:
        """Wait until there is a card."""
        with trio.fail_after(TIMEOUT_S):
            while self._runtime.card is None:
                self._changed = trio.Event()
                await self._changed.wait()

    async def wait_down(self) -> None:
        """Wait until there is none."""
        with trio.fail_after(TIMEOUT_S):
            while self._runtime.card is not None:
                self._changed = trio.Event()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def serving(runtime: Runtime) -> AsyncIterator[Served]:
    """Serve `runtime` and wait until it is up; end it at the end."""
    served = Served(runtime)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, served.on_change)
        await served.wait_up()
        yield served
        nursery.cancel_scope.cancel()


def with_served(runtime: Runtime, test: Callable[[], Awaitable[None]]) -> None:
    """Run `test` while `runtime` is up."""

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with serving(runtime):
                await test()

    trio.run(main)


async def complete(runtime: Runtime, request: GenerateRequest) -> Completion:
    """Run one request to its end."""
    completion = Completion()
    with trio.fail_after(TIMEOUT_S):
        async with contextlib.aclosing(runtime.generate(request)) as events:
            async for event in events:
                completion.events.append(event)
    return completion


async def wait_idle(runtime: Runtime) -> None:
    """Wait until no request runs or waits."""
    await wait_until(lambda: not (runtime.load.running or runtime.load.queued))


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for what no one tells of."""
    with trio.fail_after(TIMEOUT_S):
        while not is_so():  # noqa: ASYNC110  # as it says
            await trio.sleep(0.005)


def ask(max_tokens: int | None = 16, **changes: object) -> GenerateRequest:
    """A plain request for `max_tokens` tokens, with changes to it."""
    fields: dict[str, object] = {
        "model": "m",
        "prompt": PROMPT,
        "max_tokens": max_tokens,
        "seed": 7,
        "ignore_eos": True,
    }
    return GenerateRequest(**(fields | changes))  # type: ignore[arg-type]  # a test's shorthand
