"""The contract of runtimes/base.py, as far as it can be kept without token ids.

The tests are those of tests/runtimes/test_contract.py; behind the upstream works the scripted
runtime, so that what it is told is what it does.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest
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
    Runtime,
    RuntimeFailure,
    Started,
)
from runtimes.openai.source import UpstreamSource
from tests.helpers import test_runtime as scripted
from tests.runtimes import test_contract as contract
from tests.runtimes.openai.upstream import (
    DONE,
    STREAM_HEAD,
    Seen,
    Upstream,
    event_of,
    replying,
    settings_for,
)

test_a_runtime_that_is_not_served_is_unavailable = (
    contract.test_a_runtime_that_is_not_served_is_unavailable
)
test_the_same_request_has_the_same_answer = contract.test_the_same_request_has_the_same_answer
test_text_that_only_looks_like_a_stop_string_comes_out = (
    contract.test_text_that_only_looks_like_a_stop_string_comes_out
)
test_leaving_early_frees_the_slot = contract.test_leaving_early_frees_the_slot
test_a_cancelled_consumer_frees_the_slot = contract.test_a_cancelled_consumer_frees_the_slot
test_the_queue_is_bounded_and_in_order = contract.test_the_queue_is_bounded_and_in_order
test_a_cancelled_wait_leaves_the_queue = contract.test_a_cancelled_wait_leaves_the_queue
test_nonsense_is_refused_and_costs_nothing = contract.test_nonsense_is_refused_and_costs_nothing
test_a_prompt_beyond_the_context_is_too_long = contract.test_a_prompt_beyond_the_context_is_too_long
test_without_max_tokens_the_context_is_the_limit = (
    contract.test_without_max_tokens_the_context_is_the_limit
)
test_strange_text_passes = contract.test_strange_text_passes


class BehindUpstream(Runtime):
    """The scripted runtime, reached over HTTP: upstream and source live while it is served."""

    def __init__(self) -> None:
        queue = str(contract.QUEUE_MAX)
        options = {"context": "2048", "slots": "1", "queue": queue, "end_one_in": "40"}
        self._behind = scripted.create("echo", options=options)
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
                    self._upstream.url, slots=1, queue_max=contract.QUEUE_MAX, look_s=60.0
                )
                self._source = UpstreamSource(settings)
                await self._source.serve(on_change)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
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
                async with contextlib.aclosing(self._behind.generate(_request(seen))) as events:
                    async for event in events:
                        await stream.send_all(_bytes(event))
            except trio.BrokenResourceError:
                pass
            except RuntimeFailure as failure:
                message = {"context_too_long": "beyond the context length"}.get(failure.code, "no")
                await replying(400, {"error": {"message": message}})(seen, stream)
            nursery.cancel_scope.cancel()


def _request(seen: Seen) -> GenerateRequest:
    fields: dict[str, Any] = seen.json
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


@pytest.fixture
def runtime() -> Runtime:
    """One fresh runtime behind an upstream, not served yet."""
    return BehindUpstream()
