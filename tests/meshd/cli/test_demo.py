"""`meshd demo`: the story it tells, and that nothing is left of it, however it ends."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import psutil
import pytest

from meshd.cli import children, demo
from meshd.cli.app import run

TIMEOUT_S = 20.0
FAKE_NODE = [sys.executable, "-m", "tests.meshd.cli.fake_node"]
DRIVER = (
    "import sys\n"
    "from meshd.cli import app, children, demo\n"
    f"children.command = lambda: {FAKE_NODE!r}\n"
    "demo.has_llama = lambda: True\n"
    "{before}\n"
    "sys.exit(app.run(['demo']))\n"
)

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.name != "posix", reason="POSIX signals"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """Where the demo makes its throw-away folder; nothing may be left there."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(children, "command", lambda: FAKE_NODE)
    monkeypatch.setattr(demo, "has_llama", lambda: True)
    yield tmp_path
    assert not _nodes_in(tmp_path)


def _nodes_in(folder: pathlib.Path) -> list[psutil.Process]:
    """Living nodes whose home is below `folder`."""
    return [
        process
        for process in psutil.process_iter()
        if any(argument.startswith(f"{folder}/meshd-demo-") for argument in _arguments(process))
    ]


def _arguments(process: psutil.Process) -> list[str]:
    """Of one that lives; a zombie has none."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_another_node_answers_and_nothing_is_left(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The story names who was asked, the answer, who answered, and what to do next."""
    assert run(["demo"]) == 0
    story = capsys.readouterr().out
    assert story.startswith("3 nodes are one mesh after ")
    assert "only demo-2 and demo-3 have the same model" in story
    assert "\nYou ask demo-1: " in story
    assert "\nHello\n" in story
    assert "far answered, through demo-1" in story
    assert "meshd up" in story
    assert list(folder.iterdir()) == []


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get question, answer and both nodes in one line."""
    assert run(["demo", "--nodes", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.pop("ready_s") > 0
    assert result == {
        "nodes": 2,
        "asked": "demo-1",
        "answered": "far",
        "killed": None,
        "continued": None,
        "question": demo.QUESTION,
        "answer": "Hello",
    }


def test_who_answers_is_killed_and_another_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Truly killed, once, and said so; that it had said everything before, too."""
    killed: list[str] = []
    kill = children.Child.kill

    def note(child: children.Child) -> None:
        if child._process.poll() is None:
            killed.append(child.name)
        kill(child)

    monkeypatch.setattr(children.Child, "kill", note)
    monkeypatch.setenv("FAKE_NODE_ANSWERS", "demo-3,demo-2")
    assert run(["demo"]) == 0
    assert killed == ["demo-3"]
    story = capsys.readouterr().out
    assert "\nHello\n" in story
    assert "demo-3 was killed (kill -9) amid its answer; demo-2 went on with it" in story
    monkeypatch.setenv("FAKE_NODE_ANSWERS", "demo-2")
    assert run(["demo", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["answered"], result["killed"], result["continued"]) == ("demo-2", "demo-2", None)


@pytest.mark.parametrize("count", ["1", "17", "-1"])
def test_a_mesh_has_two_to_sixteen_nodes(count: str) -> None:
    """One node is no mesh, and a laptop is not endless."""
    assert run(["demo", "--nodes", count]) == 2


def test_a_missing_llama_is_one_line_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without llama.cpp nothing is started."""
    monkeypatch.setattr(demo, "has_llama", lambda: False)
    assert run(["demo"]) == 1
    assert capsys.readouterr().err == (
        "meshd: the demo needs llama.cpp, which is not installed; "
        "install it with: pip install llama-cpp-python\n"
    )


@pytest.mark.parametrize("name", ["demo-1", "demo-3"])
def test_a_node_that_fails_is_said_with_its_reason(
    name: str,
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The failed node's last line is passed on, and the others are stopped."""
    monkeypatch.setenv("FAKE_NODE_FAILS", name)
    assert run(["demo"]) == 1
    assert f"meshd: {name} did not start; its last words: port 7" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_node_that_dies_later_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wait for the mesh ends when a node does."""
    monkeypatch.setenv("FAKE_NODE_DIES", "demo-3")
    assert run(["demo"]) == 1
    assert (
        "meshd: demo-3 ended unexpectedly; its last words: out of memory\n"
        in capsys.readouterr().err
    )


def test_a_mesh_without_a_model_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wait has an end, and its line says for what."""
    monkeypatch.setattr(demo, "MODEL", "none")
    monkeypatch.setattr(demo, "MODEL_TIMEOUT_S", 0.0)
    assert run(["demo", "--nodes", "2"]) == 1
    assert "demo-2 offered no model within 0 s" in capsys.readouterr().err


def test_nodes_that_do_not_stop_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deaf node costs its time-out and is gone."""
    monkeypatch.setenv("FAKE_NODE_DEAF", "1")
    monkeypatch.setattr(children, "GOODBYE_TIMEOUT_S", 0.1)
    assert run(["demo", "--nodes", "2"]) == 0


def _driven(folder: pathlib.Path) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """A demo in a process of its own that hangs when its mesh is up, and its nodes."""
    hang = "demo._wait_for_model = lambda members: (print('up', flush=True), sys.stdin.read())"
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(before=hang)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    nodes = _nodes_in(folder)
    assert len(nodes) == 3
    return process, nodes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_told_to_stop_puts_everything_away(
    number: signal.Signals, folder: pathlib.Path
) -> None:
    """Ctrl-C, SIGTERM and a closed terminal: no node, no folder, no word."""
    process, _ = _driven(folder)
    process.send_signal(number)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output) == (130, b"")
    assert not _nodes_in(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux kills orphans")
def test_a_demo_that_is_killed_leaves_no_node(folder: pathlib.Path) -> None:
    """kill -9 of the demo ends its nodes too."""
    process, nodes = _driven(folder)
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    _, living = psutil.wait_procs(nodes, timeout=TIMEOUT_S)
    assert not living
