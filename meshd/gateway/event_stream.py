"""The one place that sends server-sent events to one client.

Headers leave with the first event, or with the first keep-alive comment when that takes long:
until then a failure still has its own HTTP status, and the headers name the node that truly
serves.
"""

import contextlib
from collections.abc import AsyncIterator, Callable

import trio

from meshd.gateway.encoding import sse_comment, sse_event
from meshd.gateway.errors import Failure, error_body
from meshd.gateway.exchange import Exchange, HeaderList
from meshd.write_lock import WriteLock

_KEEP_ALIVE = sse_comment("keep-alive")


def openai_last_words(failure: Failure) -> bytes:
    """How a stream of the OpenAI dialect ends when it breaks: an error event, and no `[DONE]`."""
    return sse_event(error_body(failure))


class EventStream:
    """A streamed answer; at most one task writes events, beside the keep-alive task."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        headers: Callable[[], HeaderList],
        last_words: Callable[[Failure], bytes],
    ) -> None:
        self._exchange = exchange
        self._headers = headers
        self._last_words = last_words
        self._lock = WriteLock()
        self._written_at = trio.current_time()

    async def write(self, data: bytes) -> None:
        """Send events; waits until the client has room for them."""
        async with self._lock:
            await self._begin()
            await self._exchange.write(data)
            self._written_at = trio.current_time()

    async def finish(self, data: bytes) -> None:
        """Send the last events and end the answer."""
        await self._begin()
        await self._exchange.finish(data)

    @contextlib.asynccontextmanager
    async def kept_alive(self, silence_s: float) -> AsyncIterator[None]:
        """While this is entered, no silence is longer than `silence_s` seconds."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive, silence_s)
            try:
                yield
            finally:
                # Under the lock: a comment (and the headers before it) leaves whole or not at all.
                async with self._lock:
                    nursery.cancel_scope.cancel()

    async def _keep_alive(self, silence_s: float) -> None:
        while True:
            await trio.sleep_until(self._written_at + silence_s)
            if trio.current_time() >= self._written_at + silence_s:
                await self.write(_KEEP_ALIVE)

    async def _begin(self) -> None:
        if self._exchange.status is None:
            await self._exchange.start_stream(
                "text/event-stream; charset=utf-8", self._headers(), last_words=self._last_words
            )
