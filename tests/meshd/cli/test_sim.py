"""`meshd sim`: the simulator from the command line."""

import json
import pathlib

import pytest

from meshd.cli.app import run
from protocol.membership import Membership
from simulations.swarm import Swarm


def test_a_scenario_is_run(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    """By its name; JSON is one object on one line, the CSV file has a row."""
    csv = tmp_path / "out.csv"
    arguments = ["sim", "run", "join_storm", "--nodes", "6", "--seed", "3"]
    assert run([*arguments, "--json", "--csv", str(csv)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"scenario", "seed", "nodes", "trace_hash", "measures"} <= told.keys()
    assert (told["scenario"], told["seed"], told["nodes"]) == ("join_storm", 3, 6)
    assert told["measures"]["join_last_s"] > 0
    assert csv.read_text().count("\n") == 2
    assert run(arguments) == 0
    assert told["trace_hash"] in capsys.readouterr().out


def test_another_protocol_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    """By the name of its class; the scenario and the measures are the same."""
    arguments = ["sim", "run", "swim_load", "--nodes", "4", "--json"]
    traces = []
    for more in ([], ["--node", "simulations.plain_swim:PlainSwim"]):
        assert run([*arguments, *more]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["measures"]["mistakes"] == 0
        traces.append(told["trace_hash"])
    assert traces[0] != traces[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "join_strom"], "did you mean 'join_storm'?"),
        (["run", "nowhere.toml"], "cannot read nowhere.toml"),
        (["run", "flapping_link", "--nodes", "5"], "node 19 of 5"),
        (["run", "swim_load", "--node", "nowhere:Node"], "no module 'nowhere'"),
        (["bench", "--nodes", "4", "--starved", "5"], "no more nodes"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """With the mend, on standard error."""
    assert run(["sim", *arguments]) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_library_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and what happens."""
    assert run(["sim", "list", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["scenarios"]]
    assert "join_storm" in names
    assert run(["sim", "list"]) == 0
    assert "join_storm" in capsys.readouterr().out


def test_the_pace_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As one object, or as a table."""
    arguments = ["sim", "bench", "--nodes", "5", "--seconds", "1"]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["node_seconds_per_second"] > 0
    assert run(arguments) == 0
    assert "node_seconds_per_second" in capsys.readouterr().out


def test_a_run_is_checked_and_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    """`--check` says that all holds, `--plot` makes a picture."""
    pytest.importorskip("matplotlib")
    plot = tmp_path / "p.png"
    arguments = ["sim", "run", "single_death", "--nodes", "5", "--check", "--plot", str(plot)]
    assert run(arguments) == 0
    assert "checked: all holds" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["violations"] == []


def test_seeds_are_fuzzed(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    """What fails is told with the line that repeats it, and that line repeats it."""
    arguments = ["sim", "fuzz", "--seeds", "2", "--nodes", "3", "--processes", "1"]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"seeds": 2, "first_seed": 0, "failed": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Membership, "_count", lambda *_: False)
        crash = {"do": "crash", "at_s": 1, "count": 1}
        content = {"nodes": 3, "duration_s": 5, "act": [crash]}
        patch.setattr(Swarm, "content", lambda self: content)
        patch.setattr("simulations.fuzz.TRIES_MAX", 3)
        assert run(["sim", "fuzz", "--seeds", "1", "--processes", "1", "--out", str(tmp_path)]) == 1
        told = capsys.readouterr().out
        assert "seed 0: liveness: " in told
        repeat = told.split("repeat: meshd ")[1].splitlines()[0]
        assert run(repeat.split()) == 1
        assert "violated: liveness" in capsys.readouterr().out


def test_a_grid_is_swept_and_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    """A second run finds the rows that are there, and adds only what is missing."""
    out = tmp_path / "rows.jsonl"
    arguments = ["sim", "sweep", "single_death", "--set", "nodes=3,4", "--processes", "1"]
    arguments += ["--out", str(out)]
    assert run([*arguments, "--seeds", "1", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["rows"]
    assert [row["point"] for row in first] == [{"nodes": 3}, {"nodes": 4}]
    assert run([*arguments, "--seeds", "2", "--measure", "mistakes"]) == 0
    assert out.read_text().count("\n") == 4
    assert "MISTAKES" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fuzz", "--out", "no/such/folder"], "is no folder"),
        (["sweep", "single_death", "--node", "nowhere:Node"], "no module 'nowhere'"),
        (["sweep", "single_death", "--set", "nods=3"], "did you mean 'nodes'?"),
        (["sweep", "single_death", "--set", "nodes"], "is not KEY=VALUE"),
        (["sweep", "single_death", "--out", "."], "cannot read ."),
        (["run", "single_death", "--plot", "x.doc"], "must end with .png"),
    ],
)
def test_what_cannot_be_searched_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Before anything runs."""
    test_what_cannot_be_run_is_one_line(capsys, arguments, said)
