"""The one place for one machine at work: slots, the queue before them, and continuous batching.

Time passes in steps from event to event; between two events every running request goes on at a
constant speed (`machines.py` has the law). All in integers: what is left of a phase is counted in
thousandths of a token per second times nanoseconds; speeds are whole thousandths.
"""

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Final

from protocol.config import SECOND
from protocol.messages import Load
from simulations.inference.machines import Machine

_PER_TOKEN: Final = 1_000 * SECOND
"""Thousandths of a token per second, times nanoseconds, that make one token."""


@dataclasses.dataclass(slots=True, eq=False)
class Work:
    """One request as an engine sees it."""

    prompt_tokens: int
    output_tokens: int
    on_first: Callable[[], None]
    """Its first token is there."""
    on_done: Callable[[], None]
    """Its last one, too."""
    is_prefilling: bool = True
    left: int = 0
    """Of the present phase."""

    def __post_init__(self) -> None:
        self.left = self.prompt_tokens * _PER_TOKEN

    @property
    def emitted_tokens(self) -> int:
        """How many tokens have come out so far."""
        return 0 if self.is_prefilling else self.output_tokens - -(-self.left // _PER_TOKEN)


class Engine:
    """Runs the requests of one life of one machine."""

    def __init__(
        self,
        machine: Machine,
        *,
        at: Callable[[int, Callable[[], None]], None],
        now: Callable[[], int],
    ) -> None:
        """`at`: do something so many ns later; `now`: the time."""
        self._machine = machine
        self._at = at
        self._now = now
        self._running: dict[Work, None] = {}
        self._waiting: deque[Work] = deque()
        self._since_ns = now()
        self._turn = 0
        """Counts changes, so that an alarm that was set before one is none."""
        self._is_frozen = False
        self.busy_slot_ns = 0
        """Slots in use, added up over time."""

    @property
    def load(self) -> Load:
        """What it would tell gossip."""
        return Load(len(self._waiting), len(self._running), self._machine.slots)

    def submit(self, work: Work) -> bool:
        """Run it, or let it wait; False: the queue is full. First come, first served.

        This is the place for `protocol/admission.py` (classes, fair shares, the owner first).
        """
        if len(self._running) < self._machine.slots:
            self._pass_time()
            self._running[work] = None
            self._set_alarm()
            return True
        if len(self._waiting) >= self._machine.queue:
            return False
        self._waiting.append(work)
        return True

    def cancel(self, work: Work) -> None:
        """Nobody wants it any more: its slot, or its place in the queue, is free."""
        if work in self._running:
            self._pass_time()
            del self._running[work]
            self._fill()
            self._set_alarm()
        elif work in self._waiting:
            self._waiting.remove(work)

    def stop(self) -> None:
        """The process is gone, and all that it did."""
        self._pass_time()
        self._running.clear()
        self._waiting.clear()
        self._turn += 1

    def freeze(self) -> None:
        """The process stands still."""
        self._pass_time()
        self._is_frozen = True
        self._turn += 1

    def thaw(self) -> None:
        """The end of `freeze`: it goes on where it was."""
        self._since_ns = self._now()
        self._is_frozen = False
        self._set_alarm()

    def busy_until_now(self) -> int:
        """`busy_slot_ns` as of now."""
        self._pass_time()
        return self.busy_slot_ns

    def emitted(self, work: Work) -> int:
        """How many tokens of it have come out by now."""
        self._pass_time()
        return work.emitted_tokens

    # ---- time ----

    def _rates(self) -> tuple[int, int]:
        """Of each in prefill and each in decode."""
        prefilling = sum(work.is_prefilling for work in self._running)
        prefill = max(1, self._machine.prefill_milli // max(1, prefilling))
        return prefill, max(1, self._machine.decode_rate_milli(max(1, len(self._running))))

    def _pass_time(self) -> None:
        now = self._now()
        elapsed, self._since_ns = now - self._since_ns, now
        if elapsed <= 0 or self._is_frozen or not self._running:
            return
        self.busy_slot_ns += elapsed * len(self._running)
        prefill, decode = self._rates()
        for work in self._running:
            done = elapsed * (prefill if work.is_prefilling else decode)
            work.left = max(0, work.left - done)

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._machine.slots:
            self._running[self._waiting.popleft()] = None

    def _set_alarm(self) -> None:
        self._turn += 1
        if self._is_frozen or not self._running:
            return
        prefill, decode = self._rates()
        soonest = min(
            -(-work.left // (prefill if work.is_prefilling else decode)) for work in self._running
        )
        turn = self._turn
        self._at(soonest, lambda: self._ring(turn))

    def _ring(self, turn: int) -> None:
        """Some request has come to the end of its phase."""
        if turn != self._turn:
            return
        self._pass_time()
        told: list[Callable[[], None]] = []
        for work in [work for work in self._running if work.left == 0]:
            if work.is_prefilling:
                work.is_prefilling = False
                work.left = (work.output_tokens - 1) * _PER_TOKEN
                told.append(work.on_first)
            if work.left == 0:
                del self._running[work]
                told.append(work.on_done)
        self._fill()
        self._set_alarm()
        for tell in told:
            tell()
