"""The one place for the simulator's commands: the same core in virtual time, without a daemon.

The simulator is imported only when one of them runs.
"""

import json
import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from meshd.cli import sim_fuzz, sim_sweep, terminal
from meshd.cli.options import JsonOption
from meshd.cli.replay import replay
from meshd.failures import UserError

if TYPE_CHECKING:
    from simulations.run import Result

sim = typer.Typer(
    help="Simulate meshes: the very same protocol code in virtual time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
sim.command()(replay)

sim.command(name="fuzz")(sim_fuzz.fuzz)
sim.command(name="sweep")(sim_sweep.sweep)

SeedOption = Annotated[
    int, typer.Option("--seed", help="Decides everything that is left to chance.")
]


@sim.command()
def run(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="A name (see: meshd sim list) or a TOML file.")
    ],
    seed: SeedOption = 1,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=2, help="In place of the scenario's own number.")
    ] = None,
    node: Annotated[
        str | None,
        typer.Option("--node", metavar="MODULE:CLASS", help="Another protocol in place of ours."),
    ] = None,
    csv: Annotated[
        pathlib.Path | None, typer.Option("--csv", metavar="FILE", help="Also write a CSV file.")
    ] = None,
    plot: Annotated[
        pathlib.Path | None,
        typer.Option("--plot", metavar="FILE", help="Also draw it: .png, .svg or .pdf."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Also check all that must hold; then all faults end.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a scenario happen once and tell what it showed."""
    from simulations.curve import Moment, curve_of
    from simulations.library import find_scenario, resized
    from simulations.other_protocols import find_node
    from simulations.plot import PlotError, plot_run
    from simulations.plot import check as check_plot
    from simulations.report import as_csv
    from simulations.run import run as run_scenario
    from simulations.section import ScenarioError
    from simulations.world import World

    moments: list[Moment] = []

    def watch(world: World, start_ns: int) -> None:
        moments.extend(curve_of(world, start_ns))

    try:
        if plot is not None:
            check_plot(plot)
        chosen = find_scenario(scenario)
        if nodes is not None:
            chosen = resized(chosen, nodes)
        make_node = find_node(node) if node is not None else None
        with terminal.progress(f"simulating {chosen.nodes} nodes"):
            result = run_scenario(
                chosen,
                seed,
                make_node=make_node,
                is_checked=check,
                watch=watch if plot is not None else None,
            )
    except (ScenarioError, PlotError) as error:
        raise UserError(str(error)) from error
    try:
        if csv is not None:
            csv.write_text(as_csv([result]), "utf-8")
        if plot is not None:
            plot_run(result, moments, chosen.duration_ns / 1e9, plot)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or csv}: {error.strerror}") from error
    if as_json:
        terminal.print_json(result.to_json())
    else:
        _tell(result, chosen.title)
    if result.violations:
        raise typer.Exit(1)


def _tell(result: "Result", title: str) -> None:
    print(f"{result.scenario}: {title or 'no title'}")
    print(f"seed {result.seed}, {result.nodes} nodes, trace {result.trace_hash}")
    terminal.print_table(
        ("measure", "value"),
        [(name, _shown(value)) for name, value in result.measures.items()],
    )
    for line in result.violations or ():
        print(f"violated: {line}")
    if result.violations == ():
        print("checked: all holds")


@sim.command(name="list")
def scenarios(as_json: JsonOption = False) -> None:
    """List the scenarios that ship."""
    from simulations.library import find_scenario, library

    found = [find_scenario(name) for name in library()]
    if as_json:
        terminal.print_json({"scenarios": [{"name": s.name, "title": s.title} for s in found]})
        return
    terminal.print_table(("name", "what happens"), [(s.name, s.title) for s in found])


@sim.command()
def bench(
    nodes: Annotated[
        int, typer.Option("--nodes", min=2, max=20_000, help="How many nodes.")
    ] = 1_000,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of virtual time.")] = 10.0,
    starved: Annotated[int, typer.Option("--starved", min=0, help="Nodes that read late.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell how fast the simulator is on this machine."""
    from simulations.bench import bench as time_it

    if starved > nodes:
        raise UserError("no more nodes can be starved than there are")
    with terminal.progress(f"timing {nodes} nodes"):
        pace = time_it(nodes, seconds, starved).to_json()
    if as_json:
        terminal.print_json(pace)
        return
    figures = [(key, _shown(value)) for key, value in pace.items() if value is not None]
    terminal.print_table(("figure", "value"), figures)


def _shown(value: object) -> str:
    if value is None:
        return "never"
    return json.dumps(value) if isinstance(value, (bool, float)) else str(value)
