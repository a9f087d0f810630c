"""The one place for `meshd sim fuzz`: many drawn scenarios, and what they violate."""

import pathlib
from typing import Annotated

import typer

from meshd.cli import terminal
from meshd.cli.options import JsonOption
from meshd.failures import UserError


def fuzz(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many.")] = 100,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="Where to begin.")] = 0,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=3, max=1_000, help="In the place of 3 to 50.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="In the place of all cores.")
    ] = None,
    out: Annotated[
        pathlib.Path,
        typer.Option("--out", metavar="DIR", help="Where scenario files of failures are written."),
    ] = pathlib.Path(),
    as_json: JsonOption = False,
) -> None:
    """Draw scenarios with all faults from seeds and check all that must hold.

    A failure is made short and written as a scenario file; the exit status is then 1.
    """
    from simulations.fuzz import fuzz as look
    from simulations.fuzz import save

    if not out.is_dir():
        raise UserError(f"{out} is no folder")
    failed = []
    with terminal.counted(f"fuzzing {seeds} seeds", seeds) as count:
        for finding in look(first_seed, seeds, nodes=nodes, processes=processes):
            count()
            if not finding.violations:
                continue
            failed.append(finding)
            try:
                path = save(finding, out)
            except OSError as error:
                raise UserError(f"cannot write to {out}: {error.strerror}") from error
            if not as_json:
                print(f"seed {finding.seed}: {finding.violations[0]}")
                print(f"  repeat: meshd sim run {path} --check --seed {finding.seed}", flush=True)
    if as_json:
        rows = [finding.to_json() for finding in failed]
        terminal.print_json({"seeds": seeds, "first_seed": first_seed, "failed": rows})
    else:
        print(f"{seeds} seeds, {len(failed)} failed")
    if failed:
        raise typer.Exit(1)
