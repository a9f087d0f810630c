"""The one place for one machine at work: slots, and continuous batching.

Whose turn it is, and who is refused, says `protocol/admission.py`, as in the daemon.

Time passes in steps from event to event; between two events every running request goes on at a
constant speed (`machines.py` has the law). All in integers: what is left of a phase is counted in
thousandths of a token per second times nanoseconds; speeds are whole thousandths.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Final

from protocol.admission import Admission, Claim, Reason, Refusal, Ticket
from protocol.config import SECOND
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.requester import Requester
from simulations.inference.machines import Machine

_PER_TOKEN: Final = 1_000 * SECOND
"""Thousandths of a token per second, times nanoseconds, that make one token."""
NOBODY: Final = NodeId(bytes(32))
PATIENT_NS: Final = 2**62


@dataclasses.dataclass(slots=True, eq=False)
class Work:
    """One request as an engine sees it."""

    prompt_tokens: int
    output_tokens: int
    on_first: Callable[[], None]
    """Its first token is there."""
    on_done: Callable[[], None]
    """Its last one, too."""
    on_refused: Callable[[Reason], None] = lambda reason: None
    """It waited, and does not run after all."""
    node: NodeId = NOBODY
    """Whose gateway asks."""
    user: int = 0
    is_owner: bool = True
    """It asks for the owner of this machine."""
    deadline_ns: int = PATIENT_NS
    is_prefilling: bool = True
    left: int = 0
    """Of the present phase."""
    started_ns: int = 0
    """When it had a slot."""
    first_ns: int = 0
    """When its first token was there."""

    def __post_init__(self) -> None:
        self.left = self.prompt_tokens * _PER_TOKEN

    @property
    def claim(self) -> Claim:
        """What the admission judges. The prompt's length is known, the answer's is not."""
        user = self.user.to_bytes(8, "big")
        return Claim(
            node=self.node,
            is_owner=self.is_owner,
            requester=Requester(user=user),
            prompt_tokens=self.prompt_tokens,
        )

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
        self._admission = Admission(machine.slots, machine.queue)
        self._tickets: dict[Work, Ticket] = {}
        self._works: dict[Ticket, Work] = {}
        self._since_ns = now()
        self._turn = 0
        """Counts changes, so that an alarm that was set before one is none."""
        self._is_frozen = False
        self.busy_slot_ns = 0
        """Slots in use, added up over time."""

    @property
    def load(self) -> Load:
        """What it would tell gossip."""
        return self._admission.load

    def submit(self, work: Work) -> Reason | None:
        """Run it, or let it wait; else why not."""
        self._pass_time()
        self._note_tokens()
        ticket = self._admission.ask(work.claim, self._now(), work.deadline_ns)
        if isinstance(ticket, Refusal):
            return ticket.reason
        self._tickets[work], self._works[ticket] = ticket, work
        for tell in self._decide():
            tell()
        return None

    def cancel(self, work: Work) -> None:
        """Nobody wants it any more: its slot, or its place in the queue, is free."""
        if work not in self._tickets:
            return
        self._pass_time()
        self._leave(work)
        for tell in self._decide():
            tell()

    def stop(self) -> None:
        """The process is gone, and all that it did."""
        self._pass_time()
        self._running.clear()
        self._tickets.clear()
        self._works.clear()
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

    def _note_tokens(self) -> None:
        for work in self._running:
            self._admission.note(
                self._tickets[work],
                prompt_tokens=work.prompt_tokens,
                output_tokens=work.emitted_tokens,
            )

    def _leave(self, work: Work) -> None:
        self._note_tokens()
        ticket = self._tickets.pop(work)
        del self._works[ticket]
        is_whole = work in self._running and work.left == 0 and not work.is_prefilling
        self._running.pop(work, None)
        self._admission.leave(ticket, self._now(), is_whole=is_whole)

    def _decide(self) -> list[Callable[[], None]]:
        """Take up whose turn it is; gives what those are to be told who do not run after all."""
        told: list[Callable[[], None]] = []
        for ticket, refusal in self._admission.decide(self._now()):
            work = self._works[ticket]
            if refusal is None:
                self._running[work] = None
                work.started_ns = self._now()
            else:
                del self._works[ticket], self._tickets[work]
                told.append(functools.partial(work.on_refused, refusal.reason))
        self._set_alarm()
        return told

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
                work.first_ns = self._now()
                work.left = (work.output_tokens - 1) * _PER_TOKEN
                told.append(work.on_first)
            if work.left == 0:
                self._leave(work)
                told.append(work.on_done)
        told += self._decide()
        for tell in told:
            tell()
