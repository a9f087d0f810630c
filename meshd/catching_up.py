"""The one place where requests wait until this node knows what was decided while it was away.

Who was away would else serve, or ask, whom the mesh has revoked meanwhile (`protocol/catch_up.py`).
"""

from collections.abc import Callable
from typing import Final

import trio

from meshd.frames import FrameStream, StreamBroken
from meshd.peers import Handler
from protocol.identity import NodeId

CATCH_UP_S: Final = 10.0
"""The node itself gives up waiting for others sooner."""


class CatchingUp:
    """Whether this node has caught up, for those who wait for it."""

    def __init__(self, is_member: Callable[[NodeId], bool]) -> None:
        self._is_member = is_member
        self._is_over = trio.Event()

    def end(self) -> None:
        """The node has caught up."""
        self._is_over.set()

    async def wait(self) -> None:
        """Wait for that, some seconds at most."""
        with trio.move_on_after(CATCH_UP_S):
            await self._is_over.wait()

    def guard(self, handler: Handler) -> Handler:
        """The same, once this node has caught up, and for whom is a member then."""

        async def serve(peer: NodeId, frames: FrameStream) -> None:
            await self.wait()
            if not self._is_member(peer):
                raise StreamBroken("it is no member (any more)")
            await handler(peer, frames)

        return serve
