"""The one place for `meshd drain`: let what runs here end, and nothing more come."""

import time
from typing import Annotated

import typer

from meshd.cli import terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.control_client import ask
from meshd.failures import UserError
from meshd.options import parse_duration_s

LOOK_EVERY_S = 0.5


def drain(
    context: typer.Context,
    within: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to wait for what runs: 30s, 5m.")
    ] = "60s",
    is_over: Annotated[bool, typer.Option("--end", help="Serve again.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve nobody any more, and wait until what runs here is done: before a restart, or a game."""
    wait_s = parse_duration_s(within, what="--within")
    path = chosen_home(context, home)
    until = time.monotonic() + wait_s
    told = ask(path, "drain", is_over=is_over)
    while not is_over and told["running"] and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
        told = ask(path, "drain")
    if not is_over and told["running"]:
        raise UserError(
            f"{told['running']} requests still run here; wait for them with meshd drain again, or "
            "stop the node: other nodes that have the model go on with them"
        )
    if as_json:
        terminal.print_json(told)
    elif is_over:
        print("This node serves again.")
    else:
        print("Nothing runs here any more, and nothing comes. To serve again: meshd drain --end")
