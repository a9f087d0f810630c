"""The one place that says which inbound connections may be: how many, whose, and who makes room.

Whoever has not proven the key of a member is a guest, and anybody can be one; members have places
of their own. A full house is shared fairly, and one that comes is never kept out by one that only
holds what it does not use:

    guests    of too many, the oldest of the host that has the most goes
    a member  beyond its own share, its own longest idle connection goes, else the new one
    members   of too many, the longest idle one of whoever has the most goes, else its newest one;
              while all have equally many, the longest idle of all, else the new one
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import trio

from meshd.connection import Connection
from protocol.identity import NodeId

GUESTS_MAX: Final = 64
"""Inbound connections whose key is not proven yet, or not admitted."""
MEMBERS_MAX: Final = 512
PEER_MAX: Final = 128
"""Of one member: as many as its gateway answers requests at a time."""
_HOST_BITS_V6: Final = 64
"""Whoever has one address of such a network has them all."""


class Visit:
    """One inbound connection, as long as it lives."""

    def __init__(self, life: trio.CancelScope, host: str) -> None:
        self.life = life
        self.host = host
        self.connection: Connection | None = None
        """None until the peer's key is proven."""
        self.is_member = False
        self.is_busy = False
        """Whether an exchange is going on."""
        self.since = trio.current_time()
        """When its last exchange began or ended."""

    def set_busy(self, is_busy: bool) -> None:
        """Note that an exchange begins or ends."""
        self.is_busy = is_busy
        self.since = trio.current_time()


class Inbound:
    """All inbound connections of this node."""

    def __init__(self, on_refusal: Callable[[str, NodeId | None, str], None]) -> None:
        """`on_refusal` hears why a connection is closed to make room, whose it was, and from
        where.
        """
        self._on_refusal = on_refusal
        self._guests: dict[Visit, None] = {}
        """The oldest first."""
        self._members: dict[NodeId, set[Visit]] = {}

    @property
    def guests(self) -> int:
        """How many have not proven that they are members."""
        return len(self._guests)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._guests) + sum(map(len, self._members.values()))

    def receive(self, host: str) -> Visit:
        """A new connection from that host, as a guest."""
        if len(self._guests) >= GUESTS_MAX:
            by_host = Counter(visit.host for visit in self._guests)
            most = max(by_host.values())
            oldest = next(visit for visit in self._guests if by_host[visit.host] == most)
            self._close(oldest, "too_many_guests")
        visit = Visit(trio.CancelScope(), host)
        self._guests[visit] = None
        return visit

    def admit(self, visit: Visit) -> bool:
        """The guest is a member: give it a place among those. False when it has to go."""
        if visit not in self._guests or visit.connection is None:
            return False  # it had to make room in this very moment
        peer = visit.connection.peer
        own = self._members.get(peer, set())
        reason, goes = "", None
        if len(own) >= PEER_MAX:
            reason, goes = "too_many_of_one", _longest_idle(own)
        elif sum(map(len, self._members.values())) >= MEMBERS_MAX:
            reason, goes = "too_many_members", self._least_needed(len(own))
        if reason and goes is None:
            self._on_refusal(reason, peer, visit.host)
            return False
        if goes is not None:
            self._close(goes, reason)
        del self._guests[visit]
        self._members.setdefault(peer, set()).add(visit)
        visit.is_member = True
        return True

    def _least_needed(self, own_count: int) -> Visit | None:
        biggest = max(self._members.values(), key=len)
        if len(biggest) > own_count + 1:
            return _longest_idle(biggest) or max(biggest, key=lambda visit: visit.since)
        return _longest_idle(visit for of_peer in self._members.values() for visit in of_peer)

    def leave(self, visit: Visit) -> None:
        """It is over, whoever ended it."""
        self._guests.pop(visit, None)
        if visit.is_member and visit.connection is not None:
            of_peer = self._members.get(visit.connection.peer, set())
            of_peer.discard(visit)
            if not of_peer:
                self._members.pop(visit.connection.peer, None)

    def shut_out(self, peer: NodeId) -> None:
        """Cut every connection of that key, also of a guest with it."""
        for visit in [*self._members.get(peer, ()), *self._guests]:
            if visit.connection is not None and visit.connection.peer == peer:
                visit.connection.cut()

    def _close(self, visit: Visit, reason: str) -> None:
        peer = visit.connection.peer if visit.connection is not None else None
        self._on_refusal(reason, peer, visit.host)
        self.leave(visit)
        visit.life.cancel()


def _longest_idle(visits: Iterable[Visit]) -> Visit | None:
    idle = (visit for visit in visits if not visit.is_busy)
    return min(idle, key=lambda visit: visit.since, default=None)


def host_of(stream: trio.SocketStream) -> str:
    """Who a connection comes from, as far as addresses tell: an IPv4 address, or an IPv6 network.

    Empty when the connection is gone already.
    """
    try:
        host = str(stream.socket.getpeername()[0]).partition("%")[0]
        address = ipaddress.ip_address(host)
    except (OSError, ValueError):
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _HOST_BITS_V6), strict=False))
