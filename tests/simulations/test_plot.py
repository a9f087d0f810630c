"""Pictures of runs and sweeps, and the curve that they show."""

import builtins
import pathlib

import pytest

from simulations.curve import Moment, curve_of
from simulations.library import find_scenario, resized
from simulations.plot import PlotError, check, plot_run, plot_sweep
from simulations.run import run
from simulations.world import World


def test_a_run_is_drawn(tmp_path: pathlib.Path) -> None:
    """The crash parts views and truth, the death joins them again; the file names its origin."""
    moments: list[Moment] = []

    def watch(world: World, start_ns: int) -> None:
        moments.extend(curve_of(world, start_ns))

    result = run(resized(find_scenario("single_death"), 5), 1, watch=watch)
    assert max(moment.wrong for moment in moments if moment.at_s > 0) == 4
    assert (moments[-1].wrong, moments[-1].suspected) == (0, 0)
    pytest.importorskip("matplotlib")
    plot_run(result, moments, 30, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    assert "<svg" in text
    assert result.commit in text


def test_a_sweep_is_drawn(tmp_path: pathlib.Path) -> None:
    """Also when nothing happened."""
    pytest.importorskip("matplotlib")
    origin = {"scenario": "s", "commit": "c", "configuration": "d", "seed": 1}
    rows = [
        {**origin, "point": {"nodes": nodes, "k": k}, "measures": {"m": nodes * k}}
        for nodes in (3, 4)
        for k in (1, 2)
    ]
    plot_sweep(rows, ["nodes", "k"], "m", tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    plot_sweep(rows[:1], [], "m", tmp_path / "one.png")
    plot_sweep([], ["nodes"], "m", tmp_path / "none.png")


def test_what_cannot_be_drawn_is_said_before_anything_runs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong name, a missing folder, a missing library: one line with the mend."""
    with pytest.raises(PlotError, match="must end with"):
        check(tmp_path / "p.txt")
    with pytest.raises(PlotError, match="no folder"):
        check(tmp_path / "no" / "p.png")
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError
        return real(name, *rest)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PlotError, match=r"pip install 'meshd\[sim\]'"):
        check(tmp_path / "p.png")
