"""The one place where this node runs a request that another member sent it.

The stream's other end is watched while the model works: when the asker cancels, closes or dies,
the generation ends at once.
"""

from contextlib import aclosing
from typing import Final

import structlog
import trio

from meshd.frames import FrameStream, StreamBroken
from meshd.local_models import LocalModels
from meshd.payloads import (
    BadPayload,
    pack_chunk,
    pack_finished,
    pack_started,
    unpack_request,
)
from protocol.errors import Refused
from protocol.exchange import (
    REQUEST_BYTES_MAX,
    Accept,
    Ask,
    Cancel,
    Data,
    End,
    Fail,
    Refuse,
    Server,
    decode_frame,
)
from protocol.identity import NodeId, key_text
from runtimes.base import Chunk, Finished, GenerateRequest, Runtime, RuntimeFailure, Started

log = structlog.get_logger()

ASK_S: Final = 30.0
"""To send the whole request, once the exchange has begun."""
UNREAD_S: Final = 60.0
"""An asker that takes no frame for so long has lost its request."""
RETRY_AFTER_MS: Final = 1_000


class Serving:
    """Answers the exchanges of kind REQUEST."""

    def __init__(self, models: LocalModels) -> None:
        self._models = models

    async def serve_stream(self, peer: NodeId, frames: FrameStream) -> None:
        """One request of `peer`. Raises StreamBroken when the stream cannot go on."""
        ask = await self._receive_ask(frames)
        exchange = Server()
        try:
            request = unpack_request(ask.body)
        except BadPayload as error:
            await frames.send(self._refusal(exchange, "bad_request", str(error)), UNREAD_S)
            return
        runtime = self._models.find(request.model)
        if runtime is None:
            message = f"this node does not serve {request.model[:100]!r} now"
            await frames.send(self._refusal(exchange, "unavailable", message), UNREAD_S)
            return
        who = key_text(peer)[:8]
        log.debug("request.serving", request=ask.request_id, peer=who, model=request.model)
        await self._run_watched(frames, exchange, runtime, request, ask.deadline_ms / 1000)

    async def _receive_ask(self, frames: FrameStream) -> Ask:
        data = await frames.receive(REQUEST_BYTES_MAX + 1_024, ASK_S)
        if data is None:
            raise StreamBroken("closed before its request")
        try:
            ask = decode_frame(data)
        except Refused as refused:
            raise StreamBroken(str(refused)) from refused
        if not isinstance(ask, Ask):
            raise StreamBroken("no request came first")
        return ask

    async def _run_watched(
        self,
        frames: FrameStream,
        exchange: Server,
        runtime: Runtime,
        request: GenerateRequest,
        deadline_s: float,
    ) -> None:
        is_wanted = True
        last: bytes | None = None

        async def watch_asker(scope: trio.CancelScope) -> None:
            nonlocal is_wanted
            try:
                data = await frames.receive(1_024)
                is_cancel = data is not None and isinstance(decode_frame(data), Cancel)
                log.debug("request.unwanted", by="cancel" if is_cancel else "close")
            except (StreamBroken, Refused) as error:
                log.debug("request.unwanted", by=str(error))
            is_wanted = False
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_asker, nursery.cancel_scope)
            try:
                with trio.move_on_after(deadline_s):  # the asker's too: nobody waits for words
                    last = await self._run(frames, exchange, runtime, request)
            except StreamBroken as error:  # seen here before the nursery wraps it into a group
                log.debug("request.unwanted", by=str(error))
            nursery.cancel_scope.cancel()
        if last is None or not is_wanted:
            raise StreamBroken("the asker went away or the deadline passed")
        # As soon as the asker has this, its next exchange may begin: the watch must be over.
        await frames.send(last, UNREAD_S)

    async def _run(
        self, frames: FrameStream, exchange: Server, runtime: Runtime, request: GenerateRequest
    ) -> bytes | None:
        """Send the answer up to its last frame, and give that one back."""
        last: bytes | None = None
        has_started = False
        try:
            async with aclosing(runtime.generate(request)) as events:
                async for event in events:
                    match event:
                        case Started():
                            has_started = True
                            frame = exchange.send(Accept(pack_started(event)))
                            await frames.send(frame, UNREAD_S)
                        case Chunk():
                            frame = exchange.send(Data(pack_chunk(event)))
                            await frames.send(frame, UNREAD_S)
                        case Finished():
                            last = exchange.send(End(pack_finished(event)))
        except RuntimeFailure as failure:
            if has_started:
                return exchange.send(Fail(failure.code, failure.message[:1_000]))
            return self._refusal(exchange, failure.code, failure.message)
        return last

    def _refusal(self, exchange: Server, code: str, message: str) -> bytes:
        return exchange.send(Refuse(code, message[:1_000], RETRY_AFTER_MS, self._models.load))
