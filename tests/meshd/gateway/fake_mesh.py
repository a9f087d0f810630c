"""A mesh in memory for the gateway's tests: it answers what the test has scripted."""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import trio

from meshd.answer import Answer, RequestOptions
from meshd.event_log import EventLog
from meshd.failures import RequestFailed
from protocol.identity import NodeId
from protocol.outlook import NOTHING, Outlook
from runtimes.base import Chunk, Finished, GenerateEvent, Request, Started
from runtimes.embedding import Vector

Step = GenerateEvent | Exception | trio.Event | float
"""An event to give, a failure to raise, something to wait for, or seconds to sleep."""

HELLO: tuple[Step, ...] = (
    Started((1, 2, 3)),
    Chunk((10,), "Hel"),
    Chunk((11, 12), "lo \u2028 wörld"),
    Finished("stop", 3, 3),
)

MODEL_ROW: Mapping[str, Any] = {
    "name": "org/demo",
    "hash": "ab" * 32,
    "runtime": "test",
    "architecture": "llama",
    "parameters": 5_000_000,
    "quantization": "F16",
    "size_bytes": 240_000,
    "context_tokens": 2048,
    "tasks": ["generate"],
    "nodes": ["anna", "bert"],
}


OWN = NodeId(b"o" * 32)


@dataclasses.dataclass
class FakeView:
    """What the gateway sees of a view."""

    events: EventLog = dataclasses.field(
        default_factory=lambda: EventLog(OWN, lambda node: "anna \u2028")
    )


@dataclasses.dataclass
class FakeMesh:
    """What the gateway sees of a mesh; records what it was asked."""

    steps: Sequence[Step] = HELLO
    others: Sequence[Sequence[Step]] = ()
    """The steps of the requests after the first; `steps` again where there are no more."""
    refuse: Exception | None = None
    """Raised before any node accepts."""
    accept_after: trio.Event | None = None
    """A node accepts when this is set."""
    outlook: Outlook = NOTHING
    """What a request waits for until then."""
    endless: str = ""
    """After the steps: chunks of this text for ever."""
    ready: bool = True
    view: FakeView = dataclasses.field(default_factory=FakeView)
    requests: list[tuple[Any, RequestOptions]] = dataclasses.field(default_factory=list)
    """Of `Request`; the test knows which."""
    entered: trio.Event = dataclasses.field(default_factory=trio.Event)
    """`generate` was entered."""
    left: trio.Event = dataclasses.field(default_factory=trio.Event)
    """`generate` was left again, or never came to an answer."""
    running: int = 0
    given: int = 0
    """Events given out by all answers."""
    answer: Answer | None = None

    def is_ready(self) -> bool:
        return self.ready

    def status(self) -> Mapping[str, Any]:
        return {"node": "anna", "ready": self.ready}

    def nodes(self, *, include_all: bool = False) -> Sequence[Mapping[str, Any]]:
        rows = [{"name": "anna", "state": "alive"}]
        return [*rows, {"name": "carl", "state": "dead"}] if include_all else rows

    def models(self) -> Sequence[Mapping[str, Any]]:
        return [MODEL_ROW]

    def jobs(self) -> Sequence[Mapping[str, Any]]:
        return [{"id": "j1", "state": "done"}]

    def explain(self, request_id: str) -> Mapping[str, Any] | None:
        return {"request": request_id, "model": MODEL_ROW["name"]} if request_id == "ab" else None

    @contextlib.asynccontextmanager
    async def generate(self, request: Request, options: RequestOptions) -> AsyncIterator[Answer]:
        place = len(self.requests) - 1
        steps = self.others[place] if 0 <= place < len(self.others) else self.steps
        self.requests.append((request, options))
        self.entered.set()
        self.running += 1
        try:
            if self.accept_after is not None:
                with options.waits.told_by(lambda: self.outlook):
                    await self.accept_after.wait()
            if self.refuse is not None:
                raise self.refuse
            if request.model == "absent":
                raise RequestFailed("model_not_found", "No node offers the model 'absent'.")
            async with contextlib.aclosing(self._events(steps)) as events:
                self.answer = Answer(
                    request_id=options.request_id,
                    node_name="bert",
                    node_id="b" * 52,
                    events=events,
                )
                yield self.answer
        finally:
            self.running -= 1
            self.left.set()

    async def _events(self, steps: Sequence[Step]) -> AsyncGenerator[GenerateEvent, None]:
        for step in steps:
            match step:
                case Exception():
                    raise step
                case trio.Event():
                    await step.wait()
                case float():
                    await trio.sleep(step)
                case Started() | Chunk() | Vector() | Finished():
                    self.given += 1
                    yield step
        while self.endless:
            await trio.lowlevel.checkpoint()
            self.given += 1
            yield Chunk((1,), self.endless)
