"""Whether the simulator predicts real daemons: medians of both, and the error, side by side.

Run: python -m tests.benchmarks.truth [--case NAME] [--nodes N] [--runs R] [--seeds S]
     [--real FILE.json] [--json FILE]

Real daemons run as in `python -m tests.benchmarks.membership CASE`, or `--real` has what that wrote
earlier with `--json`. The same is done to as many nodes in virtual time, S times, with what
`calibration.py` says of this kind of machine. A figure passes when the medians are within 10 %.
The exit status is 1 when any does not.
"""

import argparse
import functools
import json
import multiprocessing
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.benchmarks.membership.__main__ import CASES as REAL_CASES
from tests.benchmarks.membership.__main__ import measure
from tests.benchmarks.membership.cases import Row, Size
from tests.benchmarks.membership.meshd_fleet import MeshdFleet
from tests.benchmarks.truth.comparison import Comparison, compare
from tests.benchmarks.truth.simulated import CASES, DidNotForm, Part, simulate

SIZES: Final[Mapping[str, Sequence[int]]] = {
    "death": (30, 50),
    "host_gone": (30, 50),
    "partition": (30, 50),
    "join_storm": (30, 50),
}
"""What is run when nobody says otherwise."""
RUNS: Final = 20
_RUNS_PER_MESH: Final = {"death": 11, "host_gone": 11, "partition": 3, "join_storm": 1}
"""So often the benchmark does it to one mesh: what a mesh remembers is part of what is compared."""


class BadInput(Exception):
    """A file that is not the membership benchmark's; the text is one line."""


def read_real(path: pathlib.Path) -> list[dict[str, Any]]:
    """What that benchmark wrote of meshd's daemons in cases that are simulated. Raises BadInput."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        found = [
            {
                "case": str(column["case"]),
                "nodes": int(column["nodes"]),
                "settle_s": float(column["settle_s"]),
                "long_s": float(column["long_s"]),
                "rows": [
                    {
                        str(key): None if value is None else float(value)
                        for key, value in row.items()
                    }
                    for row in column["rows"]
                ],
            }
            for column in report
            if column["title"] == MeshdFleet.title and column["case"] in CASES
        ]
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "write one with python -m tests.benchmarks.membership CASE --json FILE"
        raise BadInput(f"{path} is no report of the membership benchmark; {hint}") from error
    if not found:
        raise BadInput(f"{path} has no case of meshd's daemons among {', '.join(CASES)}")
    return found


def measure_real(case: str, size: Size) -> dict[str, Any]:
    """Run daemons. Raises BadInput when they cannot."""
    print(f"{case}, {size.nodes} daemons, {size.runs} runs", flush=True)
    column = measure(REAL_CASES[case], size, MeshdFleet)
    if column.stopped is not None or not column.rows:
        raise BadInput(f"{case}: {column.stopped or 'no rows'}")
    size_fields = {"nodes": size.nodes, "settle_s": size.settle_s, "long_s": size.long_s}
    return {"case": case, **size_fields, "rows": column.rows}


def simulate_all(real: Mapping[str, Any], seeds: int, processes: int) -> list[Row]:
    """As many rows, or a few more, from meshes of the size that was measured."""
    runs = min(_RUNS_PER_MESH[real["case"]], len(real["rows"]), seeds)
    parts = [
        Part(
            seed=seed,
            nodes=real["nodes"],
            runs=runs,
            settle_s=real["settle_s"],
            long_s=real["long_s"],
        )
        for seed in range(-(-seeds // runs))
    ]
    one = functools.partial(simulate, real["case"])
    if processes == 1:
        return [row for part in parts for row in one(part)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [row for rows in pool.imap(one, parts) for row in rows]


def print_table(title: str, figures: Sequence[Comparison]) -> None:
    """One line per figure."""
    print(f"\n{title}")
    print(f"  {'':<30}{'real':>8}{'(95 % sure)':>16}{'runs':>6}", end="")
    print(f"{'simulated':>11}{'runs':>6}{'error':>9}")
    for one in figures:
        low, high = one.real_interval
        between = f"{low:.2f} to {high:.2f}"
        print(f"  {one.figure:<30}{one.real:>8.2f}{between:>16}{one.real_runs:>6}", end="")
        print(f"{one.simulated:>11.2f}{one.simulated_runs:>6}{one.error_percent:>+8.1f} %", end="")
        print(f"  {one.verdict}")
    print(flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--case", choices=sorted(CASES), help="in place of all")
    parser.add_argument("--nodes", type=int, help="in place of 30 and 50")
    parser.add_argument("--runs", type=int, default=RUNS, help="of real daemons")
    parser.add_argument("--seeds", type=int, default=200, help="simulated runs")
    parser.add_argument("--long-s", type=float, default=75.0, help="how long a partition lasts")
    parser.add_argument("--real", type=pathlib.Path, metavar="FILE", help="measured earlier")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="all rows of both")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    least_of = {"nodes": 4, "runs": 1, "seeds": 1, "processes": 1, "long_s": 1}
    for name, least in least_of.items():
        value = getattr(chosen, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    return chosen


def _reals(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    if chosen.real is not None:
        columns = read_real(chosen.real)
        return [
            column
            for column in columns
            if chosen.case in (None, column["case"]) and chosen.nodes in (None, column["nodes"])
        ]
    return [
        measure_real(case, Size(nodes=nodes, runs=chosen.runs, long_s=chosen.long_s))
        for case in ([chosen.case] if chosen.case else CASES)
        for nodes in ([chosen.nodes] if chosen.nodes else SIZES[case])
    ]


def main() -> None:
    """Measure, simulate, compare."""
    chosen = _arguments()
    report: list[dict[str, Any]] = []
    is_true = True
    try:
        for real in _reals(chosen):
            rows = simulate_all(real, chosen.seeds, chosen.processes)
            figures = compare(real["rows"], rows)
            print_table(f"{real['case']}, {real['nodes']} nodes", figures)
            is_true = is_true and all(one.is_within for one in figures)
            report.append({**real, "simulated": rows})
    except (BadInput, DidNotForm) as error:
        sys.exit(str(error))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if is_true and report else 1)


if __name__ == "__main__":
    main()
