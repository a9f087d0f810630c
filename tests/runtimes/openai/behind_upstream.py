"""The one place for the scripted runtime as an upstream: reached over HTTP, as any server is."""

import base64
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import trio

from runtimes.base import (
    ChangeCallback,
    ChatMessage,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Load,
    ModelCard,
    Request,
    Runtime,
    RuntimeFailure,
    Started,
)
from runtimes.embedding import EmbedRequest, Vector
from runtimes.openai.source import UpstreamSource
from tests.helpers import test_runtime as scripted
from tests.runtimes.openai.upstream import (
    DONE,
    STREAM_HEAD,
    Seen,
    Upstream,
    event_of,
    replying,
    settings_for,
)

QUEUE_MAX = 3


class BehindUpstream(Runtime):
    """The scripted runtime, reached over HTTP: upstream and source live while it is served."""

    def __init__(self, **options: str) -> None:
        """`options`: of the scripted runtime, beside those that the contract wants."""
        usual = {"context": "2048", "slots": "1", "queue": str(QUEUE_MAX), "end_one_in": "40"}
        self._behind = scripted.create("echo", options=usual | options)
        self._upstream = Upstream(self._script)
        self._upstream.models = [{"id": "echo", "max_model_len": 2048}]
        self._source: UpstreamSource | None = None

    @property
    def _front(self) -> Runtime | None:
        return next(iter(self._source.runtimes), None) if self._source is not None else None

    @property
    def card(self) -> ModelCard | None:
        """The upstream's."""
        return self._front.card if self._front is not None else None

    @property
    def load(self) -> Load:
        """The upstream's."""
        return self._front.load if self._front is not None else Load(0, 0, 0)

    async def serve(self, on_change: ChangeCallback) -> None:
        """Run all three."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._behind.serve, lambda: None)
            async with self._upstream.running():
                settings = settings_for(
                    self._upstream.url, slots=1, queue_max=QUEUE_MAX, look_s=60.0
                )
                self._source = UpstreamSource(settings)
                await self._source.serve(on_change)

    async def generate(self, request: Request) -> AsyncGenerator[GenerateEvent, None]:
        """Through HTTP."""
        if self._front is None:
            raise RuntimeFailure("unavailable", "not served")
        async with contextlib.aclosing(self._front.generate(request)) as events:
            async for event in events:
                yield event

    async def _script(self, seen: Seen, stream: trio.SocketStream) -> None:
        """One request, answered by the scripted runtime until the client hangs up."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.receive_some(1)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                request = _request(seen)
                async with contextlib.aclosing(self._behind.generate(request)) as events:
                    if isinstance(request, EmbedRequest):
                        await replying(
                            200,
                            _results(request, [event async for event in events]),
                            "Content-Type: application/json",
                        )(seen, stream)
                    else:
                        async for event in events:
                            await stream.send_all(_bytes(event))
            except trio.BrokenResourceError:
                pass
            except RuntimeFailure as failure:
                message = {"context_too_long": "beyond the context length"}.get(failure.code, "no")
                await replying(400, {"error": {"message": message}})(seen, stream)
            nursery.cancel_scope.cancel()


def _request(seen: Seen) -> Request:
    fields: dict[str, Any] = seen.json
    if seen.path.endswith(("/embeddings", "/rerank")):
        inputs = fields.get("input") or fields["documents"]
        is_text = isinstance(inputs[0], str)
        return EmbedRequest(
            model=fields["model"],
            texts=tuple(inputs) if is_text else (),
            token_ids=() if is_text else tuple(map(tuple, inputs)),
            query=fields.get("query"),
        )
    for name in ("stream", "stream_options"):
        del fields[name]
    if "messages" in fields:
        fields["messages"] = tuple(ChatMessage(**turn) for turn in fields["messages"])
    return GenerateRequest(**{**fields, "stop": tuple(fields.get("stop", ()))})


def _bytes(event: GenerateEvent) -> bytes:
    match event:
        case Started():
            return STREAM_HEAD + b": started\n\n"
        case Chunk():
            return event_of({"choices": [{"index": 0, "delta": {"content": event.text}}]})
        case Finished():
            usage = {
                "prompt_tokens": event.prompt_tokens,
                "completion_tokens": event.completion_tokens,
            }
            end = {"choices": [{"delta": {}, "finish_reason": event.finish_reason}]}
            return event_of({**end, "usage": usage}) + DONE
        case Vector():
            raise AssertionError("nobody asked for one")


def _results(request: EmbedRequest, events: list[GenerateEvent]) -> dict[str, Any]:
    """In base64 as they are asked for, and the last first."""
    vectors = [event for event in events if isinstance(event, Vector)]
    rows: list[dict[str, Any]] = []
    for index, vector in enumerate(vectors):
        if request.query is None:
            data = base64.b64encode(vector.data).decode()
            rows.append({"index": index, "object": "embedding", "embedding": data})
        else:
            rows.append({"index": index, "relevance_score": vector.numbers[0]})
    rows.reverse()
    finished = events[-1]
    assert isinstance(finished, Finished)
    usage = {"prompt_tokens": finished.prompt_tokens, "total_tokens": finished.prompt_tokens}
    return {"data" if request.query is None else "results": rows, "usage": usage}
