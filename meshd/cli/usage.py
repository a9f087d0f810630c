"""The one place for `meshd usage`: who has used how much. A daemon may run, or not."""

from typing import Annotated

import typer

from meshd.cli import terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.failures import UserError

DAYS = 7
DAYS_MAX = 400
_COLUMNS = ("day", "side", "identity", "model", "requests", "prompt", "output", "seconds")
ID_CHARACTERS = 12
"""Of a node's id in a table."""


def usage(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="So many, today's first.")] = DAYS,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the tokens and seconds that nodes were served here, and that keys asked for here."""
    import sqlite3

    from meshd import clock
    from meshd.usage import read

    path = chosen_home(context, home).usage
    try:
        rows = read(path, days, clock.wall_s())
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"cannot read {path}: {error}; if it is damaged, move it away") from error
    if as_json:
        terminal.print_json({"usage": rows})
        return
    terminal.print_table(
        _COLUMNS,
        [
            (
                *(row["day"], row["side"], row["identity"][:ID_CHARACTERS], row["model"]),
                *(str(row[name]) for name in ("requests", "prompt_tokens", "output_tokens")),
                f"{row['seconds']:.1f}",
            )
            for row in rows
        ],
    )
