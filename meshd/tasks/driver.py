"""The one place for a job's whole story: this node places it, tries again elsewhere, keeps what
came of it.

    candidates (view) -> requirements -> rank (protocol.routing) -> own runner, or one peer by TASK

A node that refuses or cannot be reached has done nothing, and the next candidate is asked at once.
A crash, or the loss of a node that was at work, is one of the job's retries; so is a round in which
nobody could be asked. While every node is merely full, or one that fits is in doubt (a lost probe,
mostly refuted soon), the job waits, up to its deadline. What the job itself is to blame for (its
arguments, a function that raises) is final wherever it happened.

A job may thus have been run more than once, but it has one result.
"""

import json
import random
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from meshd.asking import Asking, AttemptFailed, nonsense
from meshd.payloads import BadPayload
from meshd.peers import Kind
from meshd.tasks.jobs import Attempt, Job, Jobs, JobState, timestamp
from meshd.tasks.live_job import LiveJob
from meshd.tasks.payloads import pack_call, unpack_returned
from meshd.view import View
from protocol.exchange import Accept, Ask, End
from protocol.identity import NodeId, key_text
from protocol.routing import Candidate, rank
from runtimes.base import RuntimeFailure
from runtimes.functions.call import FunctionCall, Returned, is_shallow
from runtimes.functions.runner import FunctionRunner, OnStart

if TYPE_CHECKING:  # it brings pydantic, which only a node with jobs needs in its memory
    from meshd.tasks.descriptor import JobDescriptor, Requirements

log = structlog.get_logger()

BACKOFF_S: Final = 0.5
"""Before the first retry; four times as long before each next one."""
BACKOFF_S_MAX: Final = 10.0
_FINAL_CODES: Final = ("bad_arguments", "failed", "timeout")
"""Failures that the job itself is to blame for, or that leave no time."""
_PEERS_CODES: Final = (
    "bad_arguments", "failed", "unknown_function", "queue_full", "unavailable", "crashed",
)  # fmt: skip
"""What a peer may say; anything else counts as `unavailable`."""
_IN_DOUBT: Final = "in_doubt"
"""Of a round: one that fits was under suspicion, and so not asked."""
_WAITING_CODES: Final = ("queue_full", _IN_DOUBT)
"""What is over by itself, and uses up no retry."""
_FUNCTIONS_SHOWN: Final = 8


class JobFailed(Exception):
    """A job will not be done."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Driver:
    """Drives the jobs that were submitted at this node."""

    def __init__(
        self,
        own: NodeId,
        view: View,
        functions: FunctionRunner,
        asking: Asking,
        jobs: Jobs,
        rng: random.Random,
    ) -> None:
        self._own = own
        self._view = view
        self._functions = functions
        self._asking = asking
        self._jobs = jobs
        self._rng = rng
        self._live: dict[str, LiveJob] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read what was submitted earlier, then drive jobs until cancelled."""
        await trio.to_thread.run_sync(self._functions.sweep)
        await self._jobs.load()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def submit(self, descriptor: "JobDescriptor", call: FunctionCall) -> LiveJob:
        """Begin a job. Raises UserError when it cannot be taken."""
        assert self._nursery is not None
        job = Job(
            id=descriptor.job_id or secrets.token_hex(4),
            descriptor=descriptor.model_dump(mode="json"),
            submitted_at=timestamp(),
        )
        live = LiveJob(job, descriptor, call)
        await self._jobs.add(live.job)
        self._live[live.job.id] = live
        live.tell("queued")
        self._nursery.start_soon(self._drive, live)
        return live

    def find(self, job_id: str) -> LiveJob | None:
        """A job that is not over."""
        return self._live.get(job_id)

    async def _drive(self, live: LiveJob) -> None:
        job = live.job
        with live.scope:
            try:
                job.result, job.log = await self._until_done(live)
            except JobFailed as failure:
                job.error = {"code": failure.code, "message": failure.message}
                job.end(JobState.FAILED)
            else:
                job.end(JobState.DONE)
        if live.scope.cancelled_caught:
            job.end(JobState.CANCELLED)
        log.info("job.over", job=job.id, state=str(job.state), **(job.error or {}))
        await self._jobs.finish(job)
        del self._live[job.id]
        live.end()

    async def _until_done(self, live: LiveJob) -> tuple[Any, tuple[str, ...]]:
        """Round after round; the result, and what was printed. Raises JobFailed."""
        retries = rounds = 0
        while True:
            try:
                return await self._round(live)
            except AttemptFailed as failure:
                if failure.code == "timeout" or trio.current_time() >= live.deadline:
                    message = f"it was not done within {live.descriptor.deadline_s:g} s"
                    raise JobFailed("timeout", message) from failure
                if failure.code in _FINAL_CODES:
                    raise JobFailed(failure.code, failure.message) from failure
                retries += failure.code not in _WAITING_CODES
                if retries > live.descriptor.retries:
                    times = "once" if retries == 1 else f"{retries} times"
                    raise JobFailed(
                        failure.code, f"tried {times}; the last time {failure.message}"
                    ) from failure
                wait_s = self._backoff_s(rounds)
                rounds += 1
                live.job.state = JobState.QUEUED
                live.tell("retrying", reason=failure.message, wait_s=round(wait_s, 2))
                await trio.sleep_until(min(trio.current_time() + wait_s, live.deadline))

    def _backoff_s(self, rounds: int) -> float:
        """Before the next round, when so many have been in vain before the last one."""
        wait_s = min(BACKOFF_S * 4.0 ** min(rounds, 8), BACKOFF_S_MAX)
        return wait_s * (1 + self._rng.random() / 2)

    async def _round(self, live: LiveJob) -> tuple[Any, tuple[str, ...]]:
        """Ask candidates, the best first and who has failed last, until one has begun. Raises
        AttemptFailed for the round; JobFailed.
        """
        fitting = self._candidates(live)
        is_in_doubt = not all(candidate.is_alive for candidate in fitting)
        last = AttemptFailed(_IN_DOUBT if is_in_doubt else "unavailable", _nobody(live.job))
        for candidate in sorted(rank(fitting, self._rng), key=lambda c: live.failures[c.node]):
            name = self._view.name(candidate.node)
            attempt = live.job.begin_attempt(name, key_text(candidate.node))
            live.tell("placed", node=name)
            try:
                with self._asking.counted(candidate.node):
                    returned = await self._attempt(live, candidate.node, attempt)
                    return _read_result(returned.result), returned.log
            except AttemptFailed as failure:
                has_begun = attempt.state == "running"
                attempt.state, attempt.reason = "failed", failure.message
                log.info("job.attempt_failed", job=live.job.id, node=name, code=failure.code)
                if failure.code in _FINAL_CODES:
                    raise
                live.failures[candidate.node] += 1
                failed = AttemptFailed(failure.code, f"on {name}: {failure.message}")
                if has_begun or failure.code == "crashed":
                    raise failed from failure
                if last.code not in _WAITING_CODES:
                    last = failed
                live.tell("refused", node=name, reason=failure.message)
        raise last

    def _candidates(self, live: LiveJob) -> list[Candidate]:
        """Who fits, those in doubt among them.

        Empty when the right ones have been lost. Raises AttemptFailed when the right one may be too
        new to have told, JobFailed when there never was one.
        """
        if not self._view.may_ask():
            raise JobFailed("bad_request", "this node's role does not let it ask")
        function, wanted = live.descriptor.function, live.descriptor.requirements
        having = self._view.function_candidates(function, self._asking.running)
        candidates = [c for c in having if self._fits(c.node, wanted)]
        if not candidates and not live.failures:
            code = "unavailable"
            message = f"no node that has {function!r} meets the job's requirements"
            if not having:
                shown = ", ".join(self._view.all_functions()[:_FUNCTIONS_SHOWN]) or "none"
                code, message = (
                    "unknown_function",
                    f"no node has the function {function!r}; the mesh has: {shown}",
                )
            kind = JobFailed if self._view.is_settled() else AttemptFailed
            raise kind(code, message)
        return candidates

    def _fits(self, node: NodeId, wanted: "Requirements") -> bool:
        if wanted.node is not None and node not in self._view.find(wanted.node):
            return False
        if wanted.tier_max is not None and self._view.tier(node) > wanted.tier_max:
            return False
        return wanted.labels.items() <= self._view.labels(node).items()

    # ---- one attempt ----

    async def _attempt(self, live: LiveJob, node: NodeId, attempt: Attempt) -> Returned:
        """Have one node run it. Raises AttemptFailed."""

        async def started() -> None:
            attempt.state = "running"
            live.job.state = JobState.RUNNING
            live.tell("running", node=attempt.node)

        left_s = max(0.001, live.deadline - trio.current_time())
        if node != self._own:
            ask = Ask(live.job.id, max(1, int(left_s * 1000)), pack_call(live.call))
            return await self._run_there(node, ask, started, live.deadline)
        with trio.CancelScope(deadline=live.deadline):
            try:
                return await self._functions.run(live.call, started, deadline_s=left_s)
            except RuntimeFailure as failure:
                raise AttemptFailed(failure.code, failure.message) from failure
        raise AttemptFailed("timeout", "its time is over")

    async def _run_there(
        self, node: NodeId, ask: Ask, started: OnStart, deadline: float
    ) -> Returned:
        frames = self._asking.ask(node, Kind.TASK, ask, _PEERS_CODES)
        async with aclosing(frames):
            while (frame := await self._asking.next(node, frames, deadline)) is not None:
                match frame:
                    case Accept():
                        await started()
                    case End(body):
                        try:
                            return unpack_returned(body)
                        except BadPayload as error:
                            raise nonsense(error) from error
        raise AttemptFailed("unavailable", "it ended without a result")


def _nobody(job: Job) -> str:
    """Why a round has nobody to ask."""
    lost = [attempt for attempt in job.attempts if attempt.reason]
    before = f" (before, on {lost[-1].node}: {lost[-1].reason})" if lost else ""
    return f"no node that may run it answered{before}"


def _read_result(result: bytes) -> Any:  # noqa: ANN401  # any JSON value
    """Raises AttemptFailed: neither a peer nor a function is believed."""
    try:
        value = json.loads(result, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise AttemptFailed("unavailable", "it sent a result that is no JSON") from error
    if not is_shallow(value):
        raise AttemptFailed("unavailable", "it sent a result that is nested too deep")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
