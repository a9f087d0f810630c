"""Sweeps: every point and seed once, in any place, and only once."""

import json
import pathlib

import pytest

from simulations.section import ScenarioError
from simulations.sweep import Axis, parse_axis, plan, read_rows, run_job, summary
from simulations.workers import WorkersError, dask_cluster, local, spread

AXES = [Axis(key="nodes", values=(3, 4)), Axis(key="network.loss_percent", values=(0, 2))]


def test_axes_are_read_as_toml_or_as_words() -> None:
    """Numbers, lists and names."""
    assert parse_axis("nodes=3,4") == Axis(key="nodes", values=(3, 4))
    assert parse_axis("network.delay_ms=[1, 2],[3, 4]").values == ([1, 2], [3, 4])
    assert parse_axis("form=whole,together").values == ("whole", "together")
    for wrong in ("nodes", "=3", "nodes="):
        with pytest.raises(ScenarioError, match="KEY=VALUE"):
            parse_axis(wrong)


def test_a_plan_holds_every_combination_and_seed() -> None:
    """Each run has a name of its own, the same whenever it is planned again."""
    jobs = plan("single_death", AXES, range(3))
    assert len(jobs) == 12
    assert len({job.name for job in jobs}) == 12
    assert [job.name for job in plan("single_death", AXES, range(3))] == [job.name for job in jobs]
    assert jobs[-1].point == {"nodes": 4, "network.loss_percent": 2}
    assert jobs[-1].content["network"]["loss_percent"] == 2


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("nods", "did you mean 'nodes'"),
        ("nodes", "is not in 2 to"),
        ("act.7.count", "no place 'act.7.count'"),
        ("act.x.count", "no place 'act.x.count'"),
        ("title.x", "no place 'title.x'"),
    ],
)
def test_a_bad_axis_is_one_line_before_anything_runs(key: str, said: str) -> None:
    """With the mend."""
    with pytest.raises(ScenarioError, match=said):
        plan("single_death", [Axis(key=key, values=(-1,))], [1])


def test_rows_are_the_same_on_processes_and_a_cluster() -> None:
    """Real processes, and a real Dask scheduler with real workers."""
    distributed = pytest.importorskip("distributed")
    jobs = plan("single_death", AXES[:1], [1])
    expected = [run_job(job) for job in jobs]
    with local(2) as workers:
        assert sorted(spread(workers, run_job, jobs), key=_nodes) == expected
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        dask_cluster(cluster.scheduler_address) as workers,
    ):
        assert sorted(spread(workers, run_job, jobs), key=_nodes) == expected


def _nodes(row: dict[str, int]) -> int:
    return row["nodes"]


def test_nobody_at_an_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than a traceback of the library's."""
    pytest.importorskip("distributed")
    monkeypatch.setattr("simulations.workers.CONNECT_S", 1)
    with pytest.raises(WorkersError, match="no Dask scheduler answers"):  # noqa: SIM117  # it is left by raising
        with dask_cluster("tcp://127.0.0.1:1"):
            pass


def test_what_was_written_is_known_again(tmp_path: pathlib.Path) -> None:
    """A line that was cut off, and one that is none, are not."""
    file = tmp_path / "rows.jsonl"
    assert read_rows(file) == {}
    row = run_job(plan("single_death", AXES[:1], [1])[0])
    file.write_text(json.dumps(row) + '\n[]\n{"run": "x", "po')
    assert read_rows(file) == {row["run"]: json.loads(json.dumps(row))}
    with pytest.raises(ScenarioError, match="cannot read"):
        read_rows(tmp_path)


def test_another_protocol_is_swept_and_named() -> None:
    """In each row, and in what tells the runs apart; a class that is none is told at once."""
    theirs = "simulations.plain_swim:PlainSwim"
    ours, other = (plan("single_death", AXES[:1], [1], node=node)[0] for node in (None, theirs))
    assert ours.name != other.name
    assert run_job(ours)["node"] == "protocol.node:Node"
    row = run_job(other)
    assert row["node"] == theirs
    assert row["trace_hash"] != run_job(ours)["trace_hash"]
    with pytest.raises(ScenarioError, match="no class"):
        plan("single_death", AXES[:1], [1], node="simulations.plain_swim:PlainSwym")


def test_a_mesh_that_does_not_form_is_a_row() -> None:
    """With its error; the sweep goes on."""
    axis = Axis(key="network.loss_percent", values=(100,))
    slow = Axis(key="network.delay_ms", values=(100_000,))
    job = plan("single_death", [axis, slow, Axis(key="nodes", values=(3,))], [1])[0]
    assert "did not come together" in run_job(job)["error"]


def test_a_summary_is_the_median_of_each_point() -> None:
    """Over those that happened, if they are not too few."""
    rows = [
        {"point": {"nodes": nodes}, "measures": {"m": value}}
        for nodes, values in ((3, (1, 9, 2)), (4, (None, None, 5)))
        for value in values
    ]
    assert list(summary(rows, ["m", "unknown"])) == [[3, 3, 2, None], [4, 3, None, None]]
