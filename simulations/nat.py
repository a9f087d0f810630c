"""The one place for what address translators let through, by the classes of RFC 3489.

A host behind one has an address that others see; its translator keeps the way back open for a
while after each datagram out. Streams that others open never get in.
"""

import enum
from typing import Final

from protocol.config import SECOND
from protocol.identity import Address

KEPT_NS: Final = 30 * SECOND
"""So long after the last datagram to somebody his answers are let in (common home routers; RFC
4787 asks for two minutes)."""
_PORT_FIRST: Final = 20_000
_PORTS: Final = 40_000


class NatKind(enum.StrEnum):
    """Ever stricter."""

    FULL_CONE = "full_cone"
    """Whoever sends to the mapped address gets in, while it is kept for anybody."""
    RESTRICTED = "restricted"
    """Only hosts that were written to."""
    PORT_RESTRICTED = "port_restricted"
    """Only addresses that were written to."""
    SYMMETRIC = "symmetric"
    """The same, and each destination sees another port."""


class Nat:
    """One host's translator."""

    def __init__(self, kind: NatKind) -> None:
        self._kind = kind
        self._written_ns: dict[Address, int] = {}
        self._ports: dict[Address, int] = {}

    def send(self, own: Address, to: Address, now: int) -> Address:
        """A datagram leaves: the source that `to` will see."""
        if len(self._written_ns) > 4 * _PORTS:
            self._written_ns = {a: t for a, t in self._written_ns.items() if now - t <= KEPT_NS}
        self._written_ns[to] = now
        if self._kind is not NatKind.SYMMETRIC:
            return own
        port = self._ports.setdefault(to, _PORT_FIRST + len(self._ports) % _PORTS)
        return Address(own.host, port)

    def lets_in(self, own: Address, at: Address, source: Address, now: int) -> bool:
        """Whether a datagram from `source` to the mapped address `at` reaches the host."""
        match self._kind:
            case NatKind.FULL_CONE:
                latest_ns = max(self._written_ns.values(), default=-KEPT_NS - 1)
                return at == own and now - latest_ns <= KEPT_NS
            case NatKind.RESTRICTED:
                return at == own and any(
                    to.host == source.host and now - written <= KEPT_NS
                    for to, written in self._written_ns.items()
                )
            case _:
                written_ns = self._written_ns.get(source)
                if written_ns is None or now - written_ns > KEPT_NS:
                    return False
                port = self._ports.get(source, own.port)
                return at == Address(own.host, port)
