"""The one place for a runtime that plays what a test wrote down, and notes what became of it."""

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import trio

from runtimes.base import (
    ChangeCallback,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Load,
    ModelCard,
    Request,
    Runtime,
    Started,
)
from runtimes.completion_text import CompletionText
from runtimes.embedding import GENERATE

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
        self,
        steps: Sequence[Step] = HELLO,
        *,
        name: str = "m",
        clean_up_s: float = 0.0,
        kind: str = "played",
        content_hash: str = "ab" * 32,
        context_tokens: int = 0,
        tasks: tuple[str, ...] = (GENERATE,),
        prefill: str = "",
        kept_tokens: int = 0,
    ) -> None:
        """`clean_up_s`: what the runtime still does after its last event; of the last six all but
        `kept_tokens` are the card's.
        """
        self.steps = list(steps)
        self.name = name
        self.requests: list[Any] = []
        """Of `Request`; the test knows which."""
        self.given = 0
        """Events so far, over all requests."""
        self.running = 0
        self.slots = 1
        self._clean_up_s = clean_up_s
        self._kept_tokens = kept_tokens
        self._card = ModelCard(
            name=name,
            content_hash=content_hash,
            runtime=kind,
            context_tokens=context_tokens,
            tasks=tasks,
            prefill=prefill,
        )

    def become(self, card: ModelCard) -> None:
        """From now on this is its model, under its own name."""
        self._card = dataclasses.replace(card, name=self.name)

    @property
    def card(self) -> ModelCard | None:
        """Always there."""
        return self._card

    @property
    def load(self) -> Load:
        """As many slots as it has."""
        return Load(0, self.running, self.slots)

    @property
    def kept_tokens(self) -> int:
        """As the test says."""
        return self._kept_tokens

    async def serve(self, on_change: ChangeCallback) -> None:
        """Nothing has to be loaded."""
        on_change()
        await trio.sleep_forever()

    def steps_for(self, request: Request) -> Sequence[Step]:
        """What is played for this one."""
        del request
        return self.steps

    async def generate(self, request: Request) -> AsyncGenerator[GenerateEvent, None]:
        """Play."""
        self.requests.append(request)
        self.running += 1
        try:
            for step in self.steps_for(request):
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


PIECES: Final = (b"Gr\xc3", b"\xbc\xc3\x9f", b"e an", b" die ", b"W\xe2\x82", b"\xac", b"lt", b"!")
"""Tokens that end inside characters; their ids are their places, from 1 on."""


class TellingRuntime(PlayedRuntime):
    """Tells PIECES, or goes on with them, as a real one would; `breaks`: for each run, after how
    many of its own tokens what happens.
    """

    def __init__(
        self,
        *breaks: tuple[int, Step],
        prompt: tuple[int, ...] = (1, 2, 3),
        pieces: Sequence[bytes] = PIECES,
        content_hash: str = "ab" * 32,
        context_tokens: int = 0,
    ) -> None:
        super().__init__(content_hash=content_hash, context_tokens=context_tokens)
        self.breaks = list(breaks)
        self._prompt = prompt
        self._pieces = pieces

    def steps_for(self, request: Request) -> Sequence[Step]:
        """Up to the end of the pieces, a stop string, the limit, or a break."""
        steps: list[Step] = [Started(self._prompt)]
        assert isinstance(request, GenerateRequest)
        text = CompletionText(request.stop)
        for token in request.continued_ids:
            text.push(self._pieces[token - 1])
        done = len(request.continued_ids)
        left = len(self._pieces) - done
        limit = left if request.max_tokens is None else min(left, request.max_tokens)
        for number in range(limit):
            if text.stopped:
                break
            piece = text.push(self._pieces[done + number])
            is_last = text.stopped or number + 1 == limit
            piece += text.finish() if is_last else ""
            steps.append(Chunk((done + number + 1,), piece))
        reason = "stop" if text.stopped or limit == left else "length"
        finished = Finished(reason, len(self._prompt), len(steps) - 1)
        steps.append(finished)
        if self.breaks:
            after, what = self.breaks.pop(0)
            steps[1 + after :] = [what]
        return steps
