"""The one place where this node runs a job that another member placed here."""

from collections.abc import Callable

import structlog

from meshd.answering import Answering, Send, receive_ask
from meshd.catching_up import Admit
from meshd.frames import FrameStream
from meshd.payloads import BadPayload
from meshd.tasks.payloads import pack_returned, unpack_call
from protocol.exchange import Accept, End
from protocol.identity import NodeId, key_text
from protocol.messages import Load
from runtimes.functions.runner import FunctionRunner

log = structlog.get_logger()


class TaskServing:
    """Answers the exchanges of kind TASK."""

    def __init__(self, functions: FunctionRunner, admit: Admit, load: Callable[[], Load]) -> None:
        """`admit`: awaited before anything is done for a peer. `load`: this node's, which a refusal
        tells.
        """
        self._functions = functions
        self._admit = admit
        self._load = load

    async def serve_stream(self, peer: NodeId, frames: FrameStream) -> None:
        """One job of `peer`. Raises StreamBroken when the stream cannot go on."""
        ask = await receive_ask(frames)
        answering = Answering(frames, self._load)
        try:
            call = unpack_call(ask.body)
        except BadPayload as error:
            await answering.refuse("bad_arguments", str(error))
            return
        deadline_s = ask.deadline_ms / 1000
        log.info(
            "task.serving", job=ask.request_id, peer=key_text(peer)[:8], function=call.function
        )

        async def work(send: Send) -> End:
            async def started() -> None:
                await send(Accept(b""))

            await self._admit(peer)
            returned = await self._functions.run(call, started, deadline_s=deadline_s)
            return End(pack_returned(returned))

        await answering.run(work, ask)
