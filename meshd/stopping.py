"""The one place for how a node stops in order: what runs here ends, then the mesh is told."""

from collections.abc import Callable
from typing import Final

import trio

from meshd.draining import Draining
from meshd.serving import Serving
from meshd.view import View
from protocol.events import Event, LeaveRequested
from protocol.node import Node

RUN_OUT_S: Final = 3.0
"""For what runs here to end. The rest of an answer that takes longer is computed elsewhere, which
costs a prefill there, and less than the owner's patience here."""
GOODBYE_S: Final = 1.0
"""How long a leaving node goes on spreading that it left."""


class Stopping:
    """The last seconds of one node."""

    def __init__(
        self,
        node: Node,
        view: View,
        draining: Draining,
        serving: Serving,
        give: Callable[[Event], object],
    ) -> None:
        """`give` tells the protocol's node."""
        self._node = node
        self._view = view
        self._draining = draining
        self._serving = serving
        self._give = give
        self._has_said_goodbye = False

    async def run_out(self) -> None:
        """Take nothing new, and let what runs for others end, within bounds."""
        self._draining.set(is_draining=True)
        with trio.move_on_after(RUN_OUT_S):
            await self._serving.idle()

    async def say_goodbye(self) -> None:
        """Tell the mesh that this node leaves; takes a second or two, unless it is alone in it."""
        if self._has_said_goodbye or not self._view.has_company:
            return
        self._has_said_goodbye = True
        with trio.move_on_after(GOODBYE_S):  # who has just come has met nobody to say it to yet
            while self._node.members.present_count <= 1:
                await self._view.events.after(self._view.events.last_id)
        self._give(LeaveRequested())
        await trio.sleep(GOODBYE_S)
