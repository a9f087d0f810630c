"""The one place for what the simulator is told of real daemons on one machine.

Measured once, on 10 daemons, with the case `death`; frozen since. Nothing here was fitted to a
larger mesh or to another case: those are what is predicted.
"""

from typing import Final

from protocol.config import MILLISECOND, SECOND
from simulations.latency import even
from simulations.network import NetworkOptions

DELAY_NS: Final = (50_000, 300_000)
"""One way over loopback, from one process's send to the other's read."""
LATE_NS: Final = (0, 3 * MILLISECOND)
"""How late a daemon gets to what it reads and to its timers."""
CONNECT_NS: Final = 3 * SECOND
"""A daemon's own limit for a connection that nobody answers (`meshd/peers.py`)."""
STARTED_NS: Final = 1_200 * MILLISECOND
"""From starting a process until its sockets are bound."""


def loopback() -> NetworkOptions:
    """The network between daemons of one machine."""
    return NetworkOptions(delay=even(*DELAY_NS), stream_timeout_ns=CONNECT_NS)
