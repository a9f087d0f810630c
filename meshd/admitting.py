"""The one place where a request waits for its turn at this node's own models, whoever sent it.

This node's apps and its peers go the same way: `protocol/admission.py` says whose turn it is, then
the runtime runs it. No more are let through than the runtimes have slots, so the runtimes' own
queues stay empty and put nothing in order. Tokens are counted here as they flow, and how long they
take is measured for all who ask (`speed`).
"""

import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import structlog
import trio

from meshd.choosing import prompt_estimate
from meshd.local_models import LocalModels
from meshd.prefixes import HeldPrefixes
from meshd.waits import Waits
from protocol.admission import QUEUE_MAX, Admission, Claim, Reason, Refusal, Ticket
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.outlook import Outlook
from protocol.requester import Requester
from protocol.speeds import ServedSpeed, Speed
from runtimes import hardware
from runtimes.base import (
    Chunk,
    Finished,
    GenerateEvent,
    Request,
    RuntimeFailure,
    Started,
)
from runtimes.limits import check_request

log = structlog.get_logger()

OWNER_ACTIVE_S: Final = 60.0
"""After a request of his the owner is held to be at work for so long."""
WATCH_S: Final = 5.0
"""How often the battery is looked at, and whether the owner has gone."""
_SECOND: Final = 1_000_000_000
_LATE_S: Final = 0.001
"""A deadline is looked at when it has passed, not at the moment itself."""


OnServed = Callable[[NodeId, str, int, int, float], None]
"""(who asked, model, tokens of prompt and answer, seconds of a slot)."""


class NotAdmitted(RuntimeFailure):
    """A request does not run here now; the code is a `Reason`."""

    def __init__(self, refusal: Refusal, why: str = "") -> None:
        """`why`: what the models say of it."""
        super().__init__(refusal.reason, _words(refusal, why))
        self.retry_after_ms = refusal.retry_after_ms


async def _is_on_battery() -> bool:
    return await trio.to_thread.run_sync(hardware.is_on_battery, abandon_on_cancel=True)


@dataclasses.dataclass(slots=True, eq=False)
class _Turn:
    """What one ticket waits for."""

    decided: trio.Event = dataclasses.field(default_factory=trio.Event)
    refusal: Refusal | None = None


class Admitting:
    """Turns at all models of this node."""

    def __init__(
        self,
        models: LocalModels,
        is_owners: Callable[[NodeId], bool],
        on_served: OnServed | None = None,
        *,
        yields: bool = False,
        queue_max: int = QUEUE_MAX,
        on_battery: Callable[[], Awaitable[bool]] = _is_on_battery,
    ) -> None:
        """`is_owners`: whether a node is of the owner of this one; `on_served` hears of every
        request that has run, whole or not; `yields`: run nothing of others while the owner is at
        work or the machine runs on battery.
        """
        self._models = models
        self._is_owners = is_owners
        self._yields = yields
        self._queue_max = queue_max
        self._on_battery = on_battery
        self._on_served = on_served
        self._admissions: dict[str, Admission] = {}
        """By model: those that are offered, or have somebody waiting or running."""
        self._speeds: dict[str, ServedSpeed] = {}
        """By model, as it was measured while it was offered."""
        self.held = HeldPrefixes()
        """The prompts' beginnings that lie in the models."""
        self._turns: dict[Ticket, _Turn] = {}
        self._owner_until = 0.0
        self._is_on_battery = False

    @property
    def load(self) -> Load:
        """How busy the models are, with all who wait for a turn."""
        load = self._models.load
        waiting = sum(admission.load.queued for admission in self._admissions.values())
        return Load(load.queued + waiting, load.running, load.slots)

    @property
    def own_load(self) -> Load:
        """Requests that came to this node: without what its upstreams do for others."""
        loads = [admission.load for admission in self._admissions.values()]
        running = sum(load.running for load in loads)
        return Load(sum(load.queued for load in loads), running, self._models.load.slots)

    def speed(self, model: str) -> Speed | None:
        """How fast a model is here, as it is to be told: by its answers, else as it was tried out;
        None: nothing was measured yet.
        """
        measured = self._speeds.get(model)
        if measured is not None and measured.told is not None:
            return measured.told
        times = self._models.times(model)
        return None if times is None else Speed.of_times(times.prefill_ns, times.decode_ns)

    def has_speed_news(self) -> bool:
        """Whether some `speed` is another since the last time."""
        now, has_news = _now_ns(), False
        for measured in self._speeds.values():
            has_news |= measured.news(now) is not None
        return has_news

    def models_changed(self) -> None:
        """Slots or models may be others than before."""
        for model in self.held.models:
            if self._models.slots(model) == 0 or self._models.load_s(model) > 0:
                self.held.forget(model)
        for model in [*self._speeds]:
            if self._models.slots(model) == 0:
                del self._speeds[model]  # who comes under this name next may be another one
        for model, admission in [*self._admissions.items()]:
            slots = self._models.slots(model)
            self._resize(admission, model, slots)
            if self._models.refusal(model):
                admission.give_up_loading()
            self._decide(admission)
            if slots == 0 and admission.is_idle:
                del self._admissions[model]

    async def run(self) -> None:
        """Keep the machine for its owner when it shall be, until cancelled."""
        while self._yields:
            self._is_on_battery = await self._on_battery()
            self._pause()
            await trio.sleep(WATCH_S)

    async def generate(
        self,
        request: Request,
        node: NodeId,
        requester: Requester,
        deadline_s: float,
        waits: Waits | None = None,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Run a request of `node` when it is its turn; as `Runtime.generate`. Close it with
        `aclosing`. `waits` learns what it waits for. Raises RuntimeFailure, also NotAdmitted.
        """
        check_request(request)  # what can never run shall not wait first
        admission = self._admission(request.model)
        ticket = self._ask(admission, request, node, requester, deadline_s)
        count = _Count(continued_tokens=len(request.continued_ids))
        try:
            with self._models.wanted(request.model):
                with (waits or Waits()).told_by(
                    lambda: self._outlook(admission, ticket, request.model)
                ):
                    await self._wait(admission, ticket, request.model)
                runtime = self._models.find(request.model)
                if runtime is None:
                    raise _not_served(request.model)
                async with aclosing(runtime.generate(request)) as events:
                    async for event in events:
                        count.add(event, _now_ns())
                        admission.note(
                            ticket,
                            prompt_tokens=count.prompt_tokens,
                            output_tokens=count.output_tokens,
                        )
                        yields_at = _now_ns()
                        yield event
                        count.hold(_now_ns() - yields_at)
        finally:
            self._turns.pop(ticket, None)
            if self._on_served is not None and ticket.started_ns is not None and ticket.has_begun:
                seconds = (_now_ns() - ticket.started_ns) / _SECOND
                tokens = ticket.prompt_tokens, ticket.output_tokens
                self._on_served(node, request.model, *tokens, seconds)
            admission.leave(ticket, _now_ns(), is_whole=count.is_whole)
            self._measure(request.model, ticket, count)
            if count.is_whole:
                room = self._models.kept_tokens(request.model)
                self.held.note(request, count.prompt_tokens or 0, count.cached_tokens, room)
            if ticket.claim.is_owner:
                self._owner_until = trio.current_time() + OWNER_ACTIVE_S
            self._decide(admission)

    def _measure(self, model: str, ticket: Ticket, count: "_Count") -> None:
        """Learn from a whole answer how fast a model is."""
        began, first, end = ticket.started_ns, count.first_ns, count.end_ns
        if end is None or began is None or first is None or not self._models.slots(model):
            return
        self._speeds.setdefault(model, ServedSpeed()).note(
            prompt_tokens=(count.prompt_tokens or 0) - count.cached_tokens,
            prefill_ns=first - began,
            output_tokens=count.output_tokens,
            rest_ns=end - first,
            waited_ns=end - first - count.held_ns,
        )

    def _admission(self, model: str) -> Admission:
        slots = self._models.slots(model)
        if slots == 0:
            raise _not_served(model, self._models.refusal(model))
        admission = self._admissions.get(model)
        if admission is None:
            admission = self._admissions[model] = Admission(slots, self._queue_max)
        self._resize(admission, model, slots)
        return admission

    def _resize(self, admission: Admission, model: str, slots: int) -> None:
        admission.resize(slots, int(self._models.load_s(model) * _SECOND))

    def _ask(
        self,
        admission: Admission,
        request: Request,
        node: NodeId,
        requester: Requester,
        deadline_s: float,
    ) -> Ticket:
        claim = Claim(
            node=node,
            is_owner=self._is_owners(node),
            requester=requester,
            prompt_tokens=prompt_estimate(request) + len(request.continued_ids),
            output_max=request.max_tokens,
        )
        if claim.is_owner:
            self._owner_until = trio.current_time() + OWNER_ACTIVE_S
        if self._yields:
            self._pause()
        now = _now_ns()
        ticket = admission.ask(claim, now, now + int(deadline_s * _SECOND))
        if isinstance(ticket, Refusal):
            # For when it comes again: no load may fit into its deadline.
            is_cold = self._models.load_s(request.model) > 0
            if is_cold and ticket.reason in (Reason.LOADING, Reason.WAIT_TOO_LONG):
                with self._models.wanted(request.model):
                    pass
            raise NotAdmitted(ticket)
        self._turns[ticket] = _Turn()
        self._decide(admission)
        return ticket

    async def _wait(self, admission: Admission, ticket: Ticket, model: str) -> None:
        turn = self._turns[ticket]
        with trio.move_on_at(ticket.deadline_ns / _SECOND + _LATE_S):
            await turn.decided.wait()
        if not turn.decided.is_set():
            self._decide(admission)
        assert turn.decided.is_set(), "its deadline has passed"
        if turn.refusal is not None:
            raise NotAdmitted(turn.refusal, self._models.reason(model))

    def _outlook(self, admission: Admission, ticket: Ticket, model: str) -> Outlook:
        """What one that waits waits for."""
        place, standing = admission.place(ticket), self._models.loading(model)
        if standing is None:
            return Outlook(place=place)
        # While others have its room, nobody knows how long.
        ready_in_s = 0 if standing.reason else max(1, round(standing.ready_in_s))
        return Outlook(place=place, percent=int(100 * standing.share), ready_in_s=ready_in_s)

    def _decide(self, admission: Admission) -> None:
        for ticket, refusal in admission.decide(_now_ns()):
            turn = self._turns[ticket]
            turn.refusal = refusal
            turn.decided.set()

    def _pause(self) -> None:
        is_paused = self._is_on_battery or trio.current_time() < self._owner_until
        is_paused = is_paused or any(each.has_owner for each in self._admissions.values())
        for admission in self._admissions.values():
            admission.pause(is_paused=is_paused)
            self._decide(admission)


@dataclasses.dataclass(slots=True, kw_only=True)
class _Count:
    """Tokens of one request, as they become known. Of those of another run that it continues, the
    prefill is work as that of a prompt.
    """

    continued_tokens: int
    prompt_tokens: int | None = None
    output_tokens: int = 0
    cached_tokens: int = 0
    first_ns: int | None = None
    """When its first token was there."""
    end_ns: int | None = None
    """When it was whole."""
    held_ns: int = 0
    """Between the two, while its asker had not come back for more."""

    @property
    def is_whole(self) -> bool:
        return self.end_ns is not None

    def hold(self, ns: int) -> None:
        if self.first_ns is not None and not self.is_whole:
            self.held_ns += ns

    def add(self, event: GenerateEvent, now: int) -> None:
        """One more event. An upstream tells no ids: each piece counts as one until it ends."""
        if self.first_ns is None and not isinstance(event, Started):
            self.first_ns = now
        match event:
            case Started(ids):
                self.prompt_tokens = len(ids) + self.continued_tokens if ids else None
            case Chunk(ids, _):
                self.output_tokens += len(ids) or 1
            case Finished():
                self.prompt_tokens = event.prompt_tokens + self.continued_tokens
                self.output_tokens = event.completion_tokens
                self.cached_tokens = event.cached_tokens
                self.end_ns = now


def _now_ns() -> int:
    return int(trio.current_time() * _SECOND)


def _not_served(model: str, why: str = "") -> RuntimeFailure:
    because = f": {why}" if why else ""
    return RuntimeFailure("unavailable", f"this node does not serve {model[:100]!r} now{because}")


def _words(refusal: Refusal, why: str) -> str:
    load = refusal.load
    busy = f"{load.running} requests run and {load.queued} wait"
    wait = ""
    if refusal.wait_ns is not None:
        wait = f", and one more would wait {_seconds(refusal)} s"
    match refusal.reason:
        case Reason.PAUSED:
            return "its owner has it for himself at present"
        case Reason.UNAVAILABLE:
            return "its model is not loaded any more" + (f": {why}" if why else "")
        case Reason.LOADING:
            return f"its model has to be loaded first, which takes about {_seconds(refusal)} s"
        case Reason.NO_ROOM:
            return f"its model cannot be loaded now: {why or 'there is no room'}"
        case Reason.EXPIRED:
            return f"the deadline passed before its turn: {why or busy}"
        case Reason.WAIT_TOO_LONG:
            return f"{busy}{wait}, which is longer than its deadline allows"
        case Reason.QUEUE_FULL:
            return f"{busy}{wait}"


def _seconds(refusal: Refusal) -> int:
    return max(1, round((refusal.wait_ns or 0) / _SECOND))
