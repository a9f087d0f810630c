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
from meshd.asking import TIME_IS_OVER, AttemptFailed
from meshd.attempting import FINAL_CODES, FULL_CODES, LOADING_CODE, Attempting
from meshd.candidates import Candidates
from meshd.choosing import Choosing, Timing
from meshd.continuing import Progress, RunUnfit
from meshd.failures import RequestFailed
from meshd.hedging import Run, first_to_begin, late_s
from meshd.story import Story, Try
from meshd.view import View
from meshd.watchdogs import contact_s
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
            run = await self._start(ranked)
            try:
                async with aclosing(self._passed(run)) as events:
                    async for event in events:
                        yield event
            except AttemptFailed as failure:
                self._judge(run, failure)
            finally:
                run.tried.ended_at = trio.current_time()

    # ---- one attempt ----

    async def _start(self, ranked: Sequence[Candidate]) -> Run:
        """An attempt at the best of them; or, where that is late to begin and the request is to be
        hedged, at the second one.
        """
        is_only_chance = len(ranked) == 1 and not self._progress.has_begun
        within_s = contact_s(ranked[0].distance_ns, is_only_chance=is_only_chance)
        run = self._run(ranked[0].node, within_s)
        if not self._options.may_hedge or self._progress.has_begun:
            return run
        demand = self._means.choosing.demand(self._request, self._options)
        after_s = late_s(ranked, demand)
        if after_s is None:
            return run
        runs = await first_to_begin(run, lambda: self._run(ranked[1].node, within_s), after_s)
        [best, *others] = sorted(runs, key=lambda each: not each.begun)
        for each in others:
            each.tried.ended_at = trio.current_time()
            if each.failure is None:
                each.tried.code, each.tried.reason = "overtaken", "another node began first"
            elif best.failure is not None:
                self._judge(each, each.failure)
            else:
                self._note(each, each.failure)
        return best

    def _run(self, node: NodeId, within_s: float) -> Run:
        """Ask one node; it must be reached `within_s`."""
        means, progress = self._means, self._progress
        tokens_before = progress.tokens if progress.has_begun else 0
        model = self._request.model
        events = means.attempting.run(
            node,
            progress.next_request(means.view.card(node, model)),
            self._options,
            deadline=self._deadline,
            speed=means.choosing.speed(node, model),
            contact_s=within_s,
        )
        tried = self._story.begin_try(node, trio.current_time(), tokens_before)
        return Run(node=node, tried=tried, events=events)

    async def _passed(self, run: Run) -> AsyncGenerator[GenerateEvent, None]:
        """What one node adds to the answer. Raises AttemptFailed."""
        progress, tried = self._progress, run.tried
        is_continuation = progress.has_begun
        progress.goes_on_with(self._means.view.card(run.node, self._request.model))
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
                    tried.first_at = now
                    self._serves(run.node, is_continuation=is_continuation)
                if isinstance(event, Chunk):
                    tried.tokens += len(event.token_ids)
                elif isinstance(event, Finished):
                    self._learn(run.node, tried, event, now)
                if progress.finished is not None:
                    self._story.done(progress.finished)
                for each in passed:
                    yield each

    def _serves(self, node: NodeId, *, is_continuation: bool) -> None:
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

    def _learn(self, node: NodeId, tried: Try, finished: Finished, now: float) -> None:
        assert tried.first_at is not None
        began_at = tried.asked_at if tried.started_at is None else tried.started_at
        timing = Timing(
            prompt_tokens=finished.prompt_tokens + tried.tokens_before,
            first_s=tried.first_at - began_at,
            output_tokens=finished.completion_tokens,
            rest_s=now - tried.first_at,
        )
        self._means.choosing.answered(node, self._request, timing)

    # ---- between attempts ----

    async def _next(self) -> Sequence[Candidate] | Finished:
        """Who may be asked now, best first, or the end if nobody is needed for it. Raises
        RequestFailed.
        """
        while True:
            ranking = self._means.candidates.rank(
                self._request, self._options, like=self._progress.like, tried=self._tried
            )
            self._story.note_ranking(ranking)
            ranked = ranking.ranked
            if any(failure.code == LOADING_CODE for _, failure in self._failures):
                ranked = [each for each in ranked if not each.load_ns]  # one loads it: enough
            if ranked:
                return ranked
            now = trio.current_time()
            if now >= self._deadline:
                raise RequestFailed("timeout", TIME_IS_OVER)
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
        node, has_given = run.node, run.tried.first_at is not None
        has_begun = self._progress.has_begun
        if failure.code == "timeout" or (failure.code in FINAL_CODES and not has_begun):
            raise RequestFailed(failure.code, failure.message) from failure
        self._means.choosing.failed(node, is_unreached=failure.is_unreached)
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

    def _note(self, run: Run, failure: AttemptFailed) -> None:
        run.tried.code, run.tried.reason = failure.code, failure.message
        log.info(
            "request.attempt_failed",
            request=self._options.request_id,
            node=self._means.view.name(run.node),
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
            message += " Such a server's answer cannot be continued elsewhere."
        elif self.answer.resumed >= CONTINUATIONS_MAX:
            message += f" It had been continued {self.answer.resumed} times before."
        elif others:
            message += f" Nobody could go on with it ({self._named(others)})."
        else:
            message += " No other node offers the very same model."
        return RequestFailed("interrupted", message.replace("..", "."))

    def _named(self, failures: list[tuple[NodeId, AttemptFailed]]) -> str:
        """What was tried, each node once, with what it said last."""
        last = {self._means.view.name(node): failure.message for node, failure in failures}
        named = [f"{name}: {message}" for name, message in last.items()]
        more = [f"and {len(named) - _REASONS_MAX} more"] if len(named) > _REASONS_MAX else []
        return "; ".join(named[:_REASONS_MAX] + more)
