"""The one place for when a process reads what has come to its host's door."""

import random
from collections.abc import Callable

from simulations.chance import between
from simulations.host import Host
from simulations.timeline import Timeline


class Reading:
    """At once, late where the process is starved, and after waking where it is stopped."""

    def __init__(self, timeline: Timeline, rng: random.Random) -> None:
        self._timeline = timeline
        self._rng = rng

    def hand(self, host: Host, read: Callable[[], None]) -> None:
        """A message has come: `read` when its process does. A starved one reads in order."""
        if host.starved_ns is None:
            self._read(host, host.life, read)
            return
        now = self._timeline.now
        host.read_ns = max(host.read_ns, now + self.late_ns(host))
        self._timeline.at(host.read_ns - now, self._read, host, host.life, read)

    def late_ns(self, host: Host) -> int:
        """How late a starved process gets to something this time; 0 for any other."""
        if host.starved_ns is None:
            return 0
        return between(self._rng, host.starved_ns)

    def _read(self, host: Host, life: int, read: Callable[[], None]) -> None:
        if host.life != life:
            return
        if host.is_paused:
            host.backlog.append(read)
        else:
            read()
