"""The one place for hosts that share the processors of one machine, as daemons on loopback do.

Everything that a process does takes some time on a core, and while all cores are taken it waits.
Processes take turns, first come first served; in its turn each does what waits for it, in the order
in which it came, and what has come before what is due, as the daemon does. What a node asks for
leaves when the work is done. A `World` without this spends no time on anything.
"""

import dataclasses
import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from protocol.events import DeadlineReached, Event
from simulations.host import BACKLOG_MAX, Host
from simulations.world import World

BATCH: Final = 16
"""So much is done in one turn; the daemon's value."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Processors:
    """One machine, and what it costs a process to do things. Times in nanoseconds of one core."""

    cores: int
    turn_ns: int = 0
    """To be woken, and to look what has come."""
    event_ns: int = 0
    """More, for anything that is handled in this turn."""
    stream_ns: int = 0
    """More, for one end of one exchange: TCP, TLS, and reading what is all that somebody knows."""
    change_ns: int = 0
    """More, for each change of a member: its signatures, its lines in logs, who is told."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Work:
    """One thing that a process does: it takes so long, and this comes of it."""

    cost_ns: int
    act: Callable[[], None]


@dataclasses.dataclass(slots=True, eq=False)
class _Process:
    """What waits for one host's process."""

    waiting: deque[_Work] = dataclasses.field(default_factory=deque)
    is_due: bool = False
    """Its deadline has come."""
    is_busy: bool = False
    """It has a core, or stands in the queue for one."""
    life: int = 0


class BusyWorld(World):
    """A world whose hosts share a machine."""

    def __init__(
        self,
        size: int,
        seed: int,
        processors: Processors,
        **options: Any,  # noqa: ANN401  # as World
    ) -> None:
        """`options`: as of `World`. Raises ValueError for a machine without a core."""
        if processors.cores < 1:
            raise ValueError("a machine has at least one core")
        super().__init__(size, seed, **options)
        self._costs = processors
        self._free = processors.cores
        self._queue: deque[Host] = deque()
        self._acting: Host | None = None
        """Whose work is just done: what it is given now is part of it."""
        self._processes = [_Process() for _ in range(size)]
        self.busy_ns = [0] * size
        """Time that each host's process had a core."""

    def work(self, index: int, cost_ns: int, act: Callable[[], None]) -> None:
        """A process has something else to do, that takes so long, and what comes of it."""
        self._submit(self.hosts[index], _Work(cost_ns, act))

    def give(self, host: Host, event: Event) -> None:
        """As `World.give`, when the process gets to it."""
        if host is self._acting or host.node is None or host.is_paused:
            super().give(host, event)
        elif isinstance(event, DeadlineReached):
            self._submit(host, None)
        else:
            self._submit(
                host, _Work(self._costs.event_ns, functools.partial(self.give, host, event))
            )

    def hand(self, host: Host, read: Callable[[], None]) -> None:
        """As `World.hand`, when the process gets to it: these are messages on streams."""
        cost_ns = self._costs.event_ns + self._costs.stream_ns
        self._submit(host, _Work(cost_ns, functools.partial(super().hand, host, read)))

    def _submit(self, host: Host, work: _Work | None) -> None:
        """None: its deadline has come."""
        process = self._process(host)
        if work is None:
            process.is_due = True
        elif len(process.waiting) < BACKLOG_MAX:  # beyond, as in a full socket buffer
            process.waiting.append(work)
        if not process.is_busy:
            process.is_busy = True
            self._queue.append(host)
            self._fill_cores()

    def _process(self, host: Host) -> _Process:
        """What waits for it, and nothing that waited for a former life of it."""
        process = self._processes[host.index]
        if process.life != host.life:
            process.waiting.clear()
            process.is_due = False
            process.life = host.life
        return process

    def _fill_cores(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            self._begin(self._queue.popleft())

    def _begin(self, host: Host) -> None:
        """The next thing of a process that has got a core."""
        process = self._process(host)
        if not (process.waiting or process.is_due):
            self._end(host)
            return
        works = [process.waiting.popleft() for _ in range(min(BATCH, len(process.waiting)))]
        if not works:
            process.is_due = False
            works.append(_Work(self._costs.event_ns, functools.partial(self._be_due, host)))
        self._note_lag(host)
        cost_ns = self._costs.turn_ns + sum(work.cost_ns for work in works)
        self._spend(host, cost_ns, self._do, host, host.life, works)

    def _spend(self, host: Host, cost_ns: int, then: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401  # whatever it takes
        self.busy_ns[host.index] += cost_ns
        self.at(cost_ns, then, *arguments)

    def _do(self, host: Host, life: int, works: list[_Work]) -> None:
        """Its work is done; what changed by it has to be told and written."""
        told = len(self.changes)
        for work in works:
            if host.life == life:
                self._as_process(host, work.act)
        changes = len(self.changes) - told
        self._spend(host, changes * self._costs.change_ns, self._end, host)

    def _as_process(self, host: Host, act: Callable[[], None]) -> None:
        self._acting = host
        try:
            act()
        finally:
            self._acting = None

    def _be_due(self, host: Host) -> None:
        if host.node is not None and host.node.deadline <= host.time(self.now):
            super().give(host, DeadlineReached())
        else:  # what came before has done it
            self._arm(host)

    def _be_told(self, host: Host, word: Event) -> None:
        """In the turn that begins."""
        self._as_process(host, functools.partial(super().give, host, word))

    def _end(self, host: Host) -> None:
        """Its turn is over: whoever waits longest is next."""
        self._free += 1
        process = self._process(host)
        if process.waiting or process.is_due:
            self._queue.append(host)
        else:
            process.is_busy = False
        self._fill_cores()

    def _see_that_time_passes(self, host: Host, shown: int) -> None:
        """A deadline that has come waits for its turn: nothing is stuck."""
