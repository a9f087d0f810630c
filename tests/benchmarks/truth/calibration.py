"""The one place for what the simulator is told of real daemons on one machine.

What was measured was measured on 10 daemons, on two shared cores of an AMD EPYC; what was assumed
says so. Frozen since: nothing here may be fitted to a larger mesh, for that is what is predicted.
"""

from typing import Final

from protocol.config import MILLISECOND, SECOND
from simulations.latency import even
from simulations.network import NetworkOptions
from simulations.processors import Processors

_MICROSECOND: Final = 1_000

DELAY_NS: Final = (50_000, 300_000)
"""One way over loopback, from one process's send to the other's read. Assumed, not measured."""
LATE_NS: Final = (0, 3 * MILLISECOND)
"""How late a daemon gets to what it reads and to its timers. Assumed. In 11 deaths among 10 daemons
the 1,500 ms from the first suspicion to the first death were missed by a few ms at most.
"""
CONNECT_NS: Final = 3 * SECOND
"""A daemon's own limit for a connection that nobody answers (`meshd/peers.py`)."""
STARTED_NS: Final = 1_200 * MILLISECOND
"""From starting a process until its sockets are bound. Assumed; it comes between measurements."""

PROCESSORS: Final = Processors(
    cores=2,
    turn_ns=1_150 * _MICROSECOND,
    event_ns=250 * _MICROSECOND,
    stream_ns=6_600 * _MICROSECOND,
    change_ns=250 * _MICROSECOND,
)
"""For the join storm alone. Processor time from the scheduler (`/proc/PID/task/*/schedstat`), joins
of 10 daemons: until all saw all the seed took 0.17 to 0.23 s and a joiner 0.10 s; in the 3 s after
that each took 0.08 s, in which the simulator counts 54 events a node: 1.4 ms each. `event_ns` is
the part of it that does not go away when many come at once: 0.08 ms in `Node.handle` with real
keys, measured, the rest assumed for the sockets. `change_ns`: 0.14 ms a member in `Node.handle`,
measured, the rest assumed for its lines. `stream_ns` and the two below make the seed's and the
joiners' totals with 10 nodes come out; how they share it is assumed.
"""
ASK_NS: Final = 32 * MILLISECOND
"""A daemon's work from the command until its request to the seed is out."""
BEGIN_NS: Final = 32 * MILLISECOND
"""... and from the answer until it has started anew."""
TALK_NS: Final = 500 * _MICROSECOND
"""Round trips of a handshake over loopback. Assumed."""
OFFER_BYTES: Final = 120
"""What a daemon without a model states of its hardware."""


def loopback() -> NetworkOptions:
    """The network between daemons of one machine."""
    return NetworkOptions(delay=even(*DELAY_NS), stream_timeout_ns=CONNECT_NS)
