"""The one place for the jobs that were submitted at this node: the newest thousand, on disk.

Each job is one file, replaced atomically when it is submitted and when it ends; in memory only
what a list shows is kept of those that are over. A job that was not over when the daemon stopped
has failed: what it did is not known.
"""

import dataclasses
import datetime
import enum
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
import trio

from meshd.failures import UserError
from meshd.home import Home

log = structlog.get_logger()

JOBS_MAX: Final = 1_000
LIVE_MAX: Final = 256
"""Jobs that are not over."""
DEADLINE_S_MAX: Final = 24 * 3600.0
ATTEMPTS_KEPT: Final = 32
FILE_BYTES_MAX: Final = 16 * 2**20
"""Arguments and a result of one MiB each, each character written as six."""
STOPPED: Final = {"code": "interrupted", "message": "the daemon stopped"}


class JobState(enum.StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclasses.dataclass(slots=True, kw_only=True)
class Attempt:
    """One node that was asked to run a job."""

    node: str
    """Its name."""
    node_id: str
    began_at: str
    state: str = "asked"
    """asked, running, done, failed or cancelled."""
    reason: str = ""
    """Why it failed."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Job:
    """One job and what became of it. Times are ISO 8601 in UTC."""

    id: str
    descriptor: Mapping[str, Any]
    """As submitted."""
    submitted_at: str
    finished_at: str | None = None
    state: JobState = JobState.QUEUED
    attempts: list[Attempt] = dataclasses.field(default_factory=list)
    """The newest ATTEMPTS_KEPT."""
    result: Any = None
    """A JSON value, when it is done."""
    log: tuple[str, ...] = ()
    """The last lines that the function printed."""
    error: Mapping[str, str] | None = None
    """`{"code", "message"}`, when it failed."""

    def begin_attempt(self, node: str, node_id: str) -> Attempt:
        """Note that a node is asked."""
        attempt = Attempt(node=node, node_id=node_id, began_at=timestamp())
        self.attempts.append(attempt)
        del self.attempts[:-ATTEMPTS_KEPT]
        return attempt

    def end(self, state: JobState) -> None:
        """Note that it is over."""
        self.state = state
        self.finished_at = timestamp()
        if self.attempts and self.attempts[-1].state in ("asked", "running"):
            self.attempts[-1].state = str(state)

    def row(self) -> dict[str, Any]:
        """What a list shows of it."""
        return {
            "id": self.id,
            "function": self.descriptor.get("function"),
            "state": str(self.state),
            "node": self.attempts[-1].node if self.attempts else None,
            "attempts": len(self.attempts),
            "submitted_at": self.submitted_at,
            "finished_at": self.finished_at,
            "error": self.error,
        }

    def to_json(self) -> dict[str, Any]:
        """All of it, as it is written down."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "state": str(self.state),
            "attempts": [dataclasses.asdict(attempt) for attempt in self.attempts],
        }


def timestamp() -> str:
    """Now."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class Jobs:
    """The table of jobs. Used from trio tasks of one thread."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._live: dict[str, Job] = {}
        self._rows: dict[str, Mapping[str, Any]] = {}
        """Of those that are over, the oldest first."""

    async def load(self) -> None:
        """Read what earlier runs left; what cannot be read is said and left alone."""
        self._rows = await trio.to_thread.run_sync(self._read_all)
        await self._forget_oldest()

    async def add(self, job: Job) -> None:
        """Take a new job in. Raises UserError: its id is taken, too many are not over."""
        taken = {name.casefold() for name in (*self._live, *self._rows)}  # files may ignore case
        if job.id.casefold() in taken:
            raise UserError(
                f"there is a job {job.id} already; choose another job_id, or leave it out"
            )
        if len(self._live) >= LIVE_MAX:
            raise UserError(f"{LIVE_MAX} jobs are not over yet; wait for some, or cancel them")
        self._live[job.id] = job
        await self._forget_oldest()
        await self._write(job)

    async def finish(self, job: Job) -> None:
        """Keep a job that is over."""
        assert job.state.is_over
        await self._write(job)
        del self._live[job.id]
        self._rows[job.id] = job.row()

    def rows(self) -> list[Mapping[str, Any]]:
        """What a list shows, the newest first."""
        rows = [*self._rows.values(), *(job.row() for job in self._live.values())]
        return sorted(rows, key=lambda row: str(row["submitted_at"]), reverse=True)

    async def details(self, job_id: str) -> Mapping[str, Any]:
        """All of one job. Raises UserError when there is none, or its file is unreadable."""
        if job_id in self._live:
            return self._live[job_id].to_json()
        if job_id not in self._rows:
            raise unknown_job(job_id)
        try:
            return await trio.to_thread.run_sync(_read, self._path(job_id))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self._path(job_id)}: {_why(error)}") from error

    def row(self, job_id: str) -> Mapping[str, Any]:
        """What a list shows of one job. Raises UserError when there is none."""
        if job_id in self._live:
            return self._live[job_id].row()
        if job_id not in self._rows:
            raise unknown_job(job_id)
        return self._rows[job_id]

    def _path(self, job_id: str) -> pathlib.Path:
        return self._home.jobs / f"{job_id}.json"

    async def _forget_oldest(self) -> None:
        too_many = len(self._live) + len(self._rows) - JOBS_MAX
        oldest = list(self._rows)[: max(0, too_many)]
        for job_id in oldest:
            del self._rows[job_id]
        paths = [self._path(job_id) for job_id in oldest]
        if paths:
            await trio.to_thread.run_sync(_unlink, paths)

    async def _write(self, job: Job) -> None:
        """A disk that is full is said and survived: who waits for the result still gets it."""
        content = job.to_json()
        try:
            with trio.CancelScope(shield=True):  # a moment, and half of it would be worth nothing
                await trio.to_thread.run_sync(self._write_file, job.id, content)
        except OSError as error:
            log.error("job.write_failed", job=job.id, reason=_why(error))

    def _write_file(self, job_id: str, content: Mapping[str, Any]) -> None:
        self._home.jobs.mkdir(mode=0o700, exist_ok=True)
        self._home.write(self._path(job_id), json.dumps(content).encode(), secret=True)

    def _read_all(self) -> dict[str, Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = []
        for path in self._home.jobs.glob("*.json"):
            try:
                row = self._read_row(path)
            except (OSError, ValueError) as error:
                log.warning("job.unreadable", file=str(path), reason=_why(error))
                continue
            rows.append(row)
        rows.sort(key=lambda row: str(row["submitted_at"]))
        return {str(row["id"]): row for row in rows}

    def _read_row(self, path: pathlib.Path) -> Mapping[str, Any]:
        content = _read(path)
        attempts = [Attempt(**attempt) for attempt in content["attempts"]]
        job = Job(**{**content, "attempts": attempts, "state": JobState(content["state"])})
        if job.id != path.stem:
            raise ValueError("it has another job's id")
        if not job.state.is_over:
            job.error = STOPPED
            job.end(JobState.FAILED)
            self._write_file(job.id, job.to_json())
        return job.row()


def unknown_job(job_id: str) -> UserError:
    """What to raise for an id that names no job."""
    return UserError(f"no job {job_id[:64]!a} was submitted here; see: meshd jobs")


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Raises OSError; ValueError for what is no job."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise ValueError("it is too large")
    try:
        content = json.loads(data)
        fields = {field.name for field in dataclasses.fields(Job)}
        if not isinstance(content, dict) or content.keys() != fields:
            raise ValueError("it is no job")
        if not isinstance(content["descriptor"], dict):
            raise ValueError("it is no job")
        for attempt in content["attempts"]:
            Attempt(**attempt)
    except (RecursionError, TypeError) as error:
        raise ValueError("it is no job") from error
    return content


def _unlink(paths: Sequence[pathlib.Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("job.not_removed", file=str(path), reason=_why(error))


def _why(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
