"""`meshd drain`: what it waits for, and what it says."""

import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from meshd.cli import drain
from meshd.cli.app import run
from meshd.home import Home
from tests.meshd.cli.running_daemon import daemon_on


class Node:
    """A daemon on which one request less runs each time that it is asked."""

    def __init__(self, running: int) -> None:
        self.running = running
        self.asked: list[bool] = []

    async def drain(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """How far it is."""
        self.asked.append(bool(arguments.get("is_over")))
        self.running -= 1
        return {"draining": not self.asked[-1], "queued": 0, "running": self.running, "slots": 0}


class Clock:
    """In the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Seconds that were slept."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """No time passes, but on this clock."""
        self.now += seconds


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "time", Clock())


def _drained(path: pathlib.Path, running: int, *options: str) -> tuple[int, Node]:
    node, home = Node(running), Home(path)
    with daemon_on(home, {"drain": node.drain}):
        return run(["drain", "--home", str(path), *options]), node


def test_it_waits_until_nothing_runs(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says so once."""
    code, node = _drained(tmp_path, 3)
    assert (code, node.asked) == (0, [False] * 3)
    assert "Nothing runs here any more" in capsys.readouterr().out


def test_it_does_not_wait_for_ever(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What still runs is counted, with what ends it."""
    code, node = _drained(tmp_path, 100, "--within", "1s")
    assert (code, node.asked) == (1, [False] * 3)
    assert "97 requests still run here" in capsys.readouterr().err


def test_it_ends_when_told_so(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without waiting for anything."""
    code, node = _drained(tmp_path, 5, "--end")
    assert (code, node.asked) == (0, [True])
    assert "serves again" in capsys.readouterr().out
