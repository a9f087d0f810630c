"""The one place for who may use a model's slots next, and who is refused, and why; pure.

One `Admission` is one model on one node. As many requests run as there are slots; the others wait
in four lanes, of which the first that is not empty goes first:

    interactive of the owner, interactive of others, batch of the owner, batch of others

The owner of a node is whoever it was invited for; he comes first, from whichever of his nodes he
asks. In a lane turns are fair, by tokens (`fair_queue.py`): certified nodes, then their API keys (a
higher priority of the same node first), then users. What a node says of keys and users only divides
its own share.

Batch requests wait for interactive ones, but not for ever: while both wait, one token of
BATCH_ONE_IN goes to batch requests; of others only when no interactive one of the owner waits.

A prompt costs its tokens and an answer its own. The first charge is an estimate (never
`max_tokens`: who leaves it large pays for what comes); it is put right when the prompt is counted,
as tokens flow beyond it, and at the end.

Of a full queue the newcomer is refused, or in its stead the last of a flow that holds more of it.
Nobody is left to wait in vain: who would wait longer than its deadline is told so at once.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Final

from protocol.config import MILLISECOND, SECOND
from protocol.fair_queue import FairQueue, Path
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.requester import ANYBODY, Requester
from protocol.service_times import ServiceTimes

QUEUE_MAX: Final = 64
"""Requests that wait for one model."""
BATCH_ONE_IN: Final = 16
PAUSE_NS: Final = 60 * SECOND
"""When one that was refused because of a pause may try again."""
RETRY_MS_MIN: Final = 100
RETRY_MS_MAX: Final = 3_600_000
UNKNOWN_RETRY_MS: Final = 1_000
"""While nothing is known of how long requests take."""
_LANES: Final = (0, 1, 2, 3)
_LANES_IF_BATCH_IS_DUE: Final = (2, 0, 3, 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A request as the serving node judges it."""

    node: NodeId
    """Who asks, as its certificate says."""
    is_owner: bool
    """It asks for the owner of this node."""
    requester: Requester = ANYBODY
    prompt_tokens: int
    """An estimate."""
    output_max: int | None = None

    @property
    def lane(self) -> int:
        """Which of the four."""
        return 2 * self.requester.is_batch + (not self.is_owner)

    @property
    def path(self) -> Path:
        """Whose share it uses."""
        requester = self.requester
        return (0, self.node), (int(requester.priority), requester.key), (0, requester.user)


class Reason(enum.StrEnum):
    """Why a request does not run."""

    QUEUE_FULL = "queue_full"
    WAIT_TOO_LONG = "wait_too_long"
    """Its deadline would pass before its turn."""
    EXPIRED = "expired"
    """Its deadline passed while it waited."""
    PAUSED = "paused"
    """The machine is kept for its owner at present."""
    UNAVAILABLE = "unavailable"
    """The model is gone."""
    LOADING = "loading"
    """The model is not in memory yet, and the request does not wait for that."""
    NO_ROOM = "no_room"
    """The model cannot be loaded now."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """It does not run, and nothing was done."""

    reason: Reason
    load: Load
    wait_ns: int | None
    """How long a request like this would wait; None: nothing is known yet."""
    retry_after_ms: int
    """When to ask again: for a full queue the time until a place is free, for a wait that is too
    long the time until it fits, both if nobody else comes.
    """


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """One request that waits or runs."""

    claim: Claim
    deadline_ns: int
    output_estimate: int
    prompt_tokens: int
    """An estimate until `note` tells the true number."""
    output_tokens: int = 0
    """So far."""
    charged: int = 0
    asked_ns: int
    computed_ns: int | None
    """How long it was thought to wait."""
    started_ns: int | None = None
    """None while it waits."""
    has_begun: bool = False
    """The runtime has taken it up, and spends work on it."""

    @property
    def cost(self) -> int:
        """Tokens, as far as they can be known now."""
        return self.prompt_tokens + max(self.output_tokens, self.output_estimate)

    @property
    def tokens_left(self) -> int:
        """That it will still need. Beyond the estimate, once more as much is as good a guess as any
        (of what ends by chance, the rest does not depend on how long it went on).
        """
        if self.output_tokens == 0:
            return self.cost
        left = self.output_estimate - self.output_tokens
        if left <= 0:
            left = self.output_estimate
            if self.claim.output_max is not None:
                left = min(left, self.claim.output_max - self.output_tokens)
        return max(0, left)


Decision = tuple[Ticket, Refusal | None]
"""A ticket may run now, or is refused after all."""


class Admission:
    """Turns at one model of one node. `now` is in nanoseconds of a clock that does not go back."""

    def __init__(self, slots: int, queue_max: int = QUEUE_MAX) -> None:
        self._slots = slots
        self._queue_max = queue_max
        self._lanes: tuple[FairQueue[Ticket], ...] = tuple(FairQueue() for _ in _LANES)
        self._running: dict[Ticket, None] = {}
        self._decided: list[Decision] = []
        self._times = ServiceTimes()
        self._batch_waits_for = 0
        """Tokens of interactive requests that go before the next batch one."""
        self._is_paused = False
        self._load_ns = 0
        """Until the model is loaded; 0: it is."""

    @property
    def load(self) -> Load:
        """What waits and runs by this admission."""
        return Load(sum(lane.waiting for lane in self._lanes), len(self._running), self._slots)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._running and not any(lane.waiting for lane in self._lanes)

    @property
    def has_owner(self) -> bool:
        """Whether a request of the owner's waits or runs."""
        waits = self._lanes[0].waiting or self._lanes[2].waiting
        return bool(waits) or any(ticket.claim.is_owner for ticket in self._running)

    def resize(self, slots: int, load_ns: int = 0) -> None:
        """So many run at a time from now on; who runs already is not stopped. 0: the model is
        gone, and nobody waits for it. `load_ns`: until it is loaded, about; 0: it is. Nobody
        runs before.
        """
        self._slots, self._load_ns = slots, load_ns
        if slots == 0:
            self._refuse_all(_LANES, Reason.UNAVAILABLE)

    def pause(self, *, is_paused: bool) -> None:
        """Keep the machine for its owner, or not any more: others are refused, those that wait
        already, too. Who runs is not stopped.
        """
        self._is_paused = is_paused
        if is_paused:
            self._refuse_all((1, 3), Reason.PAUSED)

    def give_up_loading(self) -> None:
        """The model cannot be loaded: who waits for that is refused."""
        self._refuse_all(_LANES, Reason.NO_ROOM)

    def _refuse_all(self, lanes: Sequence[int], reason: Reason) -> None:
        for lane in lanes:
            for ticket in [*self._lanes[lane].items()]:
                self._refuse(ticket, reason)

    # ---- coming, running, going ----

    def ask(self, claim: Claim, now: int, deadline: int) -> Ticket | Refusal:
        """A request comes. What `decide` tells then may hold its turn already."""
        if self._is_paused and not claim.is_owner:
            return self._refusal(Reason.PAUSED, None, PAUSE_NS)
        if self._slots == 0:
            return self._refusal(Reason.UNAVAILABLE, None, None)
        if self._load_ns and claim.requester.is_impatient:
            return self._refusal(Reason.LOADING, self._load_ns, self._load_ns)
        output = self._times.output_tokens
        if claim.output_max is not None:
            output = min(output, claim.output_max)
        cost = claim.prompt_tokens + output
        computed_ns = self._computed_ns(claim, cost)
        wait_ns = self._times.expected_ns(computed_ns) if computed_ns is not None else None
        if self._load_ns:
            computed_ns, wait_ns = None, self._load_ns + (wait_ns or 0)
        if wait_ns is not None and now + wait_ns > deadline:
            return self._refusal(Reason.WAIT_TOO_LONG, wait_ns, now + wait_ns - deadline)
        if self._is_full and not self._make_room(claim):
            return self._refusal(Reason.QUEUE_FULL, wait_ns, self._place_ns())
        if claim.requester.is_batch and not self._batch_waiting:
            self._batch_waits_for = (BATCH_ONE_IN - 1) * cost
        ticket = Ticket(
            claim=claim,
            deadline_ns=deadline,
            output_estimate=output,
            prompt_tokens=claim.prompt_tokens,
            asked_ns=now,
            computed_ns=computed_ns,
        )
        self._lanes[claim.lane].add(claim.path, ticket, cost)
        return ticket

    @property
    def _is_full(self) -> bool:
        waiting = sum(lane.waiting for lane in self._lanes)
        return waiting >= self._queue_max + max(0, self._slots - len(self._running))

    @property
    def _batch_waiting(self) -> int:
        return self._lanes[2].waiting + self._lanes[3].waiting

    def _make_room(self, claim: Claim) -> bool:
        """Refuse somebody who waits in a lane behind, or holds more of this one."""
        victim: Ticket | None = None
        for lane in _LANES[: claim.lane : -1]:
            if self._lanes[lane].waiting:
                victim = self._lanes[lane].last_item()
                break
        else:
            victim = self._lanes[claim.lane].victim(claim.path)
        if victim is not None:
            self._refuse(victim, Reason.QUEUE_FULL)
        return victim is not None

    def decide(self, now: int) -> list[Decision]:
        """Who may run now, and who is refused after all; to be asked after every change."""
        for lane in self._lanes:
            for late in [ticket for ticket in lane.items() if now >= ticket.deadline_ns]:
                self._refuse(late, Reason.EXPIRED)
        slots = 0 if self._load_ns else self._slots
        while len(self._running) < slots and (ticket := self._next()) is not None:
            ticket.started_ns = now
            if ticket.computed_ns:
                self._times.note_wait(ticket.computed_ns, now - ticket.asked_ns)
            self._running[ticket] = None
            self._settle(ticket, ticket.cost)
            self._decided.append((ticket, None))
        decided, self._decided = self._decided, []
        return decided

    def _next(self) -> Ticket | None:
        is_due = self._batch_waits_for <= 0
        for lane in _LANES_IF_BATCH_IS_DUE if is_due else _LANES:
            if self._lanes[lane].waiting:
                ticket = self._lanes[lane].take()
                break
        else:
            return None
        if not ticket.claim.requester.is_batch:
            self._batch_waits_for -= ticket.cost
        else:
            self._batch_waits_for = (BATCH_ONE_IN - 1) * ticket.cost
        return ticket

    def note(self, ticket: Ticket, *, prompt_tokens: int | None, output_tokens: int) -> None:
        """What is known now of one that runs: its prompt, if it was counted, and what came out."""
        ticket.has_begun = True
        if prompt_tokens is not None:
            ticket.prompt_tokens = prompt_tokens
        ticket.output_tokens = output_tokens
        self._settle(ticket, ticket.cost)

    def leave(self, ticket: Ticket, now: int, *, is_whole: bool = False) -> None:
        """One that waits or runs goes; `is_whole`: its answer came to its own end. One that was
        refused has gone already.
        """
        lane = self._lanes[ticket.claim.lane]
        if ticket not in lane:
            return
        if ticket.started_ns is not None:
            del self._running[ticket]
            spent = ticket.prompt_tokens + ticket.output_tokens if ticket.has_begun else 0
            self._settle(ticket, spent)
            if ticket.output_tokens:
                self._times.note(now - ticket.started_ns, spent)
            if is_whole:
                self._times.note_output(ticket.output_tokens)
        lane.leave(ticket)

    def _settle(self, ticket: Ticket, cost: int) -> None:
        if cost != ticket.charged:
            self._lanes[ticket.claim.lane].charge(ticket, cost - ticket.charged)
            ticket.charged = cost

    def place(self, ticket: Ticket) -> int:
        """Of one that waits: its place, from 1, as long as nobody else comes; 0 of any other."""
        if ticket.started_ns is not None or ticket not in self._lanes[ticket.claim.lane]:
            return 0
        before = sum(self._lanes[lane].waiting for lane in _LANES[: ticket.claim.lane])
        return before + self._lanes[ticket.claim.lane].place(ticket)

    # ---- refusing ----

    def _refuse(self, ticket: Ticket, reason: Reason) -> None:
        self._lanes[ticket.claim.lane].leave(ticket)
        retry_ns = PAUSE_NS if reason is Reason.PAUSED else self._place_ns()
        self._decided.append((ticket, self._refusal(reason, None, retry_ns)))

    def _refusal(self, reason: Reason, wait_ns: int | None, retry_ns: int | None) -> Refusal:
        retry_ms = UNKNOWN_RETRY_MS if retry_ns is None else -(-retry_ns // MILLISECOND)
        return Refusal(
            reason=reason,
            load=self.load,
            wait_ns=wait_ns,
            retry_after_ms=min(max(retry_ms, RETRY_MS_MIN), RETRY_MS_MAX),
        )

    # ---- estimates ----

    def _computed_ns(self, claim: Claim, cost: int) -> int | None:
        """How long a request that comes now waits for its turn, if nobody else comes."""
        free = self._slots - len(self._running)
        if free > 0 and not any(lane.waiting for lane in self._lanes):
            return 0
        ahead = sum(self._lanes[lane].work for lane in _LANES[: claim.lane])
        ahead += self._lanes[claim.lane].work_ahead(claim.path, cost)
        return self._times.wait_ns(self._left(), self._slots, ahead)

    def _place_ns(self) -> int | None:
        """How long until the next of those that wait has its turn."""
        return self._times.wait_ns(self._left(), self._slots, 0)

    def _left(self) -> list[int]:
        return [ticket.tokens_left for ticket in self._running]
