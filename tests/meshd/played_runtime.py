"""The one place for a runtime that plays what a test wrote down, and notes what became of it."""

from collections.abc import AsyncGenerator, Sequence

import trio

from runtimes.base import (
    ChangeCallback,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Load,
    ModelCard,
    Runtime,
    Started,
)

Step = GenerateEvent | Exception | trio.Event | float
"""An event to give, a failure to raise, something to wait for, or seconds to sleep."""

HELLO: tuple[Step, ...] = (
    Started((1, 2, 3)),
    Chunk((10,), "Hel"),
    Chunk((11, 12), "lo wörld"),
    Finished("stop", 3, 3),
)


class PlayedRuntime(Runtime):
    """One model whose every answer is `steps`."""

    def __init__(
        self, steps: Sequence[Step] = HELLO, *, name: str = "m", clean_up_s: float = 0.0
    ) -> None:
        """`clean_up_s`: what the runtime still does after its last event."""
        self.steps = list(steps)
        self.name = name
        self.requests: list[GenerateRequest] = []
        self.given = 0
        """Events so far, over all requests."""
        self.running = 0
        self._clean_up_s = clean_up_s

    @property
    def card(self) -> ModelCard | None:
        """Always there."""
        return ModelCard(name=self.name, content_hash="ab" * 32, runtime="played")

    @property
    def load(self) -> Load:
        """One slot."""
        return Load(0, self.running, 1)

    async def serve(self, on_change: ChangeCallback) -> None:
        """Nothing has to be loaded."""
        on_change()
        await trio.sleep_forever()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        """Play."""
        self.requests.append(request)
        self.running += 1
        try:
            for step in self.steps:
                match step:
                    case Exception():
                        raise step
                    case trio.Event():
                        await step.wait()
                    case float():
                        await trio.sleep(step)
                    case _:
                        self.given += 1
                        yield step
            await trio.sleep(self._clean_up_s)
        finally:
            self.running -= 1
