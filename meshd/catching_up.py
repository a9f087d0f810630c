"""The one place where requests wait until this node knows what was decided while it was away.

Who was away would else serve, or ask, whom the mesh has revoked meanwhile (`protocol/catch_up.py`).
"""

from typing import Final

import trio

from meshd.frames import FrameStream, StreamBroken
from meshd.peers import Handler
from protocol.identity import NodeId
from protocol.node import Node

CATCH_UP_S: Final = 10.0
"""The node itself gives up waiting for others sooner."""


class CatchingUp:
    """Whether this node has caught up, for those who wait for it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._has_ended = trio.Event()

    def end(self) -> None:
        """The node has caught up, for this time."""
        self._has_ended.set()
        self._has_ended = trio.Event()

    async def wait(self) -> None:
        """Wait for that, some seconds at most; not at all when the node has caught up."""
        if self._node.is_caught_up:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(CATCH_UP_S):
            await self._has_ended.wait()

    def guard(self, handler: Handler) -> Handler:
        """The same, once this node has caught up, and for whom is a member then."""

        async def serve(peer: NodeId, frames: FrameStream) -> None:
            await self.wait()
            if self._node.authority.admission(peer) is None:
                raise StreamBroken("it is no member (any more)")
            await handler(peer, frames)

        return serve
