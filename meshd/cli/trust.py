"""The one place for the commands that decide who may what: grant, revoke, invites."""

import datetime
from typing import Annotated

import typer

from meshd.cli import terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.control_client import ask

TIMEOUT_S = 60.0
"""Revoking who let many in signs for each of them first."""


def grant(
    context: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its name or id.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a member an admin: it may invite and revoke, also when this machine is gone."""
    result = ask(chosen_home(context, home), "grant", node=node)
    if as_json:
        terminal.print_json(result)
        return
    print(f"{terminal.harmless(str(result['name']))} is an admin now.")


def revoke(
    context: typer.Context,
    subject: Annotated[
        str, typer.Argument(metavar="NODE_OR_INVITE", help="A node's name or id, an invite's id.")
    ],
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Also those who came by it or were let in by it.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back a membership or an invite, for good."""
    with terminal.progress("revoking ..."):
        result = ask(
            chosen_home(context, home),
            "revoke",
            timeout_s=TIMEOUT_S,
            subject=subject,
            cascade=cascade,
        )
    if as_json:
        terminal.print_json(result)
        return
    names = ", ".join(terminal.harmless(str(name)) for name in result["evicted"])
    out = f" Out of the mesh: {names}." if names else " Nobody had to go."
    back = ", ".join(terminal.harmless(str(name)) for name in result["restored"])
    if back:
        out += f" Members again, for what had revoked them does not count any more: {back}."
    print(f"Revoked {result['kind']} {terminal.harmless(str(result['id']))}.{out}")


def invites(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the invites of this mesh."""
    result = ask(chosen_home(context, home), "invites")
    if as_json:
        terminal.print_json(result)
        return
    now = datetime.datetime.now(datetime.UTC).timestamp()
    rows = [
        (
            str(row["invite"]),
            str(row["role"]),
            f"{row['used']} of {row['uses']}",
            _state(row, now),
            terminal.harmless(str(row["owner"])),
            terminal.harmless(str(row["issuer"])),
        )
        for row in result["invites"]
    ]
    terminal.print_table(("invite", "role", "used", "state", "owner", "issued by"), rows)


def _state(row: dict[str, object], now: float) -> str:
    if row["revoked"]:
        return "revoked"
    if int(str(row["used"])) >= int(str(row["uses"])):
        return "used up"
    return "good" if float(str(row["expires_at"])) > now else "expired"
