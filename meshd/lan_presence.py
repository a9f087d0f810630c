"""The one place where a node is to be found on the local network, and finds others there."""

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from meshd import discovery
from meshd.sockets import NodeSockets
from protocol.events import AddressFound, Event
from protocol.identity import Address, MeshId, key_text
from protocol.node import Node

log = structlog.get_logger()

STRANGERS_MAX: Final = 16
"""Other meshes that are named, each once."""


class LanPresence:
    """Announces a node by mDNS, and tells it where members of its mesh are."""

    def __init__(
        self,
        node: Node,
        name: str,
        sockets: NodeSockets,
        addresses: Callable[[], Sequence[Address]],
        give: Callable[[Event], bool],
    ) -> None:
        """`addresses`: where the node is reached; `give` puts an event before it."""
        self._node = node
        self._name = name
        self._sockets = sockets
        self._addresses = addresses
        self._give = give
        self._strangers: set[MeshId] = set()

    async def run(self) -> None:
        """Announce and browse until cancelled."""
        loopback = ["127.0.0.1"] if self._sockets.is_loopback else None
        await discovery.announce_and_browse(
            mesh=self._node.mesh,
            node=self._node.node_id,
            name=self._name,
            addresses=tuple(self._addresses()),
            on_sighting=self._on_sighting,
            interfaces=loopback,
        )

    def _on_sighting(self, sighting: discovery.Sighting) -> None:
        if sighting.mesh == self._node.mesh:
            for address in sighting.addresses:
                self._give(AddressFound(sighting.node, address))
        elif sighting.mesh not in self._strangers and len(self._strangers) < STRANGERS_MAX:
            self._strangers.add(sighting.mesh)
            log.warning(
                "lan.other_mesh",
                mesh=key_text(sighting.mesh),
                node=sighting.name,
                mend=f"to join it: run meshd invite on {sighting.name}, and here meshd join TOKEN",
            )
