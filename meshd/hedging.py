"""The one place for asking a second node when the first one is late with its first token.

A hedged request (Dean and Barroso, "The Tail at Scale", 2013): whoever begins first answers, the
other one is told to stop. It costs a prefill somewhere, so it is for requests that ask for it, it
comes late, and it goes only where a slot is free as far as is known: a mesh that is busy gets no
more to do by it.
"""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Final

import trio

from meshd.asking import AttemptFailed
from meshd.story import Try
from protocol.expectation import Demand, expected_of_all
from protocol.routing import Candidate
from runtimes.base import GenerateEvent, ModelCard, Started

LATE_FACTOR: Final = 3
"""Late is who takes so many times as long as expected ..."""
LATE_S_MIN: Final = 0.5
"""... and so long at least: estimates are rough."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Run:
    """One attempt under way, and what it has given that nobody has taken yet."""

    candidate: Candidate
    """As it looked when it was asked."""
    card: ModelCard | None
    """What it offered then; it may have withdrawn that since."""
    tried: Try
    events: AsyncGenerator[GenerateEvent, None]
    begun: list[GenerateEvent] = dataclasses.field(default_factory=list)
    failure: AttemptFailed | None = None
    """It ended before it began."""
    waited_s: float = 0.0
    """How long `all` has waited for events; whoever takes them has the rest."""
    has_given: bool = False
    """More than its prompt."""

    async def all(self) -> AsyncGenerator[GenerateEvent, None]:
        """What it has given, then what it gives; close it with `aclosing`. Raises AttemptFailed."""
        if self.failure is not None:
            raise self.failure
        async with aclosing(self.events):
            for event in self.begun:
                self.has_given |= not isinstance(event, Started)
                yield event
            while True:
                waits_since = trio.current_time()
                try:
                    event = await anext(self.events)
                except StopAsyncIteration:
                    return
                self.waited_s += trio.current_time() - waits_since
                self.has_given |= not isinstance(event, Started)
                yield event


def late_s(ranked: Sequence[Candidate], demand: Demand) -> float | None:
    """After how long the second of `ranked` is asked too; None: not at all."""
    if len(ranked) < 2:
        return None
    load = ranked[1].load
    if load is None or load.queued or load.running >= load.slots:
        return None
    return late_after_s(ranked, 0, demand)


def late_after_s(ranked: Sequence[Candidate], place: int, demand: Demand) -> float:
    """How long the one at `place` may take to begin, before it is late."""
    first_ns = expected_of_all(ranked, demand)[place].first_ns
    return max(LATE_S_MIN, LATE_FACTOR * first_ns / 1e9)


async def first_to_begin(first: Run, second: Callable[[], Run], after_s: float) -> list[Run]:
    """All that ran: `first`, and what `second` gives when that has not begun `after_s`.

    One at most has begun, with more than its prompt; those that failed say how. Whoever has
    neither begun nor failed was overtaken and is closed.
    """
    runs = [first]
    winner: Run | None = None
    async with AsyncExitStack() as stack:  # the app may go in the very moment in which one begins
        stack.push_async_callback(first.events.aclose)
        async with trio.open_nursery() as nursery:

            async def run(each: Run) -> None:
                nonlocal winner
                try:
                    async for event in each.events:
                        each.begun.append(event)
                        if not isinstance(event, Started):
                            break
                        each.tried.started_at = trio.current_time()
                    winner = winner or each
                except AttemptFailed as failure:
                    each.failure = failure
                if winner is not None or all(other.failure is not None for other in runs):
                    nursery.cancel_scope.cancel()

            nursery.start_soon(run, first)
            await trio.sleep(after_s)
            runs.append(second())
            stack.push_async_callback(runs[1].events.aclose)
            nursery.start_soon(run, runs[1])
        for each in runs:
            if each is not winner:
                each.begun.clear()
                await each.events.aclose()
        stack.pop_all()  # whoever takes the answer closes it
    return runs
