"""How fast real daemons agree on who is there, side by side with Debian's Serf in one run.

Run: python -m tests.benchmarks.membership CASE [--nodes N] [--runs R] [--short] [--json FILE]
     [--only meshd|serf] [--source log|events]

CASE is one of those in `cases.py`, or `all`. Without the package serf, its column is missing and
the output says so.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from tests.benchmarks.membership import cases
from tests.benchmarks.membership.cases import OpenFleet, Row, Rows, Size
from tests.benchmarks.membership.fleet import Fleet
from tests.benchmarks.membership.listener import Listener
from tests.benchmarks.membership.meshd_fleet import MeshdFleet
from tests.benchmarks.membership.places import CannotRun, Place
from tests.benchmarks.membership.serf_fleet import SerfFleet

FLEETS: Final[dict[str, type[Fleet]]] = {"meshd": MeshdFleet, "serf": SerfFleet}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A case, its usual sizes, and its short form for a look or for CI."""

    run: Callable[[OpenFleet, Size], Rows]
    sizes: Sequence[Size]
    short: Size


def _short(nodes: int, runs: int = 1, **more: Any) -> Size:  # noqa: ANN401  # fields of Size
    return Size(nodes=nodes, runs=runs, settle_s=2.0, **more)


CASES: Final = {
    "join_storm": Case(cases.join_storm, [Size(nodes=50, runs=20)], _short(10, 3)),
    "death": Case(cases.death, [Size(nodes=30, runs=11), Size(nodes=50, runs=11)], _short(10, 2)),
    "host_gone": Case(cases.host_gone, [Size(nodes=30, runs=11)], _short(6)),
    "pause": Case(cases.pause, [Size(nodes=20, runs=3)], _short(6)),
    "massacre": Case(cases.massacre, [Size(nodes=20, runs=5)], _short(8)),
    "leave": Case(cases.leave, [Size(nodes=30, runs=10)], _short(8, 2)),
    "restart": Case(cases.restart, [Size(nodes=20, runs=3)], _short(6)),
    "partition": Case(cases.partition, [Size(nodes=20, runs=3)], _short(6, long_s=30.0)),
    "idle": Case(cases.idle, [Size(nodes=30, runs=1)], _short(6, idle_s=10.0)),
}


@dataclasses.dataclass(slots=True)
class Column:
    """What one kind of daemon did in a case."""

    title: str
    rows: list[Row] = dataclasses.field(default_factory=list)
    stopped: str | None = None
    """Why there are no more rows."""


def measure(case: Case, size: Size, kind: type[Fleet]) -> Column:
    """Run a case with one kind of daemon, in a folder that is removed afterwards."""
    column = Column(kind.title)

    @contextlib.contextmanager
    def open_fleet(place_of: Callable[[str], Place]) -> Iterator[Fleet]:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mb"))
            yield stack.enter_context(kind(Listener(), pathlib.Path(folder), place_of))

    try:
        with contextlib.closing(case.run(open_fleet, size)) as rows:
            for row in rows:
                column.rows.append(row)
                shown = ", ".join(f"{key} {_number(value)}" for key, value in row.items())
                print(f"  {kind.title} run {len(column.rows)}: {shown}", flush=True)
    except CannotRun as error:
        column.stopped = str(error)
        print(f"  {kind.title} stopped: {error}", flush=True)
    return column


# ---- the report ----


def _number(value: float | None) -> str:
    if value is None:
        return "never"
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def summary(rows: Sequence[Row]) -> dict[str, dict[str, float | int | None]]:
    """For each figure: median, least and most of what came in time, and how often it did not."""
    figures: dict[str, dict[str, float | int | None]] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [value for row in rows if (value := row.get(key)) is not None]
        figures[key] = {
            "median": statistics.median(values) if values else None,
            "least": min(values, default=None),
            "most": max(values, default=None),
            "never": sum(row.get(key) is None for row in rows),
        }
    return figures


def print_table(name: str, size: Size, columns: Sequence[Column]) -> None:
    """Each figure, one line per kind of daemon."""
    print(f"\n{name}, {size.nodes} nodes")
    print(f"  {'':<38}{'':<7}{'runs':>5}{'median':>9}{'least':>9}{'most':>9}{'never':>7}")
    sums = {column.title: summary(column.rows) for column in columns}
    for key in dict.fromkeys(key for figures in sums.values() for key in figures):
        for column in columns:
            if key in sums[column.title]:
                figure = sums[column.title][key]
                print(f"  {key:<38}{column.title:<7}{len(column.rows):>5}", end="")
                for what in ("median", "least", "most"):
                    print(f"{_number(figure[what]):>9}", end="")
                print(f"{figure['never']:>7}")
    for column in columns:
        if column.stopped is not None:
            print(f"  {column.title}: {column.stopped}")
    print(flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("case", choices=[*CASES, "all"])
    parser.add_argument("--nodes", type=int, help="in place of the case's own")
    parser.add_argument("--runs", type=int, help="in place of the case's own")
    parser.add_argument("--short", action="store_true", help="a few nodes and runs")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="all figures of all runs")
    parser.add_argument("--only", choices=sorted(FLEETS), help="one kind of daemon")
    parser.add_argument("--source", choices=("log", "events"), default="log")
    return parser.parse_args()


def _sizes(case: Case, chosen: argparse.Namespace) -> list[Size]:
    changes = {
        key: value for key in ("nodes", "runs") if (value := getattr(chosen, key)) is not None
    }
    sizes = [case.short] if chosen.short else case.sizes
    return list(dict.fromkeys(dataclasses.replace(size, **changes) for size in sizes))


def main() -> None:
    """Run what was chosen; print and keep the figures."""
    chosen = _arguments()
    MeshdFleet.source = chosen.source
    kinds = [kind for title, kind in FLEETS.items() if chosen.only in (None, title)]
    report: list[dict[str, Any]] = []
    for name in CASES if chosen.case == "all" else [chosen.case]:
        for size in _sizes(CASES[name], chosen):
            print(f"{name}, {size.nodes} nodes, {size.runs} runs", flush=True)
            columns = [measure(CASES[name], size, kind) for kind in kinds]
            print_table(name, size, columns)
            for column in columns:
                sums = {"summary": summary(column.rows), **dataclasses.asdict(column)}
                report.append({"case": name, **dataclasses.asdict(size), **sums})
            if chosen.json is not None:
                chosen.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(any(entry["stopped"] and entry["title"] == "meshd" for entry in report))


if __name__ == "__main__":
    main()
