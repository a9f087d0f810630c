"""The one place that has a request answered once or several times, each answer a run of its own.

The first one goes ahead: the others begin when its prompt has been worked through, so that the node
that knows it now need not do that again. When one fails, or the client leaves, all end.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Sequence

import trio

from meshd.answer import Answer, Mesh, RequestOptions
from meshd.gateway.openai import choice_id
from meshd.waits import Waits
from runtimes.base import GenerateRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One answer that is wanted."""

    index: int
    request: GenerateRequest
    options: RequestOptions


Use = Callable[[Choice, Answer], Awaitable[None]]
"""What is done with an answer, to its end. Raises RequestFailed."""


def choices_of(requests: Sequence[GenerateRequest], options: RequestOptions) -> list[Choice]:
    """Each is a request of its own to the mesh, with its own id."""

    def own(index: int) -> RequestOptions:
        its_id = choice_id(options.request_id, index)
        return dataclasses.replace(options, request_id=its_id, waits=Waits())

    return [Choice(index, request, own(index)) for index, request in enumerate(requests)]


async def use_all(mesh: Mesh, choices: Sequence[Choice], first: Answer, use: Use) -> None:
    """Use all answers at once; `first` is that of the first choice, which has begun.

    Raises RequestFailed, perhaps in a group.
    """
    async with trio.open_nursery() as nursery:
        for choice in choices[1:]:
            nursery.start_soon(_ask_and_use, mesh, choice, use)
        await use(choices[0], first)


async def _ask_and_use(mesh: Mesh, choice: Choice, use: Use) -> None:
    async with mesh.generate(choice.request, choice.options) as answer:
        await use(choice, answer)
