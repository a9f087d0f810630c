"""The one place that turns DNS names of members into IP literals, never making gossip wait."""

import contextlib
import ipaddress
import socket
from typing import Final

import trio

NAMES_MAX: Final = 256
FRESH_S: Final = 60.0
LOOKUP_S: Final = 5.0


class Resolver:
    """A cache that is filled beside the one who asks: the first question is answered later."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}
        self._asked, self._questions = trio.open_memory_channel[str](NAMES_MAX)

    def literal(self, host: str) -> str | None:
        """The IP literal for `host`; None while it is unknown (ask again a little later)."""
        if _is_literal(host):
            return host
        known = self._known.get(host)
        if known is None or trio.current_time() - known[1] > FRESH_S:
            # A full queue of names: this one is asked for again with the next datagram.
            with contextlib.suppress(trio.WouldBlock):
                self._asked.send_nowait(host)
        return known[0] if known is not None else None

    async def run(self) -> None:
        """Look names up, one after another, until cancelled."""
        async for host in self._questions:
            known = self._known.get(host)
            if known is not None and trio.current_time() - known[1] <= FRESH_S:
                continue
            with trio.move_on_after(LOOKUP_S):
                await self._look_up(host)

    async def _look_up(self, host: str) -> None:
        try:
            found = await trio.socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
        except OSError:
            return
        if len(self._known) >= NAMES_MAX:
            del self._known[next(iter(self._known))]
        self._known[host] = (str(found[0][4][0]), trio.current_time())


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
