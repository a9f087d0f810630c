"""The one place for the commands about API keys: key create, key list, key revoke."""

import datetime
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from meshd.cli import terminal
from meshd.cli.membership import either
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.control_client import ask
from meshd.home import Home
from meshd.options import parse_duration_s
from meshd.trust.api_keys import Priority, read_policy

key = typer.Typer(
    name="key", help="Make, list and revoke the gateway's API keys.", no_args_is_help=False
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, or what for.")]


@key.command()
def create(
    context: typer.Context,
    name: NameArgument,
    limit: Annotated[
        str | None, typer.Option(metavar="RATE", help="Requests per s, m or h: 10/s.")
    ] = None,
    priority: Annotated[
        str, typer.Option(metavar="PRIORITY", help="low, normal or high.")
    ] = Priority.NORMAL.value,
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only models whose name matches; repeatable."),
    ] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Its requests only go to trusted nodes.")
    ] = False,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long it is good: 1h, 30d.")
    ] = None,
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Every gateway of the mesh accepts it.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key and print it; it cannot be shown again."""
    policy = {
        "name": name,
        "limit": limit,
        "priority": priority,
        "models": models or [],
        "trusted": trusted,
    }
    read_policy(policy)
    expires_s = None if expires is None else parse_duration_s(expires, what="--expires")
    asked = {**policy, "expires_s": expires_s, "mesh": mesh}
    result = _ask(chosen_home(context, home), "key_create", asked)
    if as_json:
        terminal.print_json(result)
        return
    print(result["key"])
    if terminal.output_is_terminal():
        terminal.remark("Keep it: it cannot be shown again. Apps send it as their API key.")


@key.command("list")
def list_keys(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the API keys, without their texts."""
    result = _ask(chosen_home(context, home), "key_list", {})
    if as_json:
        terminal.print_json(result)
        return
    if not result["keys"]:
        terminal.complain("no API keys yet; make one with: meshd key create NAME")
        return
    terminal.print_table(
        ("name", "of", "limit", "priority", "trusted", "created", "expires", "models"),
        [_cells(row) for row in result["keys"]],
    )


@key.command()
def revoke(
    context: typer.Context,
    name: NameArgument,
    mesh: Annotated[
        bool, typer.Option("--mesh", help="One that every gateway of the mesh accepts.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse an API key from its next request on."""
    result = _ask(chosen_home(context, home), "key_revoke", {"name": name, "mesh": mesh})
    if as_json:
        terminal.print_json(result)
        return
    print(f"Key {terminal.harmless(str(result['name']))} is revoked.")


def _ask(home: Home, do: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result of the running daemon, or without one of doing it here."""

    async def without_daemon() -> Mapping[str, Any]:
        from meshd.key_commands import key_command_offline  # loads trio, and only here

        return await key_command_offline(home, do, arguments)

    result, _ = either(lambda: ask(home, do, **arguments), without_daemon)
    return result


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    expires_at_s = row["expires_at_s"]
    expires = "" if expires_at_s is None else _date(expires_at_s)
    return (
        row["name"],
        "mesh" if row["mesh"] else "here",
        row["limit"] or "",
        row["priority"],
        "yes" if row["trusted"] else "",
        "" if row["created_at_s"] is None else _date(row["created_at_s"]),
        f"{expires} (expired)" if row["expired"] else expires,
        ", ".join(row["models"]),
    )


def _date(wall_s: int) -> str:
    """In UTC, to the minute."""
    return datetime.datetime.fromtimestamp(wall_s, datetime.UTC).strftime("%Y-%m-%d %H:%M")
