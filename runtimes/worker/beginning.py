"""The one place for how every worker process begins: its pipes, its lifeline, its first order."""

import signal
import sys
from typing import TypeVar

from runtimes.worker import lifeline
from runtimes.worker.framing import Codec
from runtimes.worker.pipe import EXIT_NONSENSE, Pipe, take_over_pipes

F = TypeVar("F")
Order = TypeVar("Order")


def begin(codec: Codec[F], kind: type[Order]) -> tuple[Pipe[F], Order]:
    """Take over the pipes, tie this process to its daemon, and wait for the first frame.

    It must be a `kind`; a daemon that sends anything else is not ours, and the process ends.
    """
    pipe = take_over_pipes(codec)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the daemon's business
    lifeline.tie_to_parent(int(sys.argv[1]))
    pipe.start()
    order = pipe.take(wait=True)[0]
    if not isinstance(order, kind):
        sys.exit(EXIT_NONSENSE)
    return pipe, order
