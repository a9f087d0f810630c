"""The one place for what the control socket may ask about jobs: submit, list, show, cancel."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import trio

from meshd.control import Handler, Report, Streaming, argument
from meshd.failures import UserError
from meshd.tasks.driver import Driver
from meshd.tasks.jobs import DEADLINE_S_MAX, Job, Jobs, JobState
from meshd.tasks.live_job import LiveJob
from runtimes.functions.call import FunctionCall

if TYPE_CHECKING:
    from meshd.tasks.descriptor import JobDescriptor

WAITING_MAX: Final = 40
"""Submits that wait for their jobs; other commands still get in beside them."""
CANCEL_S: Final = 20.0


class JobCommands:
    """Handlers by name, for `serve_control`."""

    def __init__(self, driver: Driver, jobs: Jobs) -> None:
        self._driver = driver
        self._jobs = jobs
        self._waiting = 0

    def handlers(self) -> dict[str, Handler | Streaming]:
        """What may be asked."""
        return {
            "submit": Streaming(self.submit, timeout_s=DEADLINE_S_MAX + 60.0),
            "jobs": self.jobs,
            "job": self.job,
            "cancel": self.cancel,
        }

    async def submit(self, arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        """Begin a job, and unless `detach` tell how it goes on until its result.

        Who asked may go away: the job goes on.
        """
        is_detached = bool(arguments.get("detach"))
        if not is_detached and self._waiting >= WAITING_MAX:
            raise UserError(f"{WAITING_MAX} commands wait for their jobs already; use --detach")
        descriptor, call = await trio.to_thread.run_sync(_read, arguments.get("descriptor"))
        live = await self._driver.submit(descriptor, call)
        if is_detached:
            return {"job": live.job.id, "state": str(JobState.QUEUED)}
        self._waiting += 1
        try:
            return await self._outcome(live, report)
        finally:
            self._waiting -= 1

    async def _outcome(self, live: LiveJob, report: Report) -> Mapping[str, Any]:
        async for news in live.news():
            await report(news)
        job = live.job
        if job.state is not JobState.DONE:
            raise UserError(_why(job))
        return {
            "job": job.id,
            "state": str(job.state),
            "node": job.attempts[-1].node,
            "attempts": len(job.attempts),
            "log": job.log,
            "result": job.result,
        }

    async def jobs(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The jobs that were submitted here, the newest first, without their results."""
        del arguments
        return {"jobs": self._jobs.rows()}

    async def job(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """All of one job."""
        return await self._jobs.details(argument(arguments, "id", str))

    async def cancel(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stop a job, and wait until it is over."""
        job_id = argument(arguments, "id", str)
        live = self._driver.find(job_id)
        if live is None:
            state = self._jobs.row(job_id)["state"]
            raise UserError(f"job {job_id} is over already: {state}")
        live.scope.cancel()
        with trio.move_on_after(CANCEL_S):
            await live.over.wait()
        return {"job": job_id, "state": str(live.job.state)}


def _read(value: object) -> tuple["JobDescriptor", FunctionCall]:
    """What was submitted and the files that it names; blocks. Raises UserError."""
    # It brings pydantic: 11 MB and a tenth of a second that only a node with jobs shall pay, the
    # latter in this thread.
    from meshd.tasks.descriptor import read_call, read_descriptor

    descriptor = read_descriptor(value)
    return descriptor, read_call(descriptor)


def _why(job: Job) -> str:
    """One line about a job that is over and not done."""
    if job.state is JobState.CANCELLED or job.error is None:
        return f"job {job.id} was cancelled"
    return f"job {job.id} failed: {job.error['message']} ({job.error['code']})"
