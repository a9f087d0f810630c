"""What a worker inherits, and what is kept of what it says."""

import os

import pytest
import trio
import trio.testing

from runtimes.worker.process import (
    STDERR_LINE_BYTES_MAX,
    STDERR_LINES_KEPT,
    StderrTail,
    how_it_ended,
    worker_environment,
)
from tests.runtimes.serving import TIMEOUT_S


def test_a_worker_inherits_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths and what GPU and thread libraries read, and nothing else; GPUs have NVML's numbers."""
    monkeypatch.setenv("SOME_API_KEY", "secret")
    monkeypatch.setenv("MESHD_HOME", "/home/of/the/daemon")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert worker_environment()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    environment = worker_environment()
    assert environment["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"
    assert "SOME_API_KEY" not in environment
    assert "MESHD_HOME" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["PYTHONPATH"]


def test_only_the_last_lines_of_standard_error_are_kept() -> None:
    """However much a worker prints, with or without line ends, little of it stays."""

    async def main() -> None:
        sender, receiver = trio.testing.memory_stream_one_way_pair()
        tail = StderrTail()
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + TIMEOUT_S
            nursery.start_soon(tail.read, receiver)
            for number in range(500):
                await sender.send_all(f"line {number}\n".encode() + b"\xff\x00" * 1000)
            await sender.send_all(b"\n\nthe last\x1b[31m words\n \n")
            await sender.aclose()
        assert tail.ended.is_set()
        assert tail.last_line() == "the last[31m words"
        assert len(tail._lines) == STDERR_LINES_KEPT
        assert all(len(line) <= STDERR_LINE_BYTES_MAX for line in tail._lines)
        assert tail._unfinished == b""

    trio.run(main)


@pytest.mark.parametrize(
    ("returncode", "last_line", "said"),
    [
        (7, "", "exit code 7"),
        (-9, "", "killed by SIGKILL"),
        (-40, "", "killed by signal 40"),
        (1, "no room", "exit code 1 (no room)"),
        (None, "", "exit code None"),
    ],
)
def test_an_end_is_told_in_one_phrase(returncode: int | None, last_line: str, said: str) -> None:
    """Codes, signals with and without a name, and the worker's own last line."""
    assert how_it_ended(returncode, last_line) == said


def test_each_line_is_told_as_it_comes() -> None:
    """Whoever logs them hears every one, not only those that are kept."""
    heard: list[str] = []

    async def main() -> None:
        sender, receiver = trio.testing.memory_stream_one_way_pair()
        await sender.send_all(b"".join(b"line %d\n" % number for number in range(50)))
        await sender.aclose()
        tail = StderrTail(heard.append, lines_kept=3)
        with trio.fail_after(TIMEOUT_S):
            await tail.read(receiver)
        assert tail.lines() == ("line 47", "line 48", "line 49")

    trio.run(main)
    assert len(heard) == 50
