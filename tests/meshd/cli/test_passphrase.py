"""Where passphrases come from, and the commands that put a home's keys under one."""

import io
import json
import os
import pathlib
import sys

import pytest

from meshd.cli import passphrase as under_test
from meshd.cli.app import run
from meshd.home import Home
from meshd.trust.audit_check import check, last_lines
from meshd.trust.keys import is_protected, node_seed, read_key, write_key
from tests.helpers.nodes import seed_of

WORDS = "one two three"


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    """One with keys, as they are."""
    home = Home(tmp_path / "home")
    home.create()
    node_seed(home)
    write_key(home, home.root_key, seed_of("root"))
    return home


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person types, one after the other, on a terminal."""
    answers: list[str] = []
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(under_test, "_typed", lambda: lambda question: answers.pop(0))
    return answers


def _file(folder: pathlib.Path, content: str, mode: int = 0o600) -> str:
    path = folder / f"file{len(list(folder.iterdir()))}"
    path.write_text(content)
    path.chmod(mode)
    return str(path)


def _passphrase(home: Home, *words: str) -> int:
    return run(["passphrase", *words, "--home", str(home.path)])


def _opens(home: Home, words: str | None) -> bool:
    given = None if words is None else words.encode()
    return read_key(home.root_key, given) == seed_of("root")


def test_it_is_typed_twice_and_never_shown(
    home: Home, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both keys lie under it; the next change asks for it first; what happened is noted."""
    typed += [WORDS, WORDS]
    assert _passphrase(home, "set") == 0
    assert is_protected(home.node_key)
    assert _opens(home, WORDS)
    typed += [WORDS, "another", "another"]
    assert _passphrase(home, "set") == 0
    assert _opens(home, "another")
    typed += ["another"]
    assert _passphrase(home, "remove") == 0
    assert _opens(home, None)
    said = capsys.readouterr()
    assert WORDS not in said.out + said.err
    noted = [line["type"] for line in last_lines(home, 9)]
    assert noted == ["keys.protected", "keys.protected", "keys.unprotected"]
    assert check(home, None).signed == 3


def test_a_slip_of_the_finger_changes_nothing(
    home: Home, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two that differ, an empty one, the wrong old one."""
    typed += [WORDS, "one two there"]
    assert _passphrase(home, "set") == 1
    typed += [""]
    assert _passphrase(home, "set") == 2
    assert _opens(home, None)
    typed += [WORDS, WORDS, "wrong", WORDS, WORDS]
    assert _passphrase(home, "set") == 0
    capsys.readouterr()
    assert _passphrase(home, "remove") == 1
    assert "not the passphrase" in capsys.readouterr().err
    assert _opens(home, WORDS)


def test_files_and_the_environment(
    home: Home, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line counts, without its end; nothing that we start inherits the variable."""
    new = _file(tmp_path, f"{WORDS}\r\nmore\n")
    assert _passphrase(home, "set", "--new-passphrase-file", new) == 0
    assert _opens(home, WORDS)
    monkeypatch.setenv(under_test.VARIABLE, WORDS)
    other = _file(tmp_path, "other")
    assert _passphrase(home, "set", "--new-passphrase-file", other, "--json") == 0
    assert under_test.VARIABLE not in os.environ
    assert _opens(home, "other")
    assert _passphrase(home, "remove", "--passphrase-file", other) == 0
    assert _opens(home, None)


def test_what_cannot_be_is_one_line(
    home: Home, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No terminal, no file, one that others can read, an empty one, a long one, no keys."""
    open_to_all, empty = _file(tmp_path, WORDS, 0o644), _file(tmp_path, "\nsecond line")
    long = _file(tmp_path, "x" * 2_000)
    for words, code, part in (
        ([], 2, "--new-passphrase-file"),
        (["--new-passphrase-file", str(tmp_path / "none")], 2, "no passphrase file"),
        (["--new-passphrase-file", open_to_all], 1, f"chmod 600 {open_to_all}"),
        (["--new-passphrase-file", empty], 2, "is empty"),
        (["--new-passphrase-file", long], 2, "over 1024 bytes"),
        (["--home", str(tmp_path / "nobody")], 1, "meshd up makes them"),
    ):
        assert run(["passphrase", "set", "--home", str(home.path), *words]) == code, words
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert part in said.err
    assert _opens(home, None)


def test_a_running_daemon_keeps_its_keys(
    home: Home, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It knows the old passphrase, and could not read the root key any more."""
    new = _file(tmp_path, WORDS)
    with home.locked():
        assert _passphrase(home, "set", "--new-passphrase-file", new) == 1
    assert "stop it" in capsys.readouterr().err
    assert _opens(home, None)


def test_json_names_the_files(
    home: Home, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line."""
    new = _file(tmp_path, WORDS)
    assert _passphrase(home, "set", "--new-passphrase-file", new, "--json") == 0
    files = ["root.key", "node.key"]
    assert json.loads(capsys.readouterr().out) == {"protected": True, "files": files}
