"""The one place that sends server-sent events to one client.

Headers leave with the first event, or with the first comment when that takes long: until then a
failure still has its own HTTP status, and the headers name the node that truly serves.
"""

import contextlib
from collections.abc import AsyncIterator, Callable

import trio

from meshd.gateway.encoding import sse_comment, sse_event
from meshd.gateway.errors import Failure, error_body
from meshd.gateway.exchange import Exchange, HeaderList
from meshd.gateway.limits import Limits
from meshd.waits import Look, nothing
from meshd.write_lock import WriteLock
from protocol.outlook import Outlook

_KEEP_ALIVE = sse_comment("keep-alive")


def outlook_words(outlook: Outlook) -> str:
    """What a client is told of it, such as `loading 40 %, about 12 s`; empty: nothing."""
    if outlook.percent == 0 and not outlook.ready_in_s:
        return "waiting for memory that other models have"
    if outlook.percent is not None:
        about = f", about {outlook.ready_in_s} s" if outlook.ready_in_s else ""
        return f"loading {outlook.percent} %{about}"
    return f"queued, place {outlook.place}" if outlook.place else ""


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
    async def kept_alive(self, limits: Limits, look: Look = nothing) -> AsyncIterator[None]:
        """While this is entered, no silence is longer than `limits` say, and while `look` knows
        what the answer waits for, the client is told.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive, limits, look)
            try:
                yield
            finally:
                # Under the lock: a comment (and the headers before it) leaves whole or not at all.
                async with self._lock:
                    nursery.cancel_scope.cancel()

    async def _keep_alive(self, limits: Limits, look: Look) -> None:
        silence_s, looks_every_s = limits.sse_keep_alive_s, limits.sse_outlook_s
        while True:
            looked_at = trio.current_time()
            next_look = max(looked_at, self._written_at) + looks_every_s
            await trio.sleep_until(min(next_look, self._written_at + silence_s))
            silent_s = trio.current_time() - self._written_at
            words = outlook_words(look()) if silent_s >= looks_every_s else ""
            if words:
                await self.write(sse_comment(f"meshd {words}"))
            elif silent_s >= silence_s:
                await self.write(_KEEP_ALIVE)

    async def _begin(self) -> None:
        if self._exchange.status is None:
            await self._exchange.start_stream(
                "text/event-stream; charset=utf-8", self._headers(), last_words=self._last_words
            )
