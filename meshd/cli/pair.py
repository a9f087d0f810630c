"""The one place for the command that invites by a short code: pair."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from meshd.cli import terminal
from meshd.cli.membership import check_whom
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.control_client import ask

WAIT_S = 240.0
"""The daemon ends the offer after two minutes by itself; this is for a daemon that hangs."""


def pair(
    context: typer.Context,
    role: Annotated[str, typer.Option(metavar="ROLE", help="What it may do.")] = "worker",
    trusted: Annotated[bool, typer.Option("--trusted", help="Mark it as trusted.")] = False,
    owner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose machine it is; default: yours.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Wait for it on this port; default 7702, or any if that is taken.",
            min=0,
            max=65_535,
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a short code that lets one machine of the local network join; Ctrl-C withdraws it."""
    check_whom(role, owner)
    result = ask(
        chosen_home(context, home),
        "pair",
        timeout_s=WAIT_S,
        on_progress=terminal.print_json if as_json else _tell,
        role=role,
        trusted=trusted,
        owner=owner,
        port=port,
    )
    if as_json:
        terminal.print_json(result)
        return
    named = f"{result['name']} ({result['node'][:8]})" if result["name"] else result["node"]
    print(f"Joined: {terminal.harmless(str(named))}")


def _tell(news: Mapping[str, Any]) -> None:
    """One line or two for people; of what a later daemon reports, nothing."""
    match news.get("event"):
        case "code":
            code = news["code"]
            print(f"Code: {code}", flush=True)
            typed = f"meshd join {code}"
            if not news["is_announced"]:
                typed += f" --at {news['addresses'][0]}"
            terminal.remark(f"On the other machine, within {news['expires_s']} s: {typed}")
            if news["is_announced"]:
                either = " or ".join(f"--at {address}" for address in news["addresses"])
                terminal.remark(f"If it finds nothing there: {either}")
        case "wrong_code":
            terminal.complain(f"a wrong code was tried; tries left: {news['tries_left']}")
        case "code_accepted":
            terminal.remark("the code was right; the other machine is joining")
