"""The one place where requests wait until this node knows what was decided while it was away.

Who was away would else serve, or ask, whom the mesh has revoked meanwhile (`protocol/catch_up.py`).
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from protocol.identity import NodeId
from protocol.node import Node
from runtimes.base import RuntimeFailure

Admit = Callable[[NodeId], Awaitable[None]]
"""See `CatchingUp.admit`."""

CATCH_UP_S: Final = 10.0
"""The node itself gives up waiting for others sooner."""
WAITING_MAX: Final = 64
"""Of this node and of its peers together, which have all been read into memory."""


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

    async def admit(self, peer: NodeId) -> None:
        """Wait before anything is done for `peer`, which must be a member then: a part of the work,
        so that it hears meanwhile that this node lives. Raises RuntimeFailure.
        """
        if self._has_ended.statistics().tasks_waiting >= WAITING_MAX:
            message = f"{WAITING_MAX} requests wait until it knows what it missed"
            raise RuntimeFailure("queue_full", message)
        await self.wait()
        if self._node.authority.admission(peer) is None:
            raise RuntimeFailure("unavailable", "who asks is no member (any more)")
