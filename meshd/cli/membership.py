"""The one place for the commands that change who is in the mesh: invite, join, leave.

`pair.py` invites by a short code instead of a token.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import typer

from meshd.cli import passphrase, terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.cli.pairing_code import is_code, token_by_code
from meshd.cli.up import checked_token
from meshd.control_client import ask
from meshd.failures import ExitCode, UserError
from meshd.options import parse_duration_s, wrong_usage

ROLES = ("admin", "worker", "client", "observer")
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
    check_whom(role, owner)
    if not 1 <= uses <= USES_MAX:
        raise wrong_usage(f"--uses {uses}: choose from 1 to {USES_MAX}")
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
    token: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN", help="What meshd invite printed, or the code of meshd pair."
        ),
    ],
    at: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the code's offer waits, without mDNS."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join a mesh, with or without a running daemon."""
    place = chosen_home(context, home)
    if is_code(token):
        token = token_by_code(place, token, at)
    elif at is not None:
        raise wrong_usage("--at goes with the code of meshd pair; a token says by itself where")
    token = checked_token(token)

    async def without_daemon() -> Mapping[str, Any]:
        from meshd import logs
        from meshd.joining import join_offline  # loads the network, and only here

        logs.configure()
        return await join_offline(passphrase.opened(place, None), token)

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

        return await leave_offline(passphrase.opened(place, None))

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


def check_whom(role: str, owner: str | None) -> None:
    """Check what an invite says of whom it lets in. Raises UserError (wrong usage)."""
    if role not in ROLES:
        raise wrong_usage(f"--role {role!a}: choose from {', '.join(ROLES)}")
    if owner is not None and not _is_good_owner(owner):
        raise wrong_usage(f"--owner: use 1 to {OWNER_CHARACTERS_MAX} printable characters")


def _is_good_owner(owner: str) -> bool:
    return 0 < len(owner) <= OWNER_CHARACTERS_MAX and owner.isprintable()
