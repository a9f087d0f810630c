"""`meshd invite`, `join` and `leave`: what the daemon is asked, and what happens without one."""

import json
import pathlib
import sys
import types
from collections.abc import Mapping
from typing import Any

import pytest

from meshd.cli.app import run
from meshd.failures import UserError
from meshd.home import Home
from tests.meshd.cli.running_daemon import Recorder, daemon_on

INVITE = {"token": "TOKEN", "invite": "i1abc"}


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return Home(tmp_path)


def test_an_invite_has_safe_defaults(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """One worker, for an hour; the token is all of standard output, to be piped."""
    asked = Recorder(INVITE)
    with daemon_on(home, {"invite": asked}):
        assert run(["invite", "--home", str(home.path)]) == 0
    assert asked.asked == [
        {"role": "worker", "expires_s": 3_600, "uses": 1, "trusted": False, "owner": None}
    ]
    assert capsys.readouterr().out == "TOKEN\n"


def test_an_invites_options_reach_the_daemon(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each option lands in its argument; --json prints both token and id."""
    asked = Recorder({**INVITE, "more": 1})
    options = "--role worker --expires 2d --uses 5 --trusted --owner Ann --json"
    with daemon_on(home, {"invite": asked}):
        assert run(["invite", *options.split(), "--home", str(home.path)]) == 0
    assert asked.asked == [
        {"role": "worker", "expires_s": 172_800, "uses": 5, "trusted": True, "owner": "Ann"}
    ]
    assert json.loads(capsys.readouterr().out) == INVITE


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--role king", "choose from admin, worker"),
        ("--uses 0", "1 to 1000"),
        ("--uses 1001", "1 to 1000"),
        ("--expires 1", "such as 1h"),
        ("--owner=", "printable"),
    ],
)
def test_wrong_invites_are_wrong_usage(
    options: str, said: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found without a daemon, with a line that says what is possible."""
    assert run(["invite", *options.split(), "--home", str(home.path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["join", "leave"])
def test_a_running_daemon_does_it(
    command: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a daemon the command is its business, and there is nothing to start."""
    asked = Recorder({"mesh": "m1xyz"})
    tokens = ["TOK EN"] if command == "join" else []
    with daemon_on(home, {command: asked}):
        assert run([command, *tokens, "--home", str(home.path)]) == 0
        assert run([command, *tokens, "--json", "--home", str(home.path)]) == 0
    assert asked.asked == [{"token": "TOKEN"} if command == "join" else {}] * 2
    first, second = capsys.readouterr().out.splitlines()
    assert "mesh m1xyz" in first
    assert json.loads(second) == {"mesh": "m1xyz"}


def test_joining_again_changes_nothing_and_says_so(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """A member that joins its own mesh once more is told that it is there already."""
    with daemon_on(home, {"join": Recorder({"mesh": "m1xyz", "changed": False})}):
        assert run(["join", "TOKEN", "--home", str(home.path)]) == 0
    assert capsys.readouterr().out == "Already in mesh m1xyz.\n"


class _Offline:
    """Stands in for `meshd.joining`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        module = types.ModuleType("meshd.joining")
        module.join_offline = self._join  # type: ignore[attr-defined]  # that is what a module is
        module.leave_offline = self._leave  # type: ignore[attr-defined]  # as above
        monkeypatch.setitem(sys.modules, "meshd.joining", module)

    async def _join(self, home: Home, token: str) -> Mapping[str, Any]:
        if token == "EXPIRED":
            raise UserError("the invite has expired; ask for a new one")
        self.calls.append(("join", home.path, token))
        return {"mesh": "m1xyz"}

    async def _leave(self, home: Home) -> Mapping[str, Any]:
        self.calls.append(("leave", home.path))
        return {"mesh": "m1xyz"}


def test_joining_without_a_daemon_is_done_here(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a daemon the command joins by itself and says what starts the node."""
    offline = _Offline(monkeypatch)
    assert run(["join", "TOKEN", "--home", str(home.path)]) == 0
    assert offline.calls == [("join", home.path, "TOKEN")]
    assert capsys.readouterr().out == "Joined mesh m1xyz.\nStart the node with: meshd up\n"


def test_leaving_without_a_daemon_is_done_here(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a daemon the command gives the membership up by itself."""
    offline = _Offline(monkeypatch)
    assert run(["leave", "--json", "--home", str(home.path)]) == 0
    assert offline.calls == [("leave", home.path)]
    assert json.loads(capsys.readouterr().out) == {"mesh": "m1xyz"}


def test_a_failure_without_a_daemon_is_one_line(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the joining code refuses is said as it says it."""
    _Offline(monkeypatch)
    assert run(["join", "EXPIRED", "--home", str(home.path)]) == 1
    assert capsys.readouterr().err == "meshd: the invite has expired; ask for a new one\n"


def test_a_refusing_daemon_is_not_gone_around(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only where no daemon runs is the home touched from here."""
    offline = _Offline(monkeypatch)

    async def refuse(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        raise UserError("already in another mesh; run meshd leave first")

    with daemon_on(home, {"join": refuse}):
        assert run(["join", "TOKEN", "--home", str(home.path)]) == 1
    assert not offline.calls
    assert "run meshd leave first" in capsys.readouterr().err
