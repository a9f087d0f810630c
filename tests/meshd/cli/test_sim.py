"""`meshd sim`: the simulator from the command line."""

import json
import pathlib

import pytest

from meshd.cli.app import run


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
        (["run", "region_loss", "--nodes", "5"], "node 44 of 5"),
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
