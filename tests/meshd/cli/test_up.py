"""`meshd up`: what reaches the daemon, and what it announces."""

import json
import os
import pathlib
import sys
import types
from collections.abc import Callable

import pytest

from meshd.cli.app import run
from meshd.failures import ExitCode, UserError
from meshd.gateway_options import GatewayOptions
from meshd.options import Ready, UpOptions

READY = Ready(
    node="n1abc",
    name="desk",
    mesh="m1xyz",
    listen="[::]:7700",
    gateway="http://127.0.0.1:7701",
    founded=True,
    join_line="meshd up --join TOKEN",
    notices=("another mesh is near",),
)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[UpOptions]:
    """What a daemon that announces READY and ends was started with."""
    seen: list[UpOptions] = []

    async def fake_run(options: UpOptions, announce: Callable[[Ready], None]) -> None:
        seen.append(options)
        announce(READY)

    _put_in_place(fake_run, monkeypatch)
    return seen


def _put_in_place(fake_run: object, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = types.ModuleType("meshd.daemon")
    daemon.run = fake_run  # type: ignore[attr-defined]  # that is what a module is
    monkeypatch.setitem(sys.modules, "meshd.daemon", daemon)
    monkeypatch.setattr("meshd.daemon", daemon, raising=False)
    monkeypatch.setattr("meshd.logs.configure", lambda: None)  # it is for a whole process


def test_the_defaults(started: list[UpOptions], tmp_path: pathlib.Path) -> None:
    """Without options everything is as the interface says."""
    assert run(["up", "--home", str(tmp_path)]) == 0
    assert started == [UpOptions(home=tmp_path)]
    assert started[0].listen == "[::]:7700"
    assert started[0].gateway == "127.0.0.1:7701"
    assert started[0].lan


def test_a_new_identity_needs_an_invite(
    started: list[UpOptions], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one it reaches the daemon; without, one line says what is missing."""
    home = tmp_path / "home"
    assert run(["up", "--home", str(home), "--new-identity"]) == 2
    assert not started
    assert not home.exists()
    said = capsys.readouterr().err
    assert said.startswith("meshd: --new-identity needs an invite: add --join TOKEN")
    assert said.count("\n") == 1
    assert run(["up", "--home", str(home), "--new-identity", "--join", "TOK"]) == 0
    assert started == [UpOptions(home=home, join="TOK", new_identity=True)]


def test_every_option_reaches_the_daemon(started: list[UpOptions], tmp_path: pathlib.Path) -> None:
    """Each option lands in its field, repeatable ones in order."""
    arguments = (
        "up --name desk --listen 127.0.0.1:0 --advertise desk.example:7 --gateway [::1]:0 "
        "--join TOK --model a.gguf --model demo --label gpu=yes --label room=2 --no-lan "
        "--record trace.bin --json --require-key --tls-cert c.pem --tls-key k.pem --insecure-http "
        "--cors-origin https://a.example --cors-origin http://b.example:80 --gateway-host Box.lan"
    )
    assert run([*arguments.split(), "--home", str(tmp_path)]) == 0
    assert started == [
        UpOptions(
            home=tmp_path,
            name="desk",
            listen="127.0.0.1:0",
            advertise="desk.example:7",
            gateway="[::1]:0",
            access=GatewayOptions(
                require_key=True,
                tls_certificate=pathlib.Path("c.pem"),
                tls_key=pathlib.Path("k.pem"),
                insecure_http=True,
                cors_origins=("https://a.example", "http://b.example"),
                hosts=("box.lan",),
            ),
            join="TOK",
            models=("a.gguf", "demo"),
            labels={"gpu": "yes", "room": "2"},
            lan=False,
            record=pathlib.Path("trace.bin"),
            json=True,
        )
    ]


def test_a_token_may_be_copied_with_line_breaks(
    started: list[UpOptions], tmp_path: pathlib.Path
) -> None:
    """Blanks from a terminal's wrapping do not spoil a token."""
    assert run(["up", "--home", str(tmp_path), "--join", " abc\n def "]) == 0
    assert started[0].join == "abcdef"


@pytest.mark.parametrize(
    "wrong",
    [
        "--name Desk",
        "--listen 7700",
        "--advertise host:0",
        "--gateway :1",
        "--join é",
        "--model none --model demo",
        "--label gpu",
        "--record=",
        "--tls-cert c.pem",
        "--tls-key k.pem",
        "--cors-origin chat.example",
        "--gateway-host box:7701",
    ],
)
def test_wrong_options_start_nothing(
    wrong: str, started: list[UpOptions], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error is found before the daemon starts or the home is touched."""
    home = tmp_path / "home"
    assert run(["up", "--home", str(home), *wrong.split()]) == 2
    assert not started
    assert not home.exists()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_the_ready_line_for_programs(
    started: list[UpOptions], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exactly one object with exactly these keys is all of standard output."""
    assert run(["up", "--json", "--home", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert json.loads(said.out) == {
        "event": "ready",
        "node": "n1abc",
        "name": "desk",
        "mesh": "m1xyz",
        "listen": "[::]:7700",
        "gateway": "http://127.0.0.1:7701",
    }
    assert said.err == "meshd: another mesh is near\n"


def test_the_ready_line_for_people(
    started: list[UpOptions], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says where apps go; after founding, another says how to join."""
    assert run(["up", "--home", str(tmp_path)]) == 0
    ready, joining = capsys.readouterr().out.splitlines()
    assert "desk founded mesh m1xyz" in ready
    assert "http://127.0.0.1:7701/v1" in ready
    assert joining.endswith("meshd up --join TOKEN")


def test_what_the_daemon_cannot_do_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A UserError out of the daemon ends with its line and its code."""

    async def fail(options: UpOptions, announce: Callable[[Ready], None]) -> None:
        raise UserError("port 7700 is taken; choose another with --listen", ExitCode.FAILED)

    _put_in_place(fail, monkeypatch)
    assert run(["up", "--home", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "meshd: port 7700 is taken; choose another with --listen\n"


def test_a_reader_that_has_gone_does_not_stop_the_daemon(
    started: list[UpOptions], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ready line into a closed pipe is lost, and nothing else."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert run(["up", "--json", "--home", str(tmp_path)]) == 0
    assert started
