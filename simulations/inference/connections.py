"""The one place for a gateway's connections: what it costs to reach a member, and idle ones.

The twin of the pool in `meshd/peers.py`, with its numbers. A message on a stream is never lost: a
path that is cut is tried again until it is there, as TCP does.
"""

from collections.abc import Callable
from typing import Final

from protocol.config import SECOND
from protocol.identity import NodeId
from simulations.host import Host
from simulations.world import World

CONNECT_NS: Final = 3 * SECOND
"""An address that does not answer by then is given up; the daemon's value."""
HANDSHAKE_NS: Final = 5 * SECOND
"""A peer that accepts and then says nothing is given up; the daemon's value."""
IDLE_NS: Final = 20 * SECOND
"""An idle connection is closed after so long; the daemon's value."""
PER_PEER: Final = 8
"""Idle connections that are kept to one member; the daemon's value."""
MESSAGE_BYTES: Final = 1_000
"""What a request or a chunk weighs on an access line, about."""
AGAIN_NS: Final = SECOND
"""How soon a message is sent again while there is no path."""


class Connections:
    """Of one gateway."""

    def __init__(self, world: World, own: Host) -> None:
        self._world = world
        self._own = own
        self._idle: dict[NodeId, list[tuple[int, int]]] = {}
        """By member: (since when idle, the life it leads to)."""

    def take(self, member: Host) -> bool:
        """Whether an idle connection to it was there; it is in use now."""
        idle = self._idle.get(member.crypto.node_id, [])
        while idle:
            since_ns, life = idle.pop()
            if self._world.now - since_ns < IDLE_NS and (life == member.life or member.is_silent):
                return True
        return False

    def give_back(self, member: Host) -> None:
        """An exchange is over and its connection idle."""
        idle = self._idle.setdefault(member.crypto.node_id, [])
        if len(idle) < PER_PEER:
            idle.append((self._world.now, member.life))

    def forget(self, member: NodeId) -> None:
        """It went or came: what leads to its earlier life is closed."""
        self._idle.pop(member, None)

    def clear(self) -> None:
        """Our own process is gone."""
        self._idle.clear()

    def dial_ns(self, member: Host) -> int | None:
        """From opening a connection until its first message is read; None: there is no path."""
        network = self._world.network
        if not network.lets_streams_in(member):
            return None
        return network.stream_delay(self._own, member, MESSAGE_BYTES, self._world.now)

    def send(
        self, source: Host, target: Host, read: Callable[[], None], is_wanted: Callable[[], bool]
    ) -> None:
        """A message on an open connection; `read` when the target's process reads it. Given up
        when it `is_wanted` no more.
        """
        if not is_wanted():
            return
        now = self._world.now
        delay = self._world.network.stream_delay(source, target, MESSAGE_BYTES, now)
        if delay is None:
            self._world.at(AGAIN_NS, lambda: self.send(source, target, read, is_wanted))
            return
        ways = max(1, self._world.network.options.stream_round_trips - 1)
        self._world.at(delay // ways, lambda: self._world.hand(target, read))
