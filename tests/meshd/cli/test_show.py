"""`meshd nodes`, `models` and `status`: the same truth as text, as a table, as JSON."""

import json
import pathlib
import re
from typing import Any

import pytest

from meshd.cli import terminal
from meshd.cli.app import run
from meshd.home import Home
from tests.meshd.cli.running_daemon import Recorder, answering, daemon_on

NODE: dict[str, Any] = {
    "id": "abcdefghijklmnopqrstuvwxyz",
    "name": "desk",
    "state": "alive",
    "incarnation": 3,
    "address": "192.168.1.5:7700",
    "role": "worker",
    "owner": "ann",
    "labels": {"room": "2"},
    "tier": 1,
    "hardware": {},
    "models": ["demo", "qwen"],
    "load": {"queued": 2, "running": 1, "slots": 4},
    "rtt_ms": 1.234,
    "version": "0.1.0",
}
UNKNOWN: dict[str, Any] = {**NODE, "name": "far", "models": [], "load": None, "rtt_ms": None}
MODEL: dict[str, Any] = {
    "name": "demo",
    "hash": "00ff",
    "runtime": "llama",
    "architecture": "llama",
    "parameters": 5_100_000,
    "quantization": "F16",
    "size_bytes": 10_300_000,
    "context_tokens": 1_024,
    "nodes": ["desk", "far"],
}


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return Home(tmp_path)


def _shown(home: Home, command: str, result: dict[str, Any], *options: str) -> int:
    with daemon_on(home, {command: answering(result)}):
        return run([command, "--home", str(home.path), *options])


def test_nodes_as_text_are_aligned(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Piped, each node is one line under a header, numbers with units, gaps as a dash."""
    assert _shown(home, "nodes", {"nodes": [NODE, UNKNOWN]}) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == [
        *("NAME", "STATE", "ROLE", "ID", "ADDRESS", "TIER", "LOAD", "RTT", "MODELS"),
    ]
    assert re.split("  +", first) == [
        *("desk", "alive", "worker", "abcdefghijkl", "192.168.1.5:7700", "1"),
        *("1/4 +2", "1.2 ms", "demo, qwen"),
    ]
    assert second.split() == ["far", "alive", "worker", "abcdefghijkl", "192.168.1.5:7700", *"1---"]
    assert first.index("1/4") == header.index("LOAD")


def test_nodes_on_a_terminal_are_a_table(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person sees the same cells; square brackets in a name are only brackets."""
    monkeypatch.setattr(terminal, "output_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    assert _shown(home, "nodes", {"nodes": [{**NODE, "name": "[red]desk"}]}) == 0
    table = capsys.readouterr().out
    for cell in ("[red]desk", "alive", "1/4 +2", "1.2 ms", "demo, qwen"):
        assert cell in table


@pytest.mark.parametrize(
    ("command", "rows"), [("nodes", [NODE, UNKNOWN]), ("models", [MODEL]), ("nodes", [])]
)
def test_json_is_the_rows_untouched(
    command: str, rows: list[Any], home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs get one line: the rows as the daemon gave them, and nothing beside them."""
    assert _shown(home, command, {command: rows, "beside": 1}, "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out) == {command: rows}
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["nodes"], {"all": False}),
        (["nodes", "--all"], {"all": True}),
        (["models"], {"local": False}),
        (["models", "--local"], {"local": True}),
        (["status"], {}),
    ],
)
def test_options_reach_the_daemon(arguments: list[str], asked: dict[str, Any], home: Home) -> None:
    """What to list is the daemon's decision."""
    recorder = Recorder({arguments[0]: []})
    with daemon_on(home, {arguments[0]: recorder}):
        assert run([*arguments, "--home", str(home.path)]) == 0
    assert recorder.asked == [asked]


def test_models_as_text_have_units(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes, parameters and contexts are written for people."""
    assert _shown(home, "models", {"models": [MODEL]}) == 0
    line = capsys.readouterr().out.splitlines()[1]
    for cell in ("demo", "10.3 MB", "5.1M", "F16", "1024 tokens", "llama", "desk, far"):
        assert cell in line


def test_a_node_that_has_to_load_a_model_first_is_marked(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes a while until it answers."""
    assert _shown(home, "models", {"models": [{**MODEL, "loaded": ["far"]}]}) == 0
    assert "desk (cold), far" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"state": "ready", "share": 1.0}, "1.2 GB  ready"),
        ({"state": "loading", "share": 0.4, "ready_in_s": 12.2}, "loading 40%, ready in 12 s"),
        ({"state": "cold", "ready_in_s": 5.0, "reason": "b is busy"}, "ready in 5 s: b is busy"),
        ({"state": "unusable", "needed_vram_bytes": 3 * 10**9}, "1.2 GB + 3.0 GB GPU  unusable"),
    ],
)
def test_models_of_this_machine_show_their_state(
    fields: dict[str, Any], shown: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """What each takes of the memory, how far it is, and why it is not there."""
    row = {**MODEL, "needed_bytes": 1_200_000_000, **fields}
    with daemon_on(home, {"models": Recorder({"models": [row]})}):
        assert run(["models", "--local", "--home", str(home.path)]) == 0
    assert shown in capsys.readouterr().out


def test_no_models_says_how_to_get_one(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty list is a remark with the mend, not an empty table."""
    assert _shown(home, "models", {"models": []}) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "meshd up --model demo" in said.err


def test_status_is_a_line_for_each_value(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the daemon tells is shown; units move from the label to the value."""
    status = {
        "name": "desk",
        "gateway": "http://127.0.0.1:7701",
        "uptime_s": 7_300.0,
        "memory_bytes": 36_000_000,
        "ready": True,
        "datagrams": {"received": 5, "dropped": {"forged": 1}},
        "models": ["demo"],
        "partition": None,
    }
    assert _shown(home, "status", status) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines == {
        "name": "desk",
        "gateway": "http://127.0.0.1:7701",
        "uptime": "2.0 h",
        "memory": "36.0 MB",
        "ready": "yes",
        "datagrams.received": "5",
        "datagrams.dropped.forged": "1",
        "models": "demo",
        "partition": "-",
    }


def test_status_as_json_is_the_object(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get what /mesh/v1/status gives."""
    assert _shown(home, "status", {"a": {"b": 1}}, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"a": {"b": 1}}


@pytest.mark.parametrize("on_terminal", [False, True])
@pytest.mark.parametrize("command", ["nodes", "models", "status"])
def test_a_foreign_name_cannot_steer_the_terminal(
    command: str,
    on_terminal: bool,
    home: Home,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What other nodes call themselves or their models is shown, never obeyed."""
    monkeypatch.setattr(terminal, "output_is_terminal", lambda: on_terminal)
    evil = "\x1b]0;owned\x07\u202e\n"
    row = {**NODE, **MODEL, "name": evil, "models": [evil], "nodes": [evil]}
    assert _shown(home, command, {"name": evil} if command == "status" else {command: [row]}) == 0
    out = capsys.readouterr().out
    assert "owned" in out.replace(" ", "")
    assert not {"\x07", "\u202e"} & set(out)
    assert "\x1b]" not in out
