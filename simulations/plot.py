"""The one place for pictures of results. It needs matplotlib, which comes with the extra `sim`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from simulations.curve import Moment
from simulations.origin import digest
from simulations.run import Result

SUFFIXES: Final = (".png", ".svg", ".pdf")


class PlotError(Exception):
    """No picture can be made; the text is one line with the mend."""


def check(path: pathlib.Path) -> None:
    """Raise PlotError, before anything runs, when `path` cannot become a picture."""
    if path.suffix not in SUFFIXES:
        raise PlotError(f"{path} must end with {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise PlotError(f"{path.parent} is no folder")
    try:
        import matplotlib  # noqa: F401  # an extra, and slow to import
    except ImportError as error:
        raise PlotError("matplotlib is not installed: pip install 'meshd[sim]'") from error


def plot_run(
    result: Result, moments: Sequence[Moment], duration_s: float, path: pathlib.Path
) -> None:
    """How views and truth parted and met: wrong and suspected pairs over time, and when acts began.

    Raises OSError.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    times = [moment.at_s for moment in moments] + [duration_s]
    for name, values in (
        ("wrong", [moment.wrong for moment in moments]),
        ("suspected", [moment.suspected for moment in moments]),
    ):
        axes.step(times, [*values, *values[-1:]], where="post", label=f"pairs {name}")
    for act in result.configuration.get("act", ())[:50]:
        axes.axvline(act.get("at_s", 0), linestyle=":", linewidth=0.8, color="grey")
        axes.annotate(
            act["do"],
            (act.get("at_s", 0), 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            fontsize=7,
        )
    axes.set_xlim(0, duration_s)
    axes.set_xlabel("virtual seconds")
    axes.set_ylabel("ordered pairs of nodes")
    axes.legend()
    name = result.scenario.replace("$", r"\$")
    figure.suptitle(f"{name}, {result.nodes} nodes, seed {result.seed}")
    _sign(figure, result.commit, digest(result.configuration))
    figure.savefig(path)


def plot_sweep(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], measure: str, path: pathlib.Path
) -> None:
    """A measure over the first parameter: every seed a dot, the medians a line for each setting of
    the other parameters. Raises OSError.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, dict[Any, list[float]]] = {}
    for row in rows:
        value = row.get("measures", {}).get(measure)
        if value is not None:
            others = ", ".join(f"{key}={row['point'][key]}" for key in keys[1:])
            place = row["point"][keys[0]] if keys else row["seed"]
            place = str(place) if isinstance(place, (list, dict)) else place
            lines.setdefault(others, {}).setdefault(place, []).append(value)
    for label, points in lines.items():
        middles = [sorted(values)[len(values) // 2] for values in points.values()]
        (line,) = axes.plot(list(points), middles, marker="o", label=label or "median")
        for place, values in points.items():
            axes.scatter([place] * len(values), values, s=6, alpha=0.5, color=line.get_color())
    axes.set_xlabel(keys[0] if keys else "seed")
    axes.set_ylabel(measure)
    if lines:
        axes.legend()
    if rows:
        name = rows[0]["scenario"].replace("$", r"\$")
        figure.suptitle(f"{name}: {measure}")
        _sign(figure, rows[0]["commit"], digest({"rows": [row["configuration"] for row in rows]}))
    figure.savefig(path)


def _sign(figure: Any, commit: str, configuration: str) -> None:  # noqa: ANN401  # a Figure
    """Where it came from, in the corner."""
    text = f"commit {commit}, configuration {configuration}"
    figure.text(0.995, 0.005, text, ha="right", va="bottom", fontsize=6, color="grey")
