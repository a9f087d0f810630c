"""The one place for `meshd sim sweep`: a scenario over a grid of parameters and seeds."""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from meshd.cli import terminal
from meshd.cli.options import JsonOption
from meshd.failures import UserError

if TYPE_CHECKING:
    from simulations.sweep import Job, Row

_MEASURES = ("detection_last_p50_s", "mistakes", "datagrams_per_node_s", "agreement_s")


def sweep(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="A name (see: meshd sim list) or a TOML file.")
    ],
    axes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=V,V", help="As in the file: network.loss_percent=0,5"),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each point.")] = 10,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="Where to begin.")] = 1,
    out: Annotated[
        pathlib.Path | None,
        typer.Option("--out", metavar="FILE", help="JSON lines; a sweep cut off goes on in it."),
    ] = None,
    measures: Annotated[
        list[str] | None, typer.Option("--measure", help="Columns of the table.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="In the place of all cores.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option("--dask", metavar="ADDRESS", help="A Dask scheduler does it.")
    ] = None,
    node: Annotated[
        str | None,
        typer.Option("--node", metavar="MODULE:CLASS", help="Another protocol in place of ours."),
    ] = None,
    plot: Annotated[
        pathlib.Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the first measure: .png, .svg or .pdf."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Also check all that must hold.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a scenario at every combination of parameters, with many seeds each."""
    from simulations import sweep as sweeping
    from simulations.plot import PlotError, plot_sweep
    from simulations.plot import check as check_plot
    from simulations.section import ScenarioError
    from simulations.workers import dask_cluster, local

    try:
        if plot is not None:
            check_plot(plot)
        grid = [sweeping.parse_axis(text) for text in axes or ()]
        jobs = sweeping.plan(
            scenario, grid, range(first_seed, first_seed + seeds), is_checked=check, node=node
        )
        known = sweeping.read_rows(out) if out is not None else {}
    except (ScenarioError, PlotError) as error:
        raise UserError(str(error)) from error
    rows = _rows(jobs, known, out, dask_cluster(dask) if dask is not None else local(processes))
    columns = measures or list(_MEASURES)
    keys = [axis.key for axis in grid]
    if plot is not None:
        try:
            plot_sweep(rows, keys, columns[0], plot)
        except OSError as error:
            raise UserError(f"cannot write {plot}: {error.strerror}") from error
    if as_json:
        terminal.print_json({"rows": rows})
    else:
        table = [
            tuple("never" if cell is None else str(cell) for cell in line)
            for line in sweeping.summary(rows, columns)
        ]
        terminal.print_table((*keys, "runs", *columns), table)
    if any(row.get("error") or row.get("violations") for row in rows):
        raise typer.Exit(1)


def _rows(
    jobs: "Sequence[Job]",
    known: "Mapping[str, Row]",
    out: pathlib.Path | None,
    workers: contextlib.AbstractContextManager[tuple[Executor, int]],
) -> "list[Row]":
    """Every job's row, in the order of the jobs; what is not known is run and written down."""
    from simulations.sweep import run_job
    from simulations.workers import WorkersError, spread

    rows = {job.name: known[job.name] for job in jobs if job.name in known}
    waiting = [job for job in jobs if job.name not in known]
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(out.open("ab+")) if out else None
            if file is not None and _is_cut_off(file):
                file.write(b"\n")
            count = stack.enter_context(terminal.counted(f"{len(jobs)} runs", len(jobs)))
            count(len(rows))
            found = spread(stack.enter_context(workers), run_job, waiting) if waiting else ()
            for row in found:
                rows[row["run"]] = row
                count()
                if file is not None:
                    file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
                    file.flush()
    except WorkersError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return [rows[job.name] for job in jobs]


def _is_cut_off(file: BinaryIO) -> bool:
    """Whether its last line has no end."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
