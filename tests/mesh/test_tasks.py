"""Jobs in a mesh of real daemons: placed, retried after a death, cancelled, remembered."""

import contextlib
import functools
import hashlib
import json
import pathlib
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from meshd.cli.children import command
from meshd.control_client import ask
from tests.helpers.daemons import Daemon, Daemons, environment, until, wait_state, wait_whole

pytestmark = pytest.mark.processes

SECONDS_LONG = {"limit": 600_000_000}
"""Long enough to be interrupted in the middle, short enough to be done again."""
PRIMES_BELOW = 31_324_703
ENDLESS = {"limit": 10**12}
WORKER = "runtimes.functions.worker"


@pytest.fixture(scope="module")
def three_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Three nodes without models; every test leaves all three running."""
    with Daemons(tmp_path_factory.mktemp("tasks")) as daemons:
        yield daemons.mesh({"anna": "none", "bert": "none", "cleo": "none"})
        daemons.check_logs()


@pytest.fixture
def three(three_of_module: list[Daemon]) -> list[Daemon]:
    """The same, whole and idle."""
    for daemon in three_of_module:
        if not daemon.is_running:
            daemon.launch().ready()
    wait_whole(three_of_module)
    until("all have told", lambda: all(d.status()["settled"] for d in three_of_module), 10.0)
    until("all is idle", lambda: not any(map(workers, three_of_module)), 10.0)
    return three_of_module


def workers(daemon: Daemon) -> list[psutil.Process]:
    """The processes of the jobs that run on a node."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):  # the daemon
        for child in psutil.Process(daemon.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if WORKER in child.cmdline():
                    found.append(child)
    return found


def written(daemon: Daemon, **job: object) -> str:
    """The file of a job, beside the daemon's home."""
    path = daemon.home.path.with_suffix(".job.json")
    path.write_text(json.dumps({"schema_version": "1.0", **job}))
    return str(path)


def submit(daemon: Daemon, **job: object) -> "subprocess.CompletedProcess[str]":
    """`meshd submit` to its end."""
    return daemon.cli("submit", written(daemon, **job), within_s=60.0)


def detach(daemon: Daemon, job_id: str, **job: object) -> None:
    """Submit and do not wait."""
    done = daemon.cli("submit", written(daemon, job_id=job_id, **job), "--detach")
    assert (done.returncode, done.stdout) == (0, f"{job_id}\n"), done.stderr


def shown(daemon: Daemon, job_id: str) -> dict[str, Any]:
    """All that a daemon knows of a job."""
    return ask(daemon.home, "job", id=job_id)


def running_on(daemon: Daemon, job_id: str) -> str:
    """Wait until a job runs; the name of its node."""

    def node() -> str:
        found = shown(daemon, job_id)
        return str(found["attempts"][-1]["node"]) if found["state"] == "running" else ""

    return until(f"{job_id} runs", node, 20.0)


def _is_gone(daemon: Daemon, worker: psutil.Process) -> bool:
    return worker not in workers(daemon)


def _is_idle(daemon: Daemon) -> bool:
    return not workers(daemon)


def test_a_job_runs_on_the_node_that_it_names(three: list[Daemon]) -> None:
    """Its result is the only thing on standard output; what happened is on standard error."""
    anna, *others = three
    for daemon in (*others, anna):
        done = submit(
            anna,
            function="meshd.primes",
            arguments={"limit": 1000},
            requirements={"node": daemon.name},
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["count"] == 168
        last = [f"placed on {daemon.name}", f"running on {daemon.name}"]
        assert done.stderr.splitlines()[-2:] == last


def test_a_file_travels_with_its_job(three: list[Daemon], tmp_path: pathlib.Path) -> None:
    """A path beside the job's file; the bytes arrive as they are, and nothing of them stays."""
    anna, bert, _ = three
    content = b"two words\n" * 1000 + b"\xff\x00 no end"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text").write_bytes(content)
    job = {
        "function": "meshd.word_count",
        "inputs": {"file": "data/text"},
        "requirements": {"node": "bert"},
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    result = anna.cli_json("submit", str(tmp_path / "job.json"))
    assert result["node"] == "bert"
    assert result["result"] == {
        "lines": 1000,
        "words": 2003,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert list(bert.home.scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        ({"function": "meshd.prime"}, 1, ["no node has", "'meshd.prime'", "meshd.primes"]),
        ({"function": "meshd.primes"}, 1, ["bad_arguments", "'limit'"]),
        ({"function": "meshd.primes", "arguments": {"limit": "9"}}, 1, ["bad_arguments"]),
        ({"function": "meshd.primes", "arguments": {"limit": -1}}, 1, ["(failed)", "limit"]),
        (
            {"function": "meshd.word_count", "arguments": {"file": "/etc/hostname"}},
            1,
            ["bad_arguments", "input file"],
        ),
        ({"function": "meshd.word_count", "inputs": {"file": "none"}}, 1, ["no file", "none"]),
        (
            {"function": "meshd.primes", "requirements": {"node": "emil"}},
            1,
            ["meets the job's requirements"],
        ),
        (
            {"function": "meshd.primes", "requirements": {"labels": {"gpu": "yes"}}},
            1,
            ["meets the job's requirements"],
        ),
        ({"function": "meshd.primes", "argument": {}}, 2, ["'argument'", "'arguments'"]),
        ({"function": "meshd.primes", "schema_version": "9"}, 2, ["schema_version"]),
        ({"functions": "meshd.primes"}, 2, ["did you mean 'function'"]),
    ],
)
def test_a_job_that_cannot_be_done_says_why_in_one_line(
    three: list[Daemon], job: dict[str, object], code: int, words: list[str]
) -> None:
    """Unknown functions, bad arguments, unmet requirements and wrong keys: no retry, no result."""
    done = submit(three[0], **job)
    assert (done.returncode, done.stdout) == (code, "")
    assert "retrying" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("meshd: ")
    assert all(word in last for word in words), last


def test_a_killed_node_costs_nothing_but_time(three: list[Daemon]) -> None:
    """kill -9 of the node that runs it: done by another, and the result is printed once."""
    anna, *others = three
    with ThreadPoolExecutor(1) as pool:
        # anna is kept busy, so that the job goes to another.
        detach(
            anna,
            "busy",
            function="meshd.primes",
            arguments=ENDLESS,
            requirements={"node": "anna"},
        )
        running_on(anna, "busy")
        job = {"job_id": "killed", "function": "meshd.primes", "arguments": SECONDS_LONG}
        answer: Future[subprocess.CompletedProcess[str]] = pool.submit(lambda: submit(anna, **job))
        until("it is submitted", lambda: "killed" in _ids(anna), 10.0)
        name = running_on(anna, "killed")
        [victim] = [daemon for daemon in others if daemon.name == name]
        victim.kill()
        done = answer.result(60.0)
    anna.cli("cancel", "busy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["count"] == PRIMES_BELOW
    attempts = shown(anna, "killed")["attempts"]
    assert [attempt["state"] for attempt in attempts] == ["failed", "done"]
    assert attempts[0]["node"] == name != attempts[1]["node"]
    assert "retrying in" in done.stderr


def _ids(daemon: Daemon) -> set[str]:
    return {row["id"] for row in ask(daemon.home, "jobs")["jobs"]}


def test_a_crash_is_tried_again(three: list[Daemon]) -> None:
    """The job's process is killed, its node is not: begun again, and said why."""
    anna, bert, _ = three
    with ThreadPoolExecutor(1) as pool:
        job = {
            "job_id": "crashed",
            "function": "meshd.primes",
            "arguments": SECONDS_LONG,
            "requirements": {"node": "bert"},
        }
        answer = pool.submit(lambda: submit(anna, **job))
        until("it is submitted", lambda: "crashed" in _ids(anna), 10.0)
        running_on(anna, "crashed")
        [worker] = workers(bert)
        worker.kill()
        done = answer.result(60.0)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] == PRIMES_BELOW
    assert "killed by SIGKILL" in done.stderr
    assert len(shown(anna, "crashed")["attempts"]) == 2


def test_a_job_that_always_crashes_fails_in_the_end(three: list[Daemon]) -> None:
    """No more than its retries, and an error that says what happened last."""
    anna, bert, _ = three
    detach(
        anna,
        "doomed",
        function="meshd.primes",
        arguments=ENDLESS,
        requirements={"node": "bert"},
        retries=1,
    )
    for _ in range(2):
        [worker] = until("it runs", lambda: workers(bert), 10.0)
        worker.kill()
        worker.wait(10.0)
        until("it is gone", functools.partial(_is_gone, bert, worker), 10.0)
    until("it has failed", lambda: shown(anna, "doomed")["state"] == "failed", 10.0)
    error = shown(anna, "doomed")["error"]
    assert error["code"] == "crashed"
    assert "tried 2 times" in error["message"]


def test_cancel_frees_the_far_slot(three: list[Daemon]) -> None:
    """The process on the other node is gone, its slot is free, and there is no result."""
    anna, bert, _ = three
    where = {"node": "bert"}
    detach(anna, "long", function="meshd.primes", arguments=ENDLESS, requirements=where)
    running_on(anna, "long")
    assert bert.status()["tasks"]["running"] == 1
    done = anna.cli("cancel", "long")
    assert (done.returncode, done.stdout) == (0, "Job long is cancelled.\n")
    until("bert is idle", lambda: bert.status()["tasks"]["running"] == 0, 15.0)
    assert not workers(bert)
    refused = anna.cli("job", "long", "--result")
    assert refused.returncode == 1
    assert "no result: cancelled" in refused.stderr
    again = anna.cli("cancel", "long")
    assert again.returncode == 1
    assert "over already" in again.stderr


def test_ctrl_c_cancels_the_job(three: list[Daemon]) -> None:
    """Who interrupts `meshd submit` wants no result any more."""
    anna, bert, _ = three
    job = written(anna, function="meshd.primes", arguments=ENDLESS, requirements={"node": "bert"})
    with subprocess.Popen(
        [*command(), "submit", job, "--home", str(anna.home.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as waiting:
        until("it runs", lambda: bert.status()["tasks"]["running"] == 1, 20.0)
        waiting.send_signal(signal.SIGINT)
        output, _ = waiting.communicate(timeout=20.0)
    assert (waiting.returncode, output) == (130, b"")
    until("bert is idle", lambda: bert.status()["tasks"]["running"] == 0, 15.0)


def test_a_full_node_is_waited_for(three: list[Daemon]) -> None:
    """More jobs than slots: they wait for their turn, and all are done."""
    anna, *_ = three
    for number in range(6):
        detach(
            anna,
            f"queued{number}",
            function="meshd.primes",
            arguments={"limit": number},
            requirements={"node": "bert"},
        )

    def states() -> set[str]:
        return {row["state"] for row in ask(anna.home, "jobs")["jobs"] if "queued" in row["id"]}

    until("all are done", lambda: states() == {"done"}, 30.0)


def test_a_deadline_ends_a_job(three: list[Daemon]) -> None:
    """Here and elsewhere: a clear error in time, and no process is left."""
    anna, bert, _ = three
    for node in (anna, bert):
        done = submit(
            anna,
            function="meshd.primes",
            arguments=ENDLESS,
            requirements={"node": node.name},
            deadline_s=1,
        )
        assert done.returncode == 1
        assert "not done within 1 s" in done.stderr
        until("its process is gone", functools.partial(_is_idle, node), 15.0)


def test_results_survive_a_restart(three: list[Daemon]) -> None:
    """What is done stays done; what ran when its daemon was killed has failed, and says so."""
    anna, bert, _ = three
    primes: dict[str, object] = {"function": "meshd.primes", "requirements": {"node": "bert"}}
    detach(anna, "kept", arguments={"limit": 10}, **primes)
    until("it is done", lambda: shown(anna, "kept")["state"] == "done", 10.0)
    detach(anna, "lost", arguments=ENDLESS, **primes)
    running_on(anna, "lost")
    anna.kill()
    until("bert has stopped working for it", lambda: not workers(bert), 15.0)
    anna.launch().ready()
    wait_state(three, "anna", "alive", 15.0)
    assert anna.cli_json("job", "kept", "--result")["result"]["count"] == 4
    assert shown(anna, "lost")["error"]["message"] == "the daemon stopped"
    listed = {row["id"]: row["state"] for row in anna.cli_json("jobs")["jobs"]}
    assert (listed["kept"], listed["lost"]) == ("done", "failed")
    assert {row["id"] for row in anna.get("/mesh/v1/jobs")["jobs"]} == listed.keys()
    repeated = anna.cli("submit", written(anna, job_id="kept", **primes))
    assert repeated.returncode == 1
    assert "there is a job kept already" in repeated.stderr


def test_a_daemon_with_jobs_stops_in_time(three: list[Daemon]) -> None:
    """SIGTERM, with its own job on another node and another's job on itself: 0, and no process."""
    anna, bert, _ = three
    for node in (anna, bert):
        where = {"node": node.name}
        job = {"function": "meshd.primes", "arguments": ENDLESS, "requirements": where}
        detach(anna, f"on-{node.name}", **job)
        running_on(anna, f"on-{node.name}")
    processes = [*workers(anna), *workers(bert)]
    assert len(processes) == 2
    assert anna.stop() == 0
    for process in processes:
        process.wait(5.0)


def test_no_job_outlives_its_daemon(three: list[Daemon]) -> None:
    """kill -9 of the node that runs a job ends the job's process, and the next start tidies up."""
    anna, bert, _ = three
    where = {"node": "bert"}
    job = {"function": "meshd.primes", "arguments": ENDLESS, "requirements": where, "retries": 0}
    detach(anna, "orphan", **job)
    running_on(anna, "orphan")
    [worker] = workers(bert)
    bert.kill()
    worker.wait(5.0)
    assert list(bert.home.scratch.iterdir()) != []
    until("the job is lost", lambda: shown(anna, "orphan")["state"] == "failed", 15.0)
    bert.launch().ready()
    assert not bert.home.scratch.exists()
