"""The commands about jobs: what they ask the daemon, and what they print where."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from meshd.cli.app import run
from meshd.control import Report, Streaming
from meshd.failures import UserError
from meshd.home import Home
from tests.meshd.cli.running_daemon import Recorder, answering, daemon_on

DONE: Mapping[str, Any] = {
    "job": "j1",
    "state": "done",
    "node": "bert",
    "attempts": 2,
    "log": [],
    "result": {"count": 4, "largest": [2, 3]},
}
DETAILS: Mapping[str, Any] = {
    "id": "j1",
    "descriptor": {"function": "f", "arguments": {"limit": 3}},
    "submitted_at": "2026-01-01T10:00:00.000+00:00",
    "finished_at": "2026-01-01T10:00:01.000+00:00",
    "state": "done",
    "attempts": [
        {"node": "anna", "node_id": "a", "began_at": "", "state": "failed", "reason": "it is gone"},
        {"node": "bert", "node_id": "b", "began_at": "", "state": "done", "reason": ""},
    ],
    "result": [1, "two"],
    "log": ["printed\x1b[2J"],
    "error": None,
}
FAILED = {**DETAILS, "state": "failed", "error": {"code": "timeout", "message": "too late"}}


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    """A home for a played daemon."""
    return Home(tmp_path / "home")


@pytest.fixture
def job_file(tmp_path: pathlib.Path) -> pathlib.Path:
    """A job."""
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"function": "f", "inputs": {"a": "data", "b": "/abs"}}))
    return path


class Played:
    """A daemon's `submit`: reports, then answers or fails."""

    def __init__(self, outcome: Mapping[str, Any] | Exception) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._outcome = outcome

    async def __call__(self, arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        self.asked.append(arguments)
        await report({"job": "j1", "event": "queued"})
        await report({"job": "j1", "event": "placed", "node": "anna"})
        await report({"job": "j1", "event": "retrying", "reason": "gone\x1b[1m", "wait_s": 0.5})
        await report({"job": "j1", "event": "of a later version"})
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def _meshd(home: Home, *arguments: str) -> int:
    return run([*arguments, "--home", str(home.path)])


def test_submit_prints_the_result_and_nothing_else(
    home: Home, job_file: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result once on standard output; progress, made harmless, on standard error."""
    played = Played(DONE)
    with daemon_on(home, {"submit": Streaming(played)}):
        assert _meshd(home, "submit", str(job_file)) == 0
    output, errors = capsys.readouterr()
    assert json.loads(output) == DONE["result"]
    assert output.count("\n") == 1
    assert errors == "placed on anna\nretrying in 0.5 s: gone\N{REPLACEMENT CHARACTER}[1m\n"
    [asked] = played.asked
    assert asked["detach"] is False
    assert asked["descriptor"]["inputs"] == {"a": str(job_file.parent / "data"), "b": "/abs"}
    assert asked["descriptor"]["job_id"]


def test_submit_for_programs(
    home: Home, job_file: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json is the whole answer on one line."""
    with daemon_on(home, {"submit": Streaming(Played(DONE))}):
        assert _meshd(home, "submit", str(job_file), "--json") == 0
    assert json.loads(capsys.readouterr().out) == DONE


def test_submit_and_go(
    home: Home, job_file: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--detach prints the id."""
    played = Played({"job": "j1", "state": "queued"})
    with daemon_on(home, {"submit": Streaming(played)}):
        assert _meshd(home, "submit", str(job_file), "--detach") == 0
    assert capsys.readouterr().out == "j1\n"
    assert played.asked[0]["detach"] is True


def test_a_failed_job_is_one_line_and_exit_code_1(
    home: Home, job_file: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing on standard output."""
    with daemon_on(home, {"submit": Streaming(Played(UserError("job j1 failed: why")))}):
        assert _meshd(home, "submit", str(job_file)) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.splitlines()[-1] == "meshd: job j1 failed: why"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "give the path of a job's JSON file"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
        (b"[" * 50_000, "is not JSON"),
        (b"[]", "is no job"),
        (b'"' + b"x" * 70_000 + b'"', "use input files"),
    ],
)
def test_a_file_that_is_no_job(
    home: Home,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    words: str,
) -> None:
    """Found before any daemon is asked; one line that names the file."""
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    assert _meshd(home, "submit", str(path)) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert "bad.json" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["", ".", "nul\0", "x" * 5_000])
def test_what_is_no_readable_file_is_wrong_usage(
    home: Home, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A folder, an impossible name: one line with the mend, before any daemon is asked."""
    assert _meshd(home, "submit", name) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("meshd: cannot read ")
    assert "give the path of a job's JSON file, or - to type it" in errors
    assert errors.count("\n") == 1


def test_without_a_daemon(home: Home, job_file: pathlib.Path) -> None:
    """Each of them ends with 3."""
    for arguments in (["submit", str(job_file)], ["jobs"], ["job", "j1"], ["cancel", "j1"]):
        assert _meshd(home, *arguments) == 3


def test_jobs_are_listed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each; an empty list says how to begin."""
    row = {
        "id": "j1",
        "function": "f",
        "state": "failed",
        "node": None,
        "attempts": 3,
        "submitted_at": "2026-01-01T10:00:00.000+00:00",
        "finished_at": None,
        "error": {"code": "timeout", "message": "too late"},
    }
    with daemon_on(home, {"jobs": answering({"jobs": [row]})}):
        assert _meshd(home, "jobs") == 0
        [_, line] = capsys.readouterr().out.splitlines()
        assert " ".join(line.split()) == "j1 f failed - 3 2026-01-01 10:00:00 too late"
        assert _meshd(home, "jobs", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"jobs": [row]}
    with daemon_on(home, {"jobs": answering({"jobs": []})}):
        assert _meshd(home, "jobs") == 0
    assert "meshd submit" in capsys.readouterr().err


def test_a_job_is_shown(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Attempts with reasons, what was printed (harmless), the result; or the result alone."""
    with daemon_on(home, {"job": answering(DETAILS)}):
        assert _meshd(home, "job", "j1") == 0
        output = capsys.readouterr().out
        assert "anna: failed (it is gone)" in output
        assert "bert: done" in output
        assert "printed\N{REPLACEMENT CHARACTER}[2J" in output
        assert '[1, "two"]' in output
        assert _meshd(home, "job", "j1", "--result") == 0
        assert capsys.readouterr().out == '[1, "two"]\n'
        assert _meshd(home, "job", "j1", "--result", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"job": "j1", "result": [1, "two"]}
        assert _meshd(home, "job", "j1", "--json") == 0
        assert json.loads(capsys.readouterr().out) == DETAILS


def test_a_job_without_a_result(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for the result, it says why there is none."""
    with daemon_on(home, {"job": answering(FAILED)}):
        assert _meshd(home, "job", "j1") == 0
        assert "failed: too late (timeout)" in capsys.readouterr().out
        assert _meshd(home, "job", "j1", "--result") == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert "no result: failed: too late (timeout)" in errors


def test_a_job_is_cancelled(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """By its id."""
    recorder = Recorder({"job": "j1", "state": "cancelled"})
    with daemon_on(home, {"cancel": recorder}):
        assert _meshd(home, "cancel", "j1") == 0
    assert capsys.readouterr().out == "Job j1 is cancelled.\n"
    assert recorder.asked == [{"id": "j1"}]
