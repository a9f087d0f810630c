"""The one place for one exchange with one peer, as the server, whatever it asked for.

The stream's other end is watched while the work is done: when the asker cancels, closes or dies,
the work ends at once.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from meshd.admitting import NotAdmitted
from meshd.frames import FrameStream, StreamBroken
from meshd.waits import Waits
from meshd.write_lock import WriteLock
from protocol.errors import Refused
from protocol.exchange import (
    REQUEST_BYTES_MAX,
    Accept,
    Ask,
    Cancel,
    Data,
    End,
    Fail,
    Heartbeat,
    Refuse,
    Server,
    decode_frame,
)
from protocol.messages import Load
from protocol.outlook import NOTHING
from runtimes.base import RuntimeFailure

log = structlog.get_logger()

ASK_S: Final = 30.0
"""To send the whole request, once the exchange has begun."""
UNREAD_S: Final = 60.0
"""An asker that takes no frame for so long has lost its request."""
HEARTBEAT_S_MIN: Final = 0.1
"""However often an asker wants to hear that its request is not forgotten."""
RETRY_AFTER_MS: Final = 1_000
_MESSAGE_CHARS_MAX: Final = 1_000

Send = Callable[[Accept | Data], Awaitable[None]]
"""Sends one frame; when the asker is gone, the work is cancelled."""
Work = Callable[[Send], Awaitable[End | None]]
"""Sends an Accept once it runs, then Data, and gives the End; raises RuntimeFailure."""


async def receive_ask(frames: FrameStream) -> Ask:
    """The request that begins an exchange. Raises StreamBroken."""
    data = await frames.receive(REQUEST_BYTES_MAX + 1_024, ASK_S)
    if data is None:
        raise StreamBroken("closed before its request")
    try:
        ask = decode_frame(data)
    except Refused as refused:
        raise StreamBroken(str(refused), "malformed") from refused
    if not isinstance(ask, Ask):
        raise StreamBroken("no request came first", "malformed")
    return ask


class Answering:
    """The answer to one Ask."""

    def __init__(self, frames: FrameStream, load: Callable[[], Load]) -> None:
        """`load`: this node's, which every refusal tells."""
        self._frames = frames
        self._load = load
        self._server = Server()
        self._has_accepted = False
        self._sending = WriteLock()
        self._said_at = trio.current_time()

    async def refuse(self, code: str, message: str) -> None:
        """Say at once that it does not run. Raises StreamBroken."""
        refusal = self._server.send(self._failure(code, message))
        await self._frames.send(refusal, timeout_s=UNREAD_S)

    async def run(self, work: Work, ask: Ask, waits: Waits | None = None) -> None:
        """Do the work while the asker wants it, until its deadline at most; be heard as often as it
        wants, with what `waits` tells.

        Raises StreamBroken when the stream cannot be used any more.
        """
        is_wanted = True
        fault = ""
        last: Refuse | End | Fail | None = None

        def give_up(why: str, what: str = "") -> None:
            nonlocal is_wanted, fault
            is_wanted, fault = False, what
            log.debug("request.unwanted", by=why)
            nursery.cancel_scope.cancel()

        async def watch_asker() -> None:
            try:
                data = await self._frames.receive(1_024)
                is_cancel = data is not None and isinstance(decode_frame(data), Cancel)
                give_up("cancel" if is_cancel else "close")
            except Refused as refused:
                give_up(str(refused), "malformed")
            except StreamBroken as error:
                give_up(str(error), error.fault)

        async def say(frame: Accept | Data | Heartbeat) -> None:
            try:
                await self._frames.send(self._server.send(frame), timeout_s=UNREAD_S)
            except StreamBroken as error:
                give_up(str(error), error.fault)
                await trio.lowlevel.checkpoint()  # ends the work as any cancellation does
            self._said_at = trio.current_time()

        async def send(frame: Accept | Data) -> None:
            self._has_accepted = True
            async with self._sending:
                await say(frame)

        async def beat(every_s: float) -> None:
            while True:
                await trio.sleep_until(self._said_at + every_s)
                async with self._sending:
                    if trio.current_time() >= self._said_at + every_s:
                        await say(Heartbeat(waits.now() if waits is not None else NOTHING))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_asker)
            if ask.heartbeat_ms:
                nursery.start_soon(beat, max(HEARTBEAT_S_MIN, ask.heartbeat_ms / 1000))
            with trio.move_on_after(ask.deadline_ms / 1000):
                # The deadline is the asker's too: nobody waits for words.
                last = await self._last(work, send)
            async with self._sending:  # no heartbeat is cut off in the middle
                nursery.cancel_scope.cancel()
        if last is None or not is_wanted:
            raise StreamBroken("the asker went away or the deadline passed", fault)
        # As soon as the asker has this, its next exchange may begin: the watch must be over. And
        # no heartbeat may follow: one that was due has been sent by now.
        await self._frames.send(self._server.send(last), timeout_s=UNREAD_S)

    async def _last(self, work: Work, send: Send) -> Refuse | End | Fail | None:
        """The frame that ends the answer; None when the work came to no end."""
        try:
            return await work(send)
        except NotAdmitted as failure:
            return self._failure(failure.code, failure.message, failure.retry_after_ms)
        except RuntimeFailure as failure:
            return self._failure(failure.code, failure.message)

    def _failure(
        self, code: str, message: str, retry_after_ms: int = RETRY_AFTER_MS
    ) -> Refuse | Fail:
        text = message[:_MESSAGE_CHARS_MAX]
        if self._has_accepted:
            return Fail(code, text)
        return Refuse(code, text, retry_after_ms, self._load())
