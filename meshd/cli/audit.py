"""The one place for the commands about the log of security-relevant acts: verify, show.

Both read files; a daemon may run, or not.
"""

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshd.cli import terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.failures import UserError
from meshd.options import wrong_usage

if TYPE_CHECKING:
    from protocol.identity import NodeId

LAST = 50
LAST_MAX = 1_000_000
_HEAD_FIELDS = ("n", "time", "type", "prev")

audit = typer.Typer(
    name="audit",
    help="The log of security-relevant acts: joins, refusals, invites, key use.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@audit.command()
def verify(
    context: typer.Context,
    node: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Whose log it is, as another machine's nodes know it."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that no line of the audit log was changed, removed, inserted or moved."""
    from meshd.trust.audit_check import Broken, check, signer_of
    from protocol.identity import key_text

    place = chosen_home(context, home)
    wanted = signer_of(place) if node is None else _node_id(node)
    try:
        report = check(place, wanted)
    except Broken as broken:
        if as_json:
            where = {"line": broken.line, "place": broken.place, "problem": broken.problem}
            terminal.print_json({"ok": False, **where})
        raise UserError(f"the audit log does not hold: {broken}") from None
    if as_json:
        terminal.print_json(
            {
                "ok": True,
                "node": key_text(report.node),
                "first": report.first,
                "lines": report.lines,
                "first_time": report.first_time_s,
                "last_time": report.last_time_s,
                "signed": report.signed,
                "signed_time": report.signed_time_s,
                "unsigned": report.lines - report.signed,
                "cut_bytes": report.cut_bytes,
                "types": dict(sorted(report.notes.items())),
            }
        )
        return
    kept = "" if report.first == 1 else f" (those before line {report.first} were dropped)"
    times = ""
    if report.first_time_s is not None and report.last_time_s is not None:
        times = f", from {_when(report.first_time_s)} to {_when(report.last_time_s)}"
    print(f"The audit log holds: {report.lines - report.first + 1} lines{kept}{times}.")
    print(
        f"Its head, at line {report.signed}, is signed by {key_text(report.node)}"
        f" at {_when(report.signed_time_s)}."
    )
    if unsigned := report.lines - report.signed:
        print(f"{unsigned} lines behind it are not signed: just written, or left by a crash.")
    if report.cut_bytes:
        print(f"Half a line of {report.cut_bytes} bytes is at its end, the same way.")


@audit.command()
def show(
    context: typer.Context,
    last: Annotated[
        int, typer.Option("--last", metavar="N", help="The last N lines.", min=1, max=LAST_MAX)
    ] = LAST,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last lines of the audit log, as they are; `verify` says whether they hold."""
    from meshd.trust.audit_check import last_lines

    lines = last_lines(chosen_home(context, home), last)
    if as_json:
        terminal.print_json({"lines": lines})
    elif not lines:
        terminal.complain("there is no line in the audit log; one begins with the next meshd up")
    else:
        for line in lines:
            print(terminal.harmless(line_of(line)))


def line_of(line: Mapping[str, Any]) -> str:
    """One line of the log for people: number, local time, type, what else there is to say."""
    rest = (f"{key}={_value(value)}" for key, value in line.items() if key not in _HEAD_FIELDS)
    head = f"{line['n']:>6}  {_when(line['time'])}  {line['type']:<18}"
    return f"{head}  {' '.join(rest)}".rstrip()


def _value(value: object) -> str:
    text = str(value)
    return text if text and not any(letter in " =\"'" for letter in text) else repr(text)


def _when(time_s: float) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(time_s).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return str(time_s)


def _node_id(text: str) -> "NodeId":
    from protocol.identity import NODE_ID_BYTES, NodeId, key_from_text

    try:
        node = key_from_text(text)
    except ValueError:
        node = b""
    if len(node) != NODE_ID_BYTES:
        raise wrong_usage("--node: write a node's whole id, as meshd nodes --json shows it")
    return NodeId(node)
