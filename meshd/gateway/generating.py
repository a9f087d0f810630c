"""The one place that answers a request with generated text, streamed or in one piece."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from meshd.answer import Answer, Mesh
from meshd.failures import RequestFailed
from meshd.gateway.choices import Choice, choices_of, use_all
from meshd.gateway.encoding import sse_comment
from meshd.gateway.event_stream import EventStream, openai_last_words
from meshd.gateway.exchange import Exchange
from meshd.gateway.generate_call import GenerateCall
from meshd.gateway.limits import Limits
from meshd.gateway.mesh_headers import request_options, served_by
from meshd.gateway.openai import DONE, ChoiceAnswer, Completion, Likely
from meshd.gateway.places import Places
from runtimes.base import Chunk, Finished, GenerateRequest, Started
from runtimes.reply_delta import Delta
from runtimes.reply_form import PLAIN, ReplyForm
from runtimes.reply_parser import ReplyParser

_LOGPROB_CHARS = 80
"""What one takes in the answer, about."""
_READ_AT_ONCE = 8 * 1024
"""Characters; in the worst case they take 20 ms."""


class Generating:
    """Chats and completions by the mesh; what their bodies and events look like, others know."""

    def __init__(self, mesh: Mesh, limits: Limits, places: Places) -> None:
        """`places`: each answer takes one; the first one's is taken already."""
        self._mesh = mesh
        self._limits = limits
        self._places = places

    async def answer(
        self,
        exchange: Exchange,
        parse: Callable[[bytes | bytearray], GenerateCall],
        kind: type[Completion],
    ) -> None:
        """Answer one request, whose body `parse` reads. Raises Refusal and RequestFailed."""
        options = request_options(exchange)
        call = parse(await exchange.incoming.read())
        options = dataclasses.replace(options, user=call.user)
        exchange.incoming.close()
        choices = choices_of(call.requests, options)
        completion = kind(
            request_id=exchange.request_id,
            created=int(time.time()),
            model=choices[0].request.model,
            with_usage=call.with_usage,
        )
        answer_it = self._stream if call.stream else self._whole
        with self._places.taken(None, len(choices) - 1):
            await answer_it(exchange, choices, completion)

    async def _whole(
        self, exchange: Exchange, choices: Sequence[Choice], completion: Completion
    ) -> None:
        answers: dict[int, ChoiceAnswer] = {}
        chars_max = self._limits.answer_chars_max // len(choices)

        async def collect(choice: Choice, answer: Answer) -> None:
            answers[choice.index] = await _collect(answer, choice.request, chars_max)

        async with self._generate(choices[0]) as first:
            await use_all(self._mesh, choices, first, collect)
            headers = served_by(first)
        # The node is free again before a slow client takes its answer.
        whole = completion.whole([answers[index] for index in range(len(choices))])
        await exchange.reply_json(whole, headers=headers)

    async def _stream(
        self, exchange: Exchange, choices: Sequence[Choice], completion: Completion
    ) -> None:
        ended: dict[int, _Ended] = {}
        serving: Answer | None = None
        stream = EventStream(
            exchange, headers=lambda: served_by(serving), last_words=openai_last_words
        )

        async def pass_on(choice: Choice, answer: Answer) -> None:
            ended[choice.index] = await _pass_on(choice, answer, stream, completion)

        async with (
            stream.kept_alive(self._limits, choices[0].options.waits.now),
            self._generate(choices[0]) as first,
        ):
            serving = first
            await use_all(self._mesh, choices, first, pass_on)
        in_order = [ended[index] for index in range(len(choices))]
        counts = completion.counts([each.finished for each in in_order])
        nodes = ",".join(name for each in in_order for name in each.nodes)
        continuations = sum(each.continuations for each in in_order)
        comment = sse_comment(f"meshd nodes={nodes} continuations={continuations}")
        await stream.finish(counts + comment + DONE)

    def _generate(self, choice: Choice) -> AbstractAsyncContextManager[Answer]:
        return self._mesh.generate(choice.request, choice.options)


@dataclasses.dataclass(frozen=True, slots=True)
class _Ended:
    """What became of one streamed answer."""

    finished: Finished
    nodes: Sequence[str]
    """Who gave a part of it, in order."""
    continuations: int


def _parser(request: GenerateRequest, form: ReplyForm) -> ReplyParser:
    functions = {tool.name: tool.parameters for tool in request.tools}
    return ReplyParser(form, functions, None if request.parallel_calls else 1)


async def _read(parser: ReplyParser, text: str) -> list[Delta]:
    """What a chunk brings. A large one, from a peer that means ill, holds up nobody."""
    deltas = parser.push(text[:_READ_AT_ONCE])
    for start in range(_READ_AT_ONCE, len(text), _READ_AT_ONCE):
        await trio.lowlevel.checkpoint()
        deltas += parser.push(text[start : start + _READ_AT_ONCE])
    return deltas


async def _collect(answer: Answer, request: GenerateRequest, chars_max: int) -> ChoiceAnswer:
    deltas: list[Delta] = []
    likely: list[Likely] = []
    parser = _parser(request, PLAIN)
    room = chars_max
    async for event in answer.events:
        match event:
            case Started(form=form):
                parser = _parser(request, form)
            case Chunk(text=text, logprobs=of_tokens):
                room -= len(text) + _LOGPROB_CHARS * sum(map(len, of_tokens))
                likely += of_tokens
                if room < 0:
                    raise RequestFailed(
                        "interrupted", "The answer is too long for one piece; stream it."
                    )
                deltas += await _read(parser, text)
            case Finished():
                return ChoiceAnswer(deltas + parser.finish(), likely, event)
    raise _never_finished()


async def _pass_on(
    choice: Choice, answer: Answer, stream: EventStream, completion: Completion
) -> _Ended:
    """Send the answer's text as it comes, up to why it ended."""
    index, before = choice.index, completion.opening(choice.index)
    parser = _parser(choice.request, PLAIN)
    nodes = [answer.node_name]
    async for event in answer.events:
        if nodes[-1] != answer.node_name:
            nodes.append(answer.node_name)
        match event:
            case Started(form=form):
                parser = _parser(choice.request, form)
            case Chunk(text=text, logprobs=likely):
                pieces = completion.events(await _read(parser, text), likely, index)
                if pieces:
                    await stream.write(before + pieces)
                    before = b""
            case Finished():
                rest = completion.events(parser.finish(), choice=index)
                closing = completion.closing(event, has_calls=parser.has_calls, choice=index)
                await stream.write(before + rest + closing)
                return _Ended(event, nodes, answer.resumed)
    raise _never_finished()


def _never_finished() -> RequestFailed:
    return RequestFailed("interrupted", "The node's stream ended in the middle of the answer.")
