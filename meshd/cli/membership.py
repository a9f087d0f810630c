"""The one place for the commands that change who is in the mesh: invite, join, leave."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import typer

from meshd.cli import terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.cli.up import checked_token
from meshd.control_client import ask
from meshd.failures import ExitCode, UserError
from meshd.options import parse_duration_s, wrong_usage

ROLES = ("admin", "worker", "client", "observer")
ROLES_SO_FAR = ("worker",)
USES_MAX = 1_000
OWNER_CHARACTERS_MAX = 63
JOIN_TIMEOUT_S = 60.0
"""The daemon gives up on unreachable seeds after 15 s; this is for a daemon that hangs."""


def invite(
    context: typer.Context,
    role: Annotated[str, typer.Option(metavar="ROLE", help="What it may do.")] = "worker",
    expires: Annotated[
        str, typer.Option(metavar="DURATION", help="How long it is good: 30m, 1h, 2d.")
    ] = "1h",
    uses: Annotated[int, typer.Option(metavar="N", help="How many machines may join.")] = 1,
    trusted: Annotated[bool, typer.Option("--trusted", help="Mark them as trusted.")] = False,
    owner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose machines they are; default: yours.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a token that lets another machine join this mesh."""
    if role not in ROLES:
        raise wrong_usage(f"--role {role!a}: choose from {', '.join(ROLES)}")
    if role not in ROLES_SO_FAR:
        raise wrong_usage(f"--role {role} is not in this version; invite a worker")
    if not 1 <= uses <= USES_MAX:
        raise wrong_usage(f"--uses {uses}: choose from 1 to {USES_MAX}")
    if owner is not None and not _is_good_owner(owner):
        raise wrong_usage(f"--owner: use 1 to {OWNER_CHARACTERS_MAX} printable characters")
    result = ask(
        chosen_home(context, home),
        "invite",
        role=role,
        expires_s=parse_duration_s(expires, what="--expires"),
        uses=uses,
        trusted=trusted,
        owner=owner,
    )
    if as_json:
        terminal.print_json({"token": result["token"], "invite": result["invite"]})
        return
    print(result["token"])
    if terminal.output_is_terminal():
        terminal.remark(f"On the other machine: meshd up --join TOKEN (good for {expires})")


def join(
    context: typer.Context,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="What meshd invite printed.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join a mesh, with or without a running daemon."""
    token = checked_token(token)
    place = chosen_home(context, home)

    async def without_daemon() -> Mapping[str, Any]:
        from meshd import logs
        from meshd.joining import join_offline  # loads the network, and only here

        logs.configure()
        return await join_offline(place, token)

    with terminal.progress("joining ..."):
        result, had_daemon = either(
            lambda: ask(place, "join", timeout_s=JOIN_TIMEOUT_S, token=token), without_daemon
        )
    if as_json:
        terminal.print_json(result)
        return
    did = "Joined" if result.get("changed", True) else "Already in"
    print(f"{did} mesh {terminal.harmless(str(result['mesh']))}.")
    if not had_daemon:
        print("Start the node with: meshd up")


def leave(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Give up membership; coming back needs an invite."""
    place = chosen_home(context, home)

    async def without_daemon() -> Mapping[str, Any]:
        from meshd.joining import leave_offline  # loads the network, and only here

        return await leave_offline(place)

    with terminal.progress("leaving ..."):
        result, _ = either(lambda: ask(place, "leave", timeout_s=JOIN_TIMEOUT_S), without_daemon)
    if as_json:
        terminal.print_json(result)
        return
    print(f"Left mesh {terminal.harmless(str(result['mesh']))}.")


def either(
    by_daemon: Callable[[], Mapping[str, Any]],
    without_daemon: Callable[[], Awaitable[Mapping[str, Any]]],
) -> tuple[Mapping[str, Any], bool]:
    """The result of the running daemon, or without one of doing it here; and which it was."""
    try:
        return by_daemon(), True
    except UserError as failure:
        if failure.exit_code is not ExitCode.NO_DAEMON:
            raise
    import trio  # slow to import, and only without a daemon

    return trio.run(without_daemon), False


def _is_good_owner(owner: str) -> bool:
    return 0 < len(owner) <= OWNER_CHARACTERS_MAX and owner.isprintable()
