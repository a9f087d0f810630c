"""The one place that answers `POST /v1/chat/completions`, streamed or in one piece."""

import dataclasses
import time
from typing import TYPE_CHECKING

import trio

from meshd.answer import Answer, Mesh, RequestOptions
from meshd.failures import RequestFailed
from meshd.gateway.encoding import sse_comment
from meshd.gateway.errors import Refusal
from meshd.gateway.event_stream import EventStream, openai_last_words
from meshd.gateway.exchange import Exchange, HeaderList
from meshd.gateway.limits import Limits
from meshd.gateway.openai import DONE, ChatCompletion, Likely
from protocol.policies import POLICIES
from runtimes.base import Chunk, Finished, GenerateRequest, Started
from runtimes.reply_form import PLAIN, ReplyForm
from runtimes.reply_parser import Delta, ReplyParser

if TYPE_CHECKING:
    from meshd.gateway.openai_request import ChatCall

_NODE_CHARS_MAX = 128
_LOGPROB_CHARS = 80
"""What one takes in the answer, about."""
_READ_AT_ONCE = 8 * 1024
"""Characters; in the worst case they take 20 ms."""
_DEMANDS_TO_COME = ("x-meshd-label",)
_CLASSES = {"interactive": False, "batch": True}
_YES_AND_NO = {"1": True, "true": True, "0": False, "false": False}


class ChatEndpoint:
    """Chat completions of the OpenAI dialect, by the mesh."""

    def __init__(self, mesh: Mesh, limits: Limits) -> None:
        self._mesh = mesh
        self._limits = limits

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request. Raises Refusal and RequestFailed."""
        # Pydantic and its models are a fifth of the daemon's memory: not before they are needed.
        from meshd.gateway.openai_request import parse_chat

        options = request_options(exchange)
        call = parse_chat(await exchange.incoming.read())
        options = dataclasses.replace(options, user=call.user)
        exchange.incoming.close()
        completion = ChatCompletion(
            request_id=exchange.request_id,
            created=int(time.time()),
            model=call.request.model,
            with_usage=call.with_usage,
        )
        answer_it = self._stream if call.stream else self._whole
        await answer_it(exchange, call, options, completion)

    async def _whole(
        self,
        exchange: Exchange,
        call: "ChatCall",
        options: RequestOptions,
        completion: ChatCompletion,
    ) -> None:
        async with self._mesh.generate(call.request, options) as answer:
            chars_max = self._limits.answer_chars_max
            deltas, likely, finished = await _collect(answer, call.request, chars_max)
            headers = served_by(answer)
        # The node is free again before a slow client takes its answer.
        await exchange.reply_json(completion.whole(deltas, finished, likely), headers=headers)

    async def _stream(
        self,
        exchange: Exchange,
        call: "ChatCall",
        options: RequestOptions,
        completion: ChatCompletion,
    ) -> None:
        async with self._mesh.generate(call.request, options) as answer:
            stream = EventStream(
                exchange, headers=lambda: served_by(answer), last_words=openai_last_words
            )
            async with stream.kept_alive(self._limits.sse_keep_alive_s):
                ending = await _pass_on(answer, call.request, stream, completion)
        await stream.finish(ending)


def request_options(exchange: Exchange) -> RequestOptions:
    """What the request's headers demand. Raises Refusal."""
    for name in _DEMANDS_TO_COME:
        if name in exchange.headers:
            # A demand that is silently not met would be a broken promise.
            raise Refusal("unsupported", f"The header {name} is not supported yet.", param=name)
    node = exchange.headers.get("x-meshd-node")
    if node is not None and not (0 < len(node) <= _NODE_CHARS_MAX and node.isascii()):
        raise Refusal(
            "bad_request", "x-meshd-node must be a node's name or id.", param="x-meshd-node"
        )
    ranking = exchange.headers.get("x-meshd-policy")
    if ranking is not None and ranking not in POLICIES:
        raise Refusal(
            "bad_request",
            f"x-meshd-policy must be one of {', '.join(POLICIES)}.",
            param="x-meshd-policy",
        )
    trusted = _YES_AND_NO.get(exchange.headers.get("x-meshd-trusted", "0").lower())
    if trusted is None:
        raise Refusal("bad_request", "x-meshd-trusted must be 1 or 0.", param="x-meshd-trusted")
    is_batch = _CLASSES.get(exchange.headers.get("x-meshd-class", "interactive").lower())
    if is_batch is None:
        raise Refusal(
            "bad_request",
            f"x-meshd-class must be one of {', '.join(_CLASSES)}.",
            param="x-meshd-class",
        )
    waits = _YES_AND_NO.get(exchange.headers.get("x-meshd-wait", "1").lower())
    if waits is None:
        raise Refusal("bad_request", "x-meshd-wait must be 1 or 0.", param="x-meshd-wait")
    policy = exchange.policy
    return RequestOptions(
        request_id=exchange.request_id,
        ranking=ranking,
        node=node,
        policy=policy,
        is_trusted_only=trusted or (policy is not None and policy.is_trusted),
        is_batch=is_batch,
        is_impatient=not waits,
    )


def served_by(answer: Answer) -> HeaderList:
    """The headers that say who serves, as far as it is known now."""
    return [
        ("x-meshd-node", answer.node_name),
        ("x-meshd-node-id", answer.node_id),
        ("x-meshd-resumed", str(answer.resumed)),
    ]


def _parser(request: GenerateRequest, form: ReplyForm) -> ReplyParser:
    names = [tool.name for tool in request.tools]
    return ReplyParser(form, names, None if request.parallel_calls else 1)


async def _read(parser: ReplyParser, text: str) -> list[Delta]:
    """What a chunk brings. A large one, from a peer that means ill, holds up nobody."""
    deltas: list[Delta] = []
    for start in range(0, len(text), _READ_AT_ONCE):
        deltas += parser.push(text[start : start + _READ_AT_ONCE])
        await trio.lowlevel.checkpoint()
    return deltas


async def _collect(
    answer: Answer, request: GenerateRequest, chars_max: int
) -> tuple[list[Delta], list[Likely], Finished]:
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
                return deltas + parser.finish(), likely, event
    raise _never_finished()


async def _pass_on(
    answer: Answer, request: GenerateRequest, stream: EventStream, completion: ChatCompletion
) -> bytes:
    """Send the answer's text as it comes; returns the events that end the stream."""
    before = completion.opening()
    parser = _parser(request, PLAIN)
    nodes = [answer.node_name]
    async for event in answer.events:
        if nodes[-1] != answer.node_name:
            nodes.append(answer.node_name)
        match event:
            case Started(form=form):
                parser = _parser(request, form)
            case Chunk(text=text, logprobs=likely):
                pieces = completion.events(await _read(parser, text), likely)
                if pieces:
                    await stream.write(before + pieces)
                    before = b""
            case Finished():
                before += completion.events(parser.finish())
                closing = completion.closing(event, has_calls=parser.has_calls)
                comment = f"meshd nodes={','.join(nodes)} continuations={answer.resumed}"
                return before + closing + sse_comment(comment) + DONE
    raise _never_finished()


def _never_finished() -> RequestFailed:
    return RequestFailed("interrupted", "The node's stream ended in the middle of the answer.")
