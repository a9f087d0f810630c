"""The benchmark of the simulator's truth compares what is alike; no daemon runs here."""

import json
import pathlib

import pytest

from tests.benchmarks.membership.cases import Row
from tests.benchmarks.truth.__main__ import BadInput, read_real
from tests.benchmarks.truth.comparison import compare, median_interval
from tests.benchmarks.truth.simulated import CASES, Part, simulate


@pytest.mark.parametrize("case", list(CASES))
def test_every_case_gives_its_figures(case: str) -> None:
    """Each case ends, with a time for each figure, and the same ones for the same seed."""
    part = Part(seed=1, nodes=6, runs=1, settle_s=2.0, long_s=30.0)
    (row,) = simulate(case, part)
    assert None not in row.values()
    assert [row] == simulate(case, part)


def test_medians_and_their_error_are_told() -> None:
    """Of each figure that both have; the sign says who is slower."""
    real: list[Row] = [
        {"last dead s": 4.0},
        {"last dead s": 5.0},
        {"last dead s": None, "false deaths": 0.0},
    ]
    (figure,) = compare(real, [{"last dead s": 5.4}])
    assert (figure.real, figure.real_runs) == (4.5, 2)
    assert figure.error_percent == pytest.approx(20.0)
    assert not figure.is_within


def test_steps_are_compared_for_themselves() -> None:
    """From the first suspicion to the first death, whenever the first suspicion came."""
    real: list[Row] = [{"first suspect s": at, "first dead s": at + 1.5} for at in (1.0, 9.0)]
    simulated: list[Row] = [{"first suspect s": 3.0, "first dead s": 4.5}]
    steps = {one.figure: one.error_percent for one in compare(real, simulated)}
    assert steps["first suspect to first dead s"] == pytest.approx(0.0)


@pytest.mark.parametrize(("count", "first"), [(3, 0), (5, 0), (6, 0), (11, 1), (20, 5), (30, 9)])
def test_how_sure_a_median_is(count: int, first: int) -> None:
    """The places that tables of the binomial distribution name."""
    assert median_interval(range(count)) == (first, count - 1 - first)


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", '[{"title": "meshd"}]', "[]", "null"])
def test_another_file_is_one_line(tmp_path: pathlib.Path, text: str) -> None:
    """Whatever it is."""
    path = tmp_path / "real.json"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_real(path)
    assert "\n" not in str(caught.value)


def test_other_daemons_and_cases_are_left_out(tmp_path: pathlib.Path) -> None:
    """Serf is not what is simulated."""
    size = {"nodes": 6, "settle_s": 2.0, "long_s": 30.0, "rows": [{"last dead s": None}]}
    titles = [("death", "meshd"), ("death", "serf"), ("idle", "meshd")]
    path = tmp_path / "real.json"
    path.write_text(json.dumps([{"case": case, "title": title, **size} for case, title in titles]))
    (found,) = read_real(path)
    assert found["case"] == "death"
