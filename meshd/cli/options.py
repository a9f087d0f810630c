"""The one place for the options that every command has: which home, and text or JSON."""

import pathlib
from typing import Annotated

import typer

from meshd.home import Home, default_home
from meshd.options import wrong_usage

HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="The node's folder; default MESHD_HOME, else the platform's place for data.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def chosen_home(context: typer.Context, named: str | None) -> Home:
    """The home named behind the command, else before it, else the default.

    Raises UserError (wrong usage) for an empty name.
    """
    if named is None:
        named = context.obj
    if named is None:
        return Home(default_home())
    if not named:
        raise wrong_usage("--home names no folder")
    return Home(pathlib.Path(named).expanduser())
