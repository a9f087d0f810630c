"""The one place for one request on its way: who is asked next, and what is done when one fails.

Until the first token has come, the next candidate is tried when one cannot be reached, refuses for
reasons of its own, or breaks. After it the answer is continued on another node that holds the very
same model, in the same stream. When nobody can, it ends with a typed failure that names what was
tried. Every wait ends with the request's deadline, with the death of the serving node, with a
watchdog, or with the app going away.
"""

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import structlog
import trio

from meshd.answer import Answer, RequestOptions
from meshd.asking import TIME_IS_OVER, TIMEOUT, AttemptFailed
from meshd.attempting import (
    FINAL_CODES,
    FULL_CODES,
    LOADING_CODE,
    TOO_LONG_CODE,
    Attempting,
)
from meshd.candidates import Candidates
from meshd.choosing import Choosing, Timing, prompt_tokens_max
from meshd.continuing import Progress, RunUnfit
from meshd.failures import RequestFailed
from meshd.hedging import Run, first_to_begin, late_after_s, late_s
from meshd.story import Story
from meshd.view import View
from meshd.watchdogs import contact_s
from protocol.expectation import Demand
from protocol.identity import NodeId, key_text
from protocol.routing import Candidate
from runtimes.base import Chunk, Finished, GenerateEvent, Request, Started

log = structlog.get_logger()

CONTINUATIONS_MAX: Final = 16
"""Of one answer: each costs a prefill of all that has come."""
PATIENCE_S: Final = 15.0
"""For an answer that has begun: a daemon or a worker that is restarted is back by then."""
BEGIN_PATIENCE_S: Final = 5.0
"""For one that has not: so long until it is settled which nodes live, and so long anew for each
that was reached and lost, up to PATIENCE_S in all. Refusals are passed on at once, so that the app
can do something else."""
LOOK_AFTER_S: Final = 0.25
"""The first pause between two rounds; twice as long each time ..."""
LOOK_AFTER_S_MAX: Final = 1.0
"""... up to this."""
_REASONS_MAX: Final = 8
"""Failed attempts that an error names."""


@dataclasses.dataclass(frozen=True, slots=True)
class Means:
    """What all requests of a node share."""

    view: View
    candidates: Candidates
    choosing: Choosing
    attempting: Attempting
    patience_s: float
    """How long an answer that broke off waits for who can go on with it; at most."""


class Forwarding:
    """One request, from its first attempt to its end."""

    def __init__(
        self,
        means: Means,
        request: Request,
        options: RequestOptions,
        story: Story,
        deadline: float,
    ) -> None:
        self._means = means
        self._request = request
        self._options = options
        self._story = story
        self._deadline = deadline
        self._progress = Progress(request)
        self._failures: list[tuple[NodeId, AttemptFailed]] = []
        """Since something came of the request."""
        self._ranked: Sequence[Candidate] = ()
        self._demand = Demand()
        """As they were ranked for it."""
        self._runs: list[Run] = []
        """Those under way, of the best of `_ranked`."""
        self._too_long_for: dict[NodeId, int] = {}
        """Who has said so of the prompt, and the context that it has."""
        self._tried: set[NodeId] = set()
        """Who is not asked in this round."""
        self._patient_until = 0.0
        self._lost_at: float | None = None
        """When the first one was lost, of those since something came."""
        self._pause_s = LOOK_AFTER_S
        self.answer = Answer(
            request_id=options.request_id, node_name="", node_id="", events=self.events()
        )
        """Who serves is told once somebody does."""

    async def events(self) -> AsyncGenerator[GenerateEvent, None]:
        """What the app gets: up to `Finished`. Raises RequestFailed."""
        while self._progress.finished is None:
            ranked = await self._next()
            if isinstance(ranked, Finished):
                self._story.done(ranked)
                yield ranked
                return
            self._ranked, self._runs = ranked, []
            try:
                run = await self._start()
                async with aclosing(self._passed(run)) as events:
                    try:
                        async for event in events:
                            yield event
                    except AttemptFailed as failure:
                        self._judge(run, failure)
            finally:
                self._end_runs()

    # ---- one attempt ----

    async def _start(self) -> Run:
        """An attempt at the best of them; or, where that is late to begin and the request is to be
        hedged, at the second one.
        """
        run = self._run(0)
        if not self._options.may_hedge or self._progress.has_begun:
            return run
        after_s = late_s(self._ranked, self._demand)
        if after_s is None:
            return run
        runs = await first_to_begin(run, lambda: self._run(1), after_s)
        [best, *others] = sorted(runs, key=lambda each: not each.begun)
        for each in others:
            each.tried.ended_at = trio.current_time()
            if each.failure is None:
                each.tried.code, each.tried.reason = "overtaken", "another node began first"
                self._note_if_late(each)
            elif best.failure is not None:
                self._judge(each, each.failure)
            else:
                self._note(each, each.failure)
                self._failed(each, each.failure)
        return best

    def _run(self, place: int) -> Run:
        """Ask one of the best of the candidates."""
        means, progress, candidate = self._means, self._progress, self._ranked[place]
        node, model = candidate.node, self._request.model
        tokens_before = progress.tokens if progress.has_begun else 0
        card = means.view.card(node, model)
        is_only_chance = len(self._ranked) == 1 and not progress.has_begun
        events = means.attempting.run(
            node,
            progress.next_request(card),
            self._options,
            deadline=self._deadline,
            speed=means.choosing.speed(node, model),
            contact_s=contact_s(candidate.distance_ns, is_only_chance=is_only_chance),
        )
        tried = self._story.begin_try(node, trio.current_time(), tokens_before)
        self._runs.append(Run(candidate=candidate, card=card, tried=tried, events=events))
        return self._runs[-1]

    async def _passed(self, run: Run) -> AsyncGenerator[GenerateEvent, None]:
        """What one node adds to the answer. Raises AttemptFailed."""
        progress, tried = self._progress, run.tried
        is_continuation = progress.has_begun
        progress.goes_on_with(run.card)
        async with aclosing(run.all()) as events:
            async for event in events:
                now = trio.current_time()
                try:
                    passed = progress.take(event)
                except RunUnfit as error:
                    raise AttemptFailed("unavailable", str(error)) from error
                if isinstance(event, Started):
                    tried.started_at = tried.started_at or now
                elif passed and tried.first_at is None:
                    tried.first_at, run.waited_s = now, 0.0
                    self._serves(run, is_continuation=is_continuation)
                if isinstance(event, Chunk):
                    tried.tokens += len(event.token_ids) or 1
                if progress.finished is not None:
                    self._learn(run, progress.finished, now)
                    self._story.done(progress.finished)
                for each in passed:
                    yield each

    def _end_runs(self) -> None:
        """Nothing more comes of those under way."""
        now = trio.current_time()
        for run in self._runs:
            run.tried.ended_at = run.tried.ended_at or now
            if run.tried.code in ("", TIMEOUT):
                self._note_if_late(run)

    def _note_if_late(self, run: Run) -> None:
        """One that gave nothing until it was late, and then nobody waited for it any more, has
        failed as one that says so: else who swallows requests would be asked first for ever.
        """
        if run.has_given:
            return
        late_s = late_after_s(self._ranked, self._runs.index(run), self._demand)
        if trio.current_time() - run.tried.asked_at >= late_s:
            self._means.choosing.failed(run.tried.node, self._request.model)

    def _serves(self, run: Run, *, is_continuation: bool) -> None:
        node = run.tried.node
        self._failures.clear()
        self._tried.clear()
        self._patient_until = 0.0
        self._lost_at = None
        self._pause_s = LOOK_AFTER_S
        self.answer.node_name = self._means.view.name(node)
        self.answer.node_id = key_text(node)
        self._means.choosing.begun(node, self._request)
        if is_continuation:
            self.answer.resumed += 1
            self._story.continuations += 1

    def _learn(self, run: Run, finished: Finished, now: float) -> None:
        tried, candidate = run.tried, run.candidate
        assert tried.first_at is not None
        began_at = tried.asked_at if tried.started_at is None else tried.started_at
        if candidate.has_slot:  # when it says that it begins is its own choice
            began_at = min(began_at, tried.asked_at + candidate.distance_ns / 1e9)
        timing = Timing(
            prompt_tokens=finished.prompt_tokens + tried.tokens_before,
            cached_tokens=finished.cached_tokens,
            held_tokens=candidate.held_tokens,
            first_s=max(0.0, tried.first_at - began_at),
            output_tokens=finished.completion_tokens - tried.tokens_before,
            rest_s=now - tried.first_at,
            waited_s=run.waited_s,
        )
        self._means.choosing.answered(tried.node, self._request, timing)

    # ---- between attempts ----

    async def _next(self) -> Sequence[Candidate] | Finished:
        """Who may be asked now, best first, or the end if nobody is needed for it. Raises
        RequestFailed.
        """
        while True:
            if self._progress.has_begun and (end := self._progress.end_of_text()) is not None:
                return end
            ranking = self._means.candidates.rank(
                self._request,
                self._options,
                like=self._progress.like,
                tried=self._tried,
                too_long_for=self._too_long_for,
            )
            self._story.note_ranking(ranking)
            ranked, self._demand = ranking.ranked, ranking.demand
            if any(failure.code == LOADING_CODE for _, failure in self._failures):
                ranked = [each for each in ranked if not each.load_ns]  # one loads it: enough
            if ranked:
                return ranked
            now = trio.current_time()
            if now >= self._deadline:
                raise RequestFailed(TIMEOUT, TIME_IS_OVER)
            if not self._failures and not self._patient_until:
                self._be_patient(BEGIN_PATIENCE_S)  # all are under suspicion
                continue
            if now >= self._patient_until:
                if not self._progress.has_begun:
                    raise self._nobody()
                finished = self._progress.end_as_far_as_known()
                if finished is None:
                    raise self._broken_off()
                return finished
            self._tried.clear()
            await trio.sleep_until(min(now + self._pause_s, self._patient_until))
            self._pause_s = min(2 * self._pause_s, LOOK_AFTER_S_MAX)

    def _judge(self, run: Run, failure: AttemptFailed) -> None:
        """Remember a failed attempt, and see whether there may be another. Raises RequestFailed."""
        self._note(run, failure)
        node, has_given = run.tried.node, run.tried.first_at is not None
        has_begun = self._progress.has_begun
        if failure.code == TOO_LONG_CODE and not has_begun:
            self._note_too_long(run, failure)
        if failure.code == TIMEOUT or (not has_begun and self._is_final(failure)):
            raise RequestFailed(failure.code, failure.message) from failure
        self._failed(run, failure)
        self._failures.append((node, failure))
        if has_given:
            self._be_patient(PATIENCE_S)
            is_over = self.answer.resumed >= CONTINUATIONS_MAX
            if is_over or not self._progress.can_continue:
                raise self._broken_off() from failure
        elif not has_begun and failure.is_lost:
            self._lost_at = self._lost_at or trio.current_time()
            if not self._patient_until or not failure.is_unreached:
                left_s = self._lost_at + PATIENCE_S - trio.current_time()
                self._be_patient(min(BEGIN_PATIENCE_S, left_s))
        is_only_cut_off = has_given and failure.is_lost and not failure.is_unreached
        if not is_only_cut_off or trio.current_time() >= self._patient_until:
            self._tried.add(node)

    def _is_final(self, failure: AttemptFailed) -> bool:
        """Whether every node would say the same of the request."""
        if failure.code != TOO_LONG_CODE:
            return failure.code in FINAL_CODES
        return not self._means.candidates.has_any(
            self._request, self._options, too_long_for=self._too_long_for
        )

    def _note_too_long(self, run: Run, failure: AttemptFailed) -> None:
        """Its context, and any that is no larger, is too small; unless that cannot be true."""
        context = run.card.context_tokens if run.card is not None else 0
        if context > prompt_tokens_max(self._request):
            failure.code = "unavailable"
        else:
            self._too_long_for[run.tried.node] = context

    def _failed(self, run: Run, failure: AttemptFailed) -> None:
        choosing, node = self._means.choosing, run.tried.node
        if failure.code == TOO_LONG_CODE:
            return
        if failure.is_refusal:
            choosing.refused(node)
        else:
            choosing.failed(node, self._request.model, is_unreached=failure.is_unreached)

    def _note(self, run: Run, failure: AttemptFailed) -> None:
        run.tried.code, run.tried.reason = failure.code, failure.message
        log.info(
            "request.attempt_failed",
            request=self._options.request_id,
            node=self._means.view.name(run.tried.node),
            code=failure.code,
            reason=failure.message,
            tokens=self._progress.tokens,
        )

    def _be_patient(self, seconds: float) -> None:
        until = trio.current_time() + min(seconds, self._means.patience_s)
        self._patient_until = min(until, self._deadline)

    def _nobody(self) -> RequestFailed:
        if not self._failures:
            return RequestFailed(
                "unavailable",
                f"The nodes that offer {self._request.model!r} do not answer at present.",
                retry_after_s=2.0,
            )
        codes = {failure.code for _, failure in self._failures}
        code = "queue_full" if codes & {*FULL_CODES} else "unavailable"
        code = LOADING_CODE if LOADING_CODE in codes else code
        tried = self._named(self._failures)
        told = [f.retry_after_s for _, f in self._failures if f.retry_after_s is not None]
        return RequestFailed(
            code,
            f"No node could take the request ({tried}).",
            retry_after_s=min(told, default=1.0),
        )

    def _broken_off(self) -> RequestFailed:
        """Why an answer that has begun does not become whole."""
        (node, failure), *others = self._failures
        message = f"The answer broke off on node {self._means.view.name(node)}: {failure.message}."
        if not self._progress.can_continue:
            message += " Such an answer cannot be continued elsewhere."
        elif self.answer.resumed >= CONTINUATIONS_MAX:
            message += f" It had been continued {self.answer.resumed} times before."
        elif others:
            message += f" Nobody could go on with it ({self._named(others)})."
        else:
            message += f" No other node {self._progress.who_goes_on}."
        return RequestFailed("interrupted", message.replace("..", "."))

    def _named(self, failures: list[tuple[NodeId, AttemptFailed]]) -> str:
        """What was tried, each node once, with what it said last."""
        last = {self._means.view.name(node): failure.message for node, failure in failures}
        named = [f"{name}: {message}" for name, message in last.items()]
        more = [f"and {len(named) - _REASONS_MAX} more"] if len(named) > _REASONS_MAX else []
        return "; ".join(named[:_REASONS_MAX] + more)
