"""One process per job: what comes of functions that work, fail, crash, hang or lie."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import trio
import trio.testing

from runtimes.base import Load, RuntimeFailure
from runtimes.functions.call import INPUT_BYTES_MAX, RESULT_BYTES_MAX, FunctionCall
from runtimes.functions.runner import FunctionRunner
from tests.runtimes.functions.running import (
    TIMEOUT_S,
    call,
    make_runner,
    nothing,
    result_of,
    run,
)


@pytest.fixture
def runner(tmp_path: pathlib.Path) -> FunctionRunner:
    """A runner with one slot."""
    return make_runner(tmp_path / "scratch")


def failure_of(runner: FunctionRunner, what: FunctionCall) -> RuntimeFailure:
    """How a call fails; whatever it is, nothing of it stays."""
    with pytest.raises(RuntimeFailure) as failed:
        trio.run(run, runner, what)
    assert runner.load == Load(queued=0, running=0, slots=1)
    assert "\n" not in failed.value.message
    return failed.value


def test_arguments_go_in_and_a_result_comes_out(runner: FunctionRunner) -> None:
    """Every JSON value arrives as it was sent, both ways."""
    values: dict[str, Any] = {"a": [1, 2.5, None, True], "b": {"ü": "\u2028"}, "c": "", "d": 2**70}
    assert result_of(runner, call("echo", **values)) == values


def test_files_come_as_paths_and_vanish(runner: FunctionRunner, tmp_path: pathlib.Path) -> None:
    """The bytes that came with the job are there under the argument's name, and then gone."""
    assert result_of(runner, call("read", inputs={"file": b"content"})) == "content"
    assert result_of(runner, call("untyped", inputs={"file": b""}, other=1)) == ["PosixPath", 1]
    folder, _ = result_of(runner, call("where"))
    assert pathlib.Path(folder).parent == tmp_path / "scratch"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (call("typed"), "'number'"),
        (call("typed", number=1, more=2), "'more'"),
        (call("typed", number="1"), "'number' must be an integer"),
        (call("typed", number=True), "'number' must be an integer"),
        (call("typed", number=1, ratio="x"), "'ratio' must be a number"),
        (call("typed", number=1, text=3), "'text'"),
        (call("typed", inputs={"number": b""}), "'number'"),
        (call("read", file="/etc/hostname"), "'file' must be an input file"),
        (call("read", inputs={"file": b""}, file="x"), "and as an input file"),
        (call("echo", inputs={"../x": b""}), "named like an argument"),
        (call("echo", inputs={"a": b"", "A": b""}), "given twice"),
        (call("echo", inputs={"a": bytes(INPUT_BYTES_MAX + 1)}), "more than"),
        (FunctionCall(function="echo", arguments=b"[]"), "no JSON object"),
        (FunctionCall(function="echo", arguments=b"{"), "no JSON object"),
        (FunctionCall(function="echo", arguments=b'{"a": NaN}'), "no JSON object"),
        (FunctionCall(function="echo", arguments=b"{}", priority=11), "priority"),
    ],
)
def test_bad_arguments_are_found_before_anything_runs(
    runner: FunctionRunner, what: FunctionCall, words: str
) -> None:
    """Missing, unknown, of the wrong type, too large: one code, one line, and no start."""
    failure = failure_of(runner, what)
    assert failure.code == "bad_arguments"
    assert words in failure.message


def test_a_number_may_be_whole_where_a_float_is_wanted(runner: FunctionRunner) -> None:
    """JSON does not tell 1 from 1.0."""
    assert result_of(runner, call("typed", number=1, ratio=2)) == [1, 2, None]


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        (call("no_such"), "unknown_function", "'no_such'"),
        (call("gone"), "unavailable", "ModuleNotFoundError"),
        (call("missing"), "unavailable", "AttributeError"),
        (call("NOT_CALLABLE"), "unavailable", "no function"),
        (call("fail"), "failed", "KeyError: 'it is"),
        (call("leave"), "failed", "SystemExit: 3"),
        (call("no_json"), "failed", "no JSON"),
        (call("not_a_number"), "failed", "no JSON"),
        (call("large", size=RESULT_BYTES_MAX), "failed", "over the limit"),
        (call("deep", levels=100), "failed", "deep"),
        (call("deep", levels=100_000), "failed", "no JSON"),
        (call("crash"), "crashed", "exit code 7 (the last word)"),
        (call("write_to_every_pipe"), "crashed", "nonsense"),
    ],
)
def test_what_goes_wrong_has_a_code_and_one_line(
    runner: FunctionRunner, what: FunctionCall, code: str, words: str
) -> None:
    """A function's failure, a crash, and what is not there are told apart."""
    failure = failure_of(runner, what)
    assert (failure.code, words in failure.message) == (code, True), failure.message


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (call("object_to", kind="value", message="limit must be\n0 to 9"), "limit must be 0 to 9"),
        (call("object_to", kind="type", message="no list, please"), "no list, please"),
        (call("object_to", kind="value"), "ValueError"),
        (call("object_to", kind="type"), "TypeError"),
        (
            call("object_to", kind="json", message="no"),
            "JSONDecodeError: no: line 1 column 2 (char 1)",
        ),
        (call("meshd.primes", limit=-1), "the limit must be 0 to 1000000000000"),
    ],
)
def test_what_a_function_says_against_its_arguments_is_told_plainly(
    runner: FunctionRunner, what: FunctionCall, message: str
) -> None:
    """A ValueError's or TypeError's own words alone; with none, and of their kinds, the type."""
    failure = failure_of(runner, what)
    assert (failure.code, failure.message) == ("failed", message)


def test_the_largest_result_fits(runner: FunctionRunner) -> None:
    """The limit itself is allowed; two quotes belong to it."""
    size = RESULT_BYTES_MAX - 2
    assert result_of(runner, call("large", size=size)) == "x" * size


@pytest.mark.skipif(os.name != "posix", reason="POSIX has this limit")
def test_memory_is_bounded(tmp_path: pathlib.Path) -> None:
    """Over it the function gets a MemoryError, and the machine keeps its memory."""
    failure = failure_of(make_runner(tmp_path, memory_bytes_max=2**31), call("hungry"))
    assert failure.code == "failed"
    assert "MemoryError" in failure.message


def test_what_is_printed_is_no_result(runner: FunctionRunner) -> None:
    """A function may print what it likes: the last lines are kept, the result is not touched."""
    returned = trio.run(run, runner, call("shout", lines=5000))
    assert returned.result == b'"said"'
    assert len(returned.log) == 20
    assert returned.log[-2] == "line 4999"


def test_leaving_kills_the_process_and_its_children(tmp_path: pathlib.Path) -> None:
    """Cancelled: the function's process is gone when `run` is, and the child that it started."""
    runner = make_runner(tmp_path)

    async def main() -> None:
        before = set(psutil.Process().children(recursive=True))
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_run_quietly, runner, call("start_child"))
                await _until(lambda: len(_more(before)) == 2)
                family = _more(before)
                nursery.cancel_scope.cancel()
            await _until(lambda: not any(map(_is_alive, family)))
        assert runner.load == Load(queued=0, running=0, slots=1)

    trio.run(main)


def test_jobs_wait_for_their_turn_by_priority(tmp_path: pathlib.Path) -> None:
    """One slot: those that wait run one after another, the urgent one first."""
    runner = make_runner(tmp_path, queue_max=2)
    order: list[str] = []

    async def one(name: str, priority: int) -> None:
        async def started() -> None:
            order.append(name)

        what = FunctionCall(function="echo", arguments=b"{}", priority=priority)
        await runner.run(what, started, deadline_s=TIMEOUT_S)

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                begun = trio.Event()

                async def hang() -> None:
                    async def started() -> None:
                        begun.set()

                    with hanging:
                        await runner.run(call("hang"), started, deadline_s=TIMEOUT_S)

                hanging = trio.CancelScope()
                nursery.start_soon(hang)
                await begun.wait()
                nursery.start_soon(one, "usual", 0)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(one, "urgent", 5)
                await trio.testing.wait_all_tasks_blocked()
                assert runner.load == Load(queued=2, running=1, slots=1)
                with pytest.raises(RuntimeFailure) as refused:
                    await runner.run(call("echo"), nothing, deadline_s=1.0)
                assert refused.value.code == "queue_full"
                hanging.cancel()

    trio.run(main)
    assert order == ["urgent", "usual"]


def test_a_sweep_removes_what_a_killed_daemon_left(tmp_path: pathlib.Path) -> None:
    """Whatever lies in the runner's own folder is gone; that there is none is no error."""
    runner = make_runner(tmp_path / "scratch")
    runner.sweep()
    (tmp_path / "scratch" / "job-x").mkdir(parents=True)
    (tmp_path / "scratch" / "job-x" / "file").touch()
    runner.sweep()
    assert not (tmp_path / "scratch").exists()
    assert result_of(runner, call("echo")) == {}


async def _run_quietly(runner: FunctionRunner, what: FunctionCall) -> None:
    await runner.run(what, nothing, deadline_s=TIMEOUT_S)


async def _until(condition: Callable[[], bool]) -> None:
    """Look at other processes until it is so; the caller has the deadline."""
    while not condition():  # noqa: ASYNC110  # another process tells nobody
        await trio.sleep(0.01)


def _more(before: set[psutil.Process]) -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p not in before]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
