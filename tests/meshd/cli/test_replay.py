"""`meshd sim replay`: a recording from the command line."""

import json
import pathlib

import pytest

from meshd import __version__
from meshd.cli.app import run
from tests.helpers.recordings import make_trace


@pytest.fixture
def trace(tmp_path: pathlib.Path) -> pathlib.Path:
    """A recording of two events."""
    return make_trace(tmp_path / "trace")


def test_a_recording_is_replayed(trace: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for people, one object for programs; `--effects` tells each event."""
    assert run(["sim", "replay", str(trace)]) == 0
    assert "anna: 2 events over 2.0 s, the same 0 effects" in capsys.readouterr().out
    assert run(["sim", "replay", str(trace), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["same"], told["events"], told["seconds"], told["cut"]) == (True, 2, 2.0, None)
    assert told["meshd"] == __version__
    assert run(["sim", "replay", str(trace), "--effects"]) == 0
    assert "2 2.000000 s  Delayed lag_ns=7" in capsys.readouterr().out
    assert run(["sim", "replay", str(trace), "--effects", "--json"]) == 0
    first, *_, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["event"] == {"type": "Delayed", "lag_ns": 7}
    assert last["same"]


def test_a_cut_recording_is_told(trace: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is replayed as far as it goes."""
    trace.write_bytes(trace.read_bytes()[:-3])
    assert run(["sim", "replay", str(trace)]) == 0
    captured = capsys.readouterr()
    assert "anna: 1 events" in captured.out
    assert "the recording is cut within a line" in captured.err


def test_the_first_difference_is_one_line(
    trace: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With who recorded, when that was another version; the object says the same."""
    text = trace.read_text().replace(f'"meshd":"{__version__}"', '"meshd":"0.0.9"')
    lines = text.splitlines(keepends=True)
    trace.write_text("".join([*lines[:4], lines[4].replace('"check":"', '"check":"x')]))
    assert run(["sim", "replay", str(trace)]) == 1
    captured = capsys.readouterr()
    assert "event 2, Delayed at 2.000 s (line 4), effects" in captured.err
    assert "recorded by meshd 0.0.9" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert run(["sim", "replay", str(trace), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["same"]
    assert told["difference"].startswith("event 2, Delayed")


def test_what_cannot_be_replayed_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file, a folder, anything else."""
    other = tmp_path / "other"
    other.write_bytes(b"\x80nothing\n\n")
    for path, said in (
        (tmp_path / "none", "cannot read"),
        (tmp_path, "cannot read"),
        (other, "line 1: this is no line of a recording"),
    ):
        assert run(["sim", "replay", str(path)]) == 1
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
