"""The one place that turns DNS names of members into IP literals, never making gossip wait."""

import contextlib
import socket
from typing import Final

import trio

from protocol.identity import is_literal

NAMES_MAX: Final = 256
FRESH_S: Final = 60.0
LOOKUP_S: Final = 5.0


class Resolver:
    """A cache that is filled beside the one who asks: the first question is answered later."""

    def __init__(self, family: int = socket.AF_INET6) -> None:
        """`family` of the socket that will send: an IPv4 one has no use for other addresses."""
        self._family = socket.AF_INET if family == socket.AF_INET else socket.AF_UNSPEC
        self._known: dict[str, tuple[str, float]] = {}
        self._waiting: set[str] = set()
        """What is in the queue: a name that is asked for again and again keeps one place."""
        self._asked, self._questions = trio.open_memory_channel[str](NAMES_MAX)

    def literal(self, host: str) -> str | None:
        """The IP literal for `host`; None while it is unknown (ask again a little later)."""
        if is_literal(host):
            return host
        known = self._known.get(host)
        is_fresh = known is not None and trio.current_time() - known[1] <= FRESH_S
        if not is_fresh and host not in self._waiting:
            # A full queue of names: this one is asked for again with the next datagram.
            with contextlib.suppress(trio.WouldBlock):
                self._asked.send_nowait(host)
                self._waiting.add(host)
        return known[0] if known is not None else None

    async def run(self) -> None:
        """Look names up, one after another, until cancelled."""
        async for host in self._questions:
            with trio.move_on_after(LOOKUP_S):
                await self._look_up(host)
            self._waiting.discard(host)

    async def _look_up(self, host: str) -> None:
        try:
            found = await trio.socket.getaddrinfo(
                host, 0, family=self._family, type=socket.SOCK_DGRAM
            )
        except (OSError, UnicodeError):  # UnicodeError: no host can have that name
            return
        self._known.pop(host, None)
        if len(self._known) >= NAMES_MAX:
            del self._known[next(iter(self._known))]
        self._known[host] = (str(found[0][4][0]), trio.current_time())
