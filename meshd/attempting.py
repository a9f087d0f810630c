"""The one place for one attempt: one candidate asked for one run, until its end or its failure."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import trio

from meshd.admitting import Admitting, NotAdmitted
from meshd.answer import RequestOptions
from meshd.asking import Asking, AttemptFailed, nonsense
from meshd.payloads import (
    BadPayload,
    pack_request,
    unpack_chunk,
    unpack_finished,
    unpack_started,
    unpack_vector,
)
from meshd.peers import Kind
from meshd.requesters import requester_of
from meshd.waits import Waits
from meshd.watchdogs import HEARTBEAT_S, TokenWatch
from protocol.exchange import Accept, Ask, Data, End, Heartbeat
from protocol.identity import NodeId
from protocol.outlook import NOTHING
from protocol.speeds import Speed
from runtimes.base import Finished, GenerateEvent, Request, RuntimeFailure
from runtimes.embedding import SEE, EmbedRequest

TOO_LONG_CODE: Final = "context_too_long"
FINAL_CODES: Final = ("bad_request", TOO_LONG_CODE)
"""Refusals that every node would repeat: the request itself is at fault."""
FULL_CODES: Final = ("queue_full", "wait_too_long")
LOADING_CODE: Final = "loading"
_PEERS_CODES: Final = (*FINAL_CODES, *FULL_CODES, LOADING_CODE, "unavailable", "crashed")
"""What a peer may say of itself; anything else counts as `unavailable`."""

UnpackData = Callable[[bytes], GenerateEvent]
"""Reads the body of a Data. Raises BadPayload."""


class Attempting:
    """Has one node run a request: this one, or a peer."""

    def __init__(self, own: NodeId, admitting: Admitting, asking: Asking) -> None:
        self._own = own
        self._admitting = admitting
        self._asking = asking

    async def run(
        self,
        node: NodeId,
        request: Request,
        options: RequestOptions,
        *,
        deadline: float,
        speed: Speed | None,
        contact_s: float,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """The run's events up to `Finished`; close it with `aclosing`, which cancels it over there.

        `options`: of all attempts at one request; `speed`: as learned of the node;
        `contact_s`: for a peer to be reached. Raises AttemptFailed.
        """
        with self._asking.counted(node):
            if node == self._own:
                source = self._run_here(request, options, deadline)
            else:
                budget_ms = max(1, int((deadline - trio.current_time()) * 1000))
                body = pack_request(request)
                requester = requester_of(options)
                beat_ms = int(HEARTBEAT_S * 1000)
                ask = Ask(options.request_id, budget_ms, body, beat_ms, requester)
                unpack = unpack_vector if isinstance(request, EmbedRequest) else unpack_chunk
                source = self._run_there(node, ask, unpack, contact_s, options.waits)
            watch = TokenWatch(speed, len(request.continued_ids), has_images=request.task == SEE)
            is_whole = False
            async with aclosing(source):
                while True:
                    waits_since = trio.current_time()
                    try:
                        event = await self._asking.next(node, source, deadline, watch.limit_s)
                    except AttemptFailed:
                        if is_whole:
                            return  # what ends the stream now does not matter
                        raise
                    if event is None and is_whole:
                        return
                    if event is None:
                        raise AttemptFailed("unavailable", "it ended without an end")
                    watch.note(event, trio.current_time() - waits_since)
                    is_whole = isinstance(event, Finished)
                    yield event

    async def _run_here(
        self, request: Request, options: RequestOptions, deadline: float
    ) -> AsyncGenerator[GenerateEvent, None]:
        left_s = deadline - trio.current_time()
        events = self._admitting.generate(
            request, self._own, requester_of(options), left_s, options.waits
        )
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except NotAdmitted as failure:
            retry_after_s = failure.retry_after_ms / 1000
            raise AttemptFailed(
                failure.code, failure.message, is_refusal=True, retry_after_s=retry_after_s
            ) from failure
        except RuntimeFailure as failure:
            raise AttemptFailed(failure.code, failure.message) from failure

    async def _run_there(
        self, node: NodeId, ask: Ask, unpack: UnpackData, contact_s: float, waits: Waits
    ) -> AsyncGenerator[GenerateEvent, None]:
        frames = self._asking.ask(node, Kind.REQUEST, ask, _PEERS_CODES, contact_s)
        outlook = NOTHING
        try:
            with waits.told_by(lambda: outlook):
                async with aclosing(frames):
                    async for frame in frames:
                        if isinstance(frame, Heartbeat):
                            outlook = frame.outlook
                            continue
                        outlook = NOTHING
                        yield _event(frame, unpack)
        except BadPayload as error:
            raise nonsense(error) from error


def _event(frame: Accept | Data | End, unpack: UnpackData) -> GenerateEvent:
    """Raises BadPayload."""
    match frame:
        case Accept(body):
            return unpack_started(body)
        case Data(body):
            return unpack(body)
        case End(body):
            return unpack_finished(body)
