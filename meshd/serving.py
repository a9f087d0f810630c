"""The one place where this node's models answer a request that another member sent it."""

from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager

import structlog
import trio

from meshd.admitting import Admitting
from meshd.answering import Answering, Send, receive_ask
from meshd.catching_up import Admit
from meshd.frames import FrameStream, StreamBroken
from meshd.payloads import (
    BadPayload,
    pack_chunk,
    pack_finished,
    pack_started,
    pack_vector,
    unpack_request,
)
from meshd.waits import Waits
from protocol.exchange import Accept, Data, End
from protocol.identity import NodeId, key_text
from protocol.messages import Load
from runtimes.base import Chunk, Finished, Started
from runtimes.embedding import Vector

log = structlog.get_logger()


class Serving:
    """Answers the exchanges of kind REQUEST."""

    def __init__(
        self, admitting: Admitting, admit: Admit, load: Callable[[], Load] | None = None
    ) -> None:
        """`admit`: awaited before anything is done for a peer. `load`: this node's, which a refusal
        tells; None: that of the models.
        """
        self._admitting = admitting
        self._admit = admit
        self._load = load or (lambda: admitting.load)
        self._runs: dict[tuple[NodeId, str], trio.CancelScope] = {}
        """By who asked, and the request's id."""
        self._idle = trio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until nobody is being answered, and all have their last frames."""
        await self._idle.wait()

    async def serve_stream(self, peer: NodeId, frames: FrameStream) -> None:
        """One request of `peer`. Raises StreamBroken when the stream cannot go on."""
        ask = await receive_ask(frames)
        answering = Answering(frames, self._load)
        try:
            request = unpack_request(ask.body)
        except BadPayload as error:
            await answering.refuse("bad_request", str(error))
            return
        deadline_s = ask.deadline_ms / 1000
        who, waits = key_text(peer)[:8], Waits()
        log.debug("request.serving", request=ask.request_id, peer=who, model=request.model)

        async def generate(send: Send) -> End | None:
            await self._admit(peer)
            end: End | None = None
            mine = self._admitting.generate(request, peer, ask.requester, deadline_s, waits)
            async with aclosing(mine) as events:
                async for event in events:
                    match event:
                        case Started():
                            await send(Accept(pack_started(event)))
                        case Chunk():
                            await send(Data(pack_chunk(event)))
                        case Vector():
                            await send(Data(pack_vector(event)))
                        case Finished():
                            end = End(pack_finished(event))
            return end

        with self._only_run(peer, ask.request_id):
            await answering.run(generate, ask, waits)
            return
        raise StreamBroken("it was asked anew")

    @contextmanager
    def _only_run(self, peer: NodeId, request_id: str) -> Iterator[None]:
        """End the run of this very request that its asker has given up, and may not have been able
        to say so.
        """
        before = self._runs.pop((peer, request_id), None)
        if before is not None:
            before.cancel()
        with trio.CancelScope() as scope:
            self._runs[peer, request_id] = scope
            if self._idle.is_set():
                self._idle = trio.Event()
            try:
                yield
            finally:
                if self._runs.get((peer, request_id)) is scope:
                    del self._runs[peer, request_id]
                if not self._runs:
                    self._idle.set()
