"""`meshd up --upstream URL`: what reaches the daemon, and what never does."""

import pathlib
import sys
import types
from collections.abc import Callable

import pytest

from meshd.cli.app import run
from meshd.options import Ready, UpOptions


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[UpOptions]:
    """What a daemon that ends at once was started with."""
    seen: list[UpOptions] = []

    async def fake_run(options: UpOptions, announce: Callable[[Ready], None]) -> None:
        del announce
        seen.append(options)

    daemon = types.ModuleType("meshd.daemon")
    daemon.run = fake_run  # type: ignore[attr-defined]  # that is what a module is
    monkeypatch.setitem(sys.modules, "meshd.daemon", daemon)
    monkeypatch.setattr("meshd.daemon", daemon, raising=False)
    monkeypatch.setattr("meshd.logs.configure", lambda: None)  # it is for a whole process
    return seen


def test_upstreams_reach_the_daemon(started: list[UpOptions], tmp_path: pathlib.Path) -> None:
    """In order, in their canonical text, beside models."""
    arguments = "--upstream http://127.0.0.1:11434/v1 --model none --upstream https://h/openai/"
    assert run(["up", "--home", str(tmp_path), *arguments.split()]) == 0
    assert started[0].upstreams == ("http://127.0.0.1:11434", "https://h/openai")
    assert started[0].models == ("none",)


@pytest.mark.parametrize(
    "wrong", ["127.0.0.1:11434", "http://", "ftp://h", "http://me:secret@h", "http://h/?k=secret"]
)
def test_a_wrong_url_starts_nothing(
    wrong: str, started: list[UpOptions], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the option and repeats no password, before the home is touched."""
    home = tmp_path / "home"
    assert run(["up", "--home", str(home), "--upstream", wrong]) == 2
    assert not started
    assert not home.exists()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("meshd: --upstream: ")
    assert said.err.count("\n") == 1
    assert "secret" not in said.err
