"""The one place for exchanges over simulated streams: one message, one answer, or a failure.

How an exchange fails says as much as in the daemon: a machine whose process is gone refuses at
once, one that is gone itself (or behind a cut) says nothing until the time-out.
"""

import dataclasses
from collections.abc import Callable

from protocol.config import MILLISECOND
from protocol.events import Event, StreamFailed, StreamFailure, StreamReceived
from simulations.host import Host
from simulations.network import Network


@dataclasses.dataclass(slots=True, eq=False)
class _Exchange:
    opener: Host
    opener_life: int
    target: Host
    is_answered: bool = False


class Streams:
    """Carries exchanges between hosts; `World` lends it time and the hosts' ears."""

    def __init__(
        self,
        network: Network,
        *,
        at: Callable[[int, Callable[[], None]], None],
        arrive: Callable[[Host, Callable[[], None]], None],
        give: Callable[[Host, Event], None],
        wall_s: Callable[[Host], int],
        now: Callable[[], int],
    ) -> None:
        """`at`: do something later; `arrive`: a process reads something as soon as it can."""
        self._network = network
        self._at = at
        self._arrive = arrive
        self._give = give
        self._wall_s = wall_s
        self._now = now
        self._number = 0
        self._exchanges: dict[int, _Exchange] = {}

    def open(self, opener: Host, target: Host, data: bytes) -> None:
        """Begin an exchange; the opener hears StreamReceived or StreamFailed, once."""
        self._number += 1
        number = self._number
        self._exchanges[number] = _Exchange(opener, opener.life, target)
        if self._network.is_unplugged(opener.index):
            self._at(0, lambda: self._fail(number, StreamFailure.OTHER))
            return
        timeout = self._network.options.stream_timeout_ns
        self._at(timeout, lambda: self._fail(number, StreamFailure.TIMED_OUT))
        if not self._network.lets_streams_in(target):
            return
        delay = self._network.stream_delay(opener, target, len(data), self._now())
        if delay is not None:
            self._at(delay, lambda: self._reach(number, data))

    def answer(self, number: int, data: bytes) -> None:
        """The target's one answer."""
        exchange = self._exchanges.get(number)
        if exchange is None or exchange.is_answered:
            return
        exchange.is_answered = True
        ways = (exchange.target, exchange.opener)
        delay = self._network.stream_delay(*ways, len(data), self._now())
        if delay is not None:
            self._at(delay, lambda: self._on_opener(number, lambda: self._end(number, data)))

    def reset(self, target: Host) -> None:
        """A process ended while its machine lives on: whoever waits for it is told. A cut
        connection is no evidence: a busy process cuts some, too.
        """
        for number, exchange in self._exchanges.items():
            if exchange.target is target and not exchange.is_answered:
                exchange.is_answered = True
                self._cut(number)

    # ---- at the target ----

    def _reach(self, number: int, data: bytes) -> None:
        exchange = self._exchanges.get(number)
        if exchange is None:
            return
        if exchange.target.node is not None:
            self._arrive(exchange.target, lambda: self._ask(number, data))
        elif not exchange.target.is_silent:
            self._refuse(number, 0)

    def _ask(self, number: int, data: bytes) -> None:
        exchange = self._exchanges.get(number)
        if exchange is None:
            return  # the opener gave up before the target read it
        asker = exchange.opener.crypto.node_id
        wall_s = self._wall_s(exchange.target)
        self._give(exchange.target, StreamReceived(number, asker, data, wall_s))
        if not exchange.is_answered:
            exchange.is_answered = True
            self._cut(number)

    def _cut(self, number: int) -> None:
        self._at(MILLISECOND, lambda: self._fail(number, StreamFailure.OTHER))

    # ---- at the opener ----

    def _refuse(self, number: int, delay: int) -> None:
        def refused() -> None:
            self._fail(number, StreamFailure.REFUSED)

        self._at(delay, lambda: self._on_opener(number, refused))

    def _on_opener(self, number: int, what: Callable[[], None]) -> None:
        exchange = self._exchanges.get(number)
        if exchange is not None and exchange.opener.life == exchange.opener_life:
            self._arrive(exchange.opener, what)

    def _end(self, number: int, data: bytes) -> None:
        exchange = self._exchanges.pop(number, None)
        if exchange is not None:
            target, wall_s = exchange.target.crypto.node_id, self._wall_s(exchange.opener)
            self._give(exchange.opener, StreamReceived(0, target, data, wall_s))

    def _fail(self, number: int, reason: StreamFailure) -> None:
        exchange = self._exchanges.pop(number, None)
        if exchange is not None and exchange.opener.life == exchange.opener_life:
            self._give(exchange.opener, StreamFailed(exchange.target.crypto.node_id, reason))
