"""`meshd events`: what is printed for people and for programs, and how following ends."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import trio

from meshd.cli import events as under_test
from meshd.cli.app import run
from meshd.cli.events import line_of
from meshd.commands import EVENTS_SILENCE_S
from meshd.control import Report, Streaming, _AskerGone
from meshd.event_log import EVENTS_KEPT
from meshd.home import Home
from tests.meshd.cli.running_daemon import Recorder, answering, daemon_on

TIMEOUT_S = 20.0
HEAD: Mapping[str, Any] = {
    "id": 5,
    "time": "2026-01-02T10:00:01.000+00:00",
    "node": "abcdefghijklmnop",
    "name": "bert",
}
DEAD: Mapping[str, Any] = {**HEAD, "type": "dead", "incarnation": 3, "previous": "suspect"}
NEW: Mapping[str, Any] = {**HEAD, "type": "alive", "incarnation": 1, "previous": None}


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    """A home for a played daemon."""
    return Home(tmp_path / "home")


@pytest.fixture
def _two_hours_ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is two hours ahead of UTC."""
    monkeypatch.setenv("TZ", "XXX-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Played:
    """A daemon's `events --follow`: reports these, then falls silent, or stops."""

    def __init__(self, *reports: list[Mapping[str, Any]], ends: bool = False) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._reports = reports
        self._ends = ends

    async def __call__(self, arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        self.asked.append(arguments)
        for events in self._reports:
            await report({"events": events})
        if not self._ends:
            await trio.sleep_forever()
        raise _AskerGone  # the connection closes without an answer, as when a daemon stops


def _meshd(home: Home, *arguments: str) -> int:
    return run(["events", "--home", str(home.path), *arguments])


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (NEW, "alive         bert              is new, incarnation 1"),
        (DEAD, "dead          bert              was suspect, incarnation 3"),
        (
            {**DEAD, "type": "alive", "previous": "alive"},
            "alive         bert              states itself anew, incarnation 3",
        ),
        (
            {**HEAD, "type": "offer", "key": "model/x", "removed": False},
            "offer         bert              offers model/x",
        ),
        (
            {**HEAD, "type": "offer", "key": "model/x", "removed": True},
            "offer         bert              no longer offers model/x",
        ),
        (
            {**HEAD, "type": "partition", "lost": 5, "present": 4},
            "partition     bert              lost 5 members at once, 4 are left",
        ),
        (
            {**HEAD, "type": "lagged", "missed": 12},
            "lagged        bert              12 events were missed",
        ),
        (
            {**HEAD, "type": "of_later", "name": "", "a": 1, "b": "x"},
            "of_later      abcdefgh          a=1 b=x",
        ),
    ],
)
@pytest.mark.usefixtures("_two_hours_ahead")
def test_an_event_is_one_line_for_people(event: Mapping[str, Any], said: str) -> None:
    """Local time, type, name, what changed; also of a type that is not known yet."""
    assert line_of(event) == f"2026-01-02 12:00:01  {said}"


@pytest.mark.parametrize("kind", ["reunited", "superseded", "equivocation"])
def test_every_type_has_words(kind: str) -> None:
    """None is shown as bare fields, or fails for what it has not."""
    line = line_of({**HEAD, "type": kind, "present": 3, "incarnation": 3})
    assert "=" not in line
    assert len(line) > 60


def test_the_recent_ones_are_printed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each, in order; what others call themselves cannot steer the terminal."""
    evil = {**DEAD, "name": "\x1b]0;owned\x07\n"}
    with daemon_on(home, {"events": answering({"events": [NEW, evil]})}):
        assert _meshd(home) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "is new" in first
    assert "owned" in second
    assert "\x1b" not in second


def test_json_is_one_object(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the events as the daemon gave them, also if there are none."""
    for events in ([NEW, DEAD], []):
        with daemon_on(home, {"events": answering({"events": events, "beside": 1})}):
            assert _meshd(home, "--json") == 0
        out = capsys.readouterr().out
        assert json.loads(out) == {"events": events}
        assert out.count("\n") == 1


def test_no_events_says_how_to_wait_for_some(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error; standard output stays for events."""
    with daemon_on(home, {"events": answering({"events": []})}):
        assert _meshd(home) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "meshd events --follow" in said.err


def test_how_many_is_the_daemons_to_choose_from(home: Home) -> None:
    """The number reaches it; what cannot be is wrong usage before anything is asked."""
    recorder = Recorder({"events": [NEW]})
    with daemon_on(home, {"events": recorder}):
        assert _meshd(home) == 0
        assert _meshd(home, "--recent", "7") == 0
        for wrong in ("-1", str(EVENTS_KEPT + 1), "some"):
            assert _meshd(home, "--recent", wrong) == 2
    assert recorder.asked == [
        {"recent": 50, "follow": False},
        {"recent": 7, "follow": False},
    ]
    assert under_test.KEPT == EVENTS_KEPT


def test_following_prints_a_line_each_and_outlives_silence(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json every event is an object of its own line; empty reports print nothing. A daemon
    that ends is a failure: whoever follows wants to know that it no longer does.
    """
    with daemon_on(home, {"events": Streaming(Played([NEW, DEAD], [], [NEW], ends=True))}):
        assert _meshd(home, "--follow", "--json") == 1
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()] == [NEW, DEAD, NEW]
    assert said.err.startswith("meshd: ")
    assert said.err.count("\n") == 1


def test_a_daemon_that_falls_silent_is_not_waited_for(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is well reports at least every 15 s; one that hangs does not."""
    monkeypatch.setattr(under_test, "SILENCE_S", 0.1)
    with daemon_on(home, {"events": Streaming(Played([NEW]))}):
        assert _meshd(home, "-f") == 1
    assert "did not answer" in capsys.readouterr().err


def test_patience_is_with_each_silence_and_longer_than_the_daemons(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long one follows, and one late report is no failure."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(under_test, "ask", lambda *_, **how: asked.append(how))
    assert _meshd(home, "--follow") == 0
    [how] = asked
    assert how["is_endless"] is True
    assert how["timeout_s"] >= 3 * EVENTS_SILENCE_S


@contextlib.contextmanager
def _following(home: Home, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`meshd events --follow` as a process, once its first line has been read."""
    command = [sys.executable, "-m", "meshd", "events", "--home", str(home.path), "--follow"]
    played = Played([NEW], *([[DEAD]] * 2_000))
    with (
        daemon_on(home, {"events": Streaming(played)}),
        subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MESHD_DEBUG": ""},
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_following_with_130(home: Home) -> None:
    """No traceback, nothing said."""
    with _following(home) as process:
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, complaints) == (130, "")


def test_a_reader_that_has_gone_ends_following_with_1(home: Home) -> None:
    """`meshd events --follow | head -1`: quietly."""
    with _following(home, "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(TIMEOUT_S) == 1
        assert process.stderr.read() == ""
