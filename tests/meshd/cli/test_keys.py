"""`meshd key create`, `list` and `revoke`: what is asked, what is printed, with and without a
daemon.
"""

import json
import pathlib
import re

import pytest

from meshd.cli.app import run
from meshd.home import Home
from tests.meshd.cli.running_daemon import Recorder, daemon_on

MADE = {"name": "anna", "key": "meshd-sk-abc", "expires_at_s": None}
ROW = {
    "name": "anna", "priority": "high", "models": ["qwen*", "demo"], "trusted": True,
    "limit": "10/s", "created_at_s": 1_700_000_000, "expires_at_s": 1_700_086_400, "expired": True,
    "mesh": False,
}  # fmt: skip


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return Home(tmp_path)


def key(home: Home, *arguments: str) -> int:
    """One of the commands on that home."""
    return run(["key", *arguments, "--home", str(home.path)])


def test_a_key_has_plain_defaults(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """No limits, for ever; the key is all of standard output, to be piped."""
    asked = Recorder(MADE)
    with daemon_on(home, {"key_create": asked}):
        assert key(home, "create", "anna") == 0
    assert asked.asked == [
        {
            "name": "anna",
            "limit": None,
            "priority": "normal",
            "models": [],
            "trusted": False,
            "expires_s": None,
            "mesh": False,
        }
    ]
    assert capsys.readouterr().out == "meshd-sk-abc\n"


def test_every_option_reaches_the_daemon(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Each lands in its argument; --json prints all that is known."""
    asked = Recorder(MADE)
    options = "--limit 10/s --priority high --models qwen* --models demo --trusted --expires 30d"
    with daemon_on(home, {"key_create": asked}):
        assert key(home, "create", "anna", *options.split(), "--mesh", "--json") == 0
    assert asked.asked == [
        {
            "name": "anna",
            "limit": "10/s",
            "priority": "high",
            "models": ["qwen*", "demo"],
            "trusted": True,
            "expires_s": 30 * 86_400,
            "mesh": True,
        }
    ]
    assert json.loads(capsys.readouterr().out) == MADE


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("a/b", "letters, digits"),
        ("anna --limit 10", "10/s"),
        ("anna --limit often", "10/s"),
        ("anna --priority urgent", "low, normal, high"),
        ("anna --models=", "1 to 128"),
        ("anna --expires 30", "such as 1h"),
        ("", "missing argument"),
    ],
)
def test_wrong_options_are_wrong_usage(
    options: str, said: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found before anything is touched, with what is possible."""
    assert key(home, "create", *options.split()) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert not home.keys.exists()


def test_keys_are_listed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, the rows for programs."""
    with daemon_on(home, {"key_list": Recorder({"keys": [ROW]})}):
        assert key(home, "list") == 0
        header, line = capsys.readouterr().out.splitlines()
        assert header.split()[:3] == ["NAME", "OF", "LIMIT"]
        for word in ("anna", "10/s", "high", "yes", "(expired)", "qwen*, demo", "2023-11-14 22:13"):
            assert word in line
        assert key(home, "list", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"keys": [ROW]}
    with daemon_on(home, {"key_list": Recorder({"keys": []})}):
        assert key(home, "list") == 0
    assert "meshd key create" in capsys.readouterr().err


def test_the_daemon_revokes(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """And says so."""
    asked = Recorder({"name": "anna"})
    with daemon_on(home, {"key_revoke": asked}):
        assert key(home, "revoke", "anna") == 0
        assert key(home, "revoke", "anna", "--mesh", "--json") == 0
    assert asked.asked == [{"name": "anna", "mesh": mesh} for mesh in (False, True)]
    assert capsys.readouterr().out == 'Key anna is revoked.\n{"name": "anna"}\n'


def test_without_a_daemon_it_is_done_here(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole life of a key, in a home that has never run."""
    assert key(home, "create", "anna", "--limit", "5/m") == 0
    text = capsys.readouterr().out.strip()
    assert re.fullmatch(r"meshd-sk-[a-z2-7]{40}", text)
    assert text not in home.keys.read_text()
    assert key(home, "create", "anna") == 1
    assert "meshd key revoke anna" in capsys.readouterr().err
    assert key(home, "list") == 0
    listed = capsys.readouterr().out
    assert "anna" in listed
    assert "5/m" in listed
    assert text not in listed
    assert key(home, "revoke", "anna") == 0
    assert key(home, "revoke", "anna") == 1
    assert "meshd key list" in capsys.readouterr().err
