"""The one place where the commands become one program, and every ending an exit code.

Nothing heavy is imported here or at the top of a command's file: `meshd --help` is answered
within 0.3 s.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from meshd import __version__
from meshd.cli import (
    audit,
    chat,
    demo,
    drain,
    events,
    explain,
    keys,
    membership,
    pair,
    passphrase,
    root,
    show,
    sim,
    tasks,
    trust,
    up,
    usage,
)
from meshd.cli.options import HomeOption
from meshd.cli.terminal import complain, forget_output
from meshd.failures import ExitCode, UserError

INTERRUPTED = 130
"""What shells expect of a command that Ctrl-C ended: 128 and the signal's number."""

_UsageFailure = typer.BadParameter.__base__
"""What typer raises for all that is typed wrongly; it has no public name for the class itself."""

app = typer.Typer(
    name="meshd",
    help="Every machine you own becomes one AI computer, with no head node.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(up.up)
app.command()(demo.demo)
app.command()(membership.invite)
app.command()(membership.join)
app.command()(pair.pair)
app.command()(membership.leave)
app.command()(drain.drain)
app.command()(trust.grant)
app.command()(trust.revoke)
app.command()(trust.invites)
app.command()(show.nodes)
app.command()(show.models)
app.command()(show.status)
app.command()(events.events)
app.command()(usage.usage)
app.command()(chat.chat)
app.command()(explain.explain)
app.command()(tasks.submit)
app.command()(tasks.jobs)
app.command()(tasks.job)
app.command()(tasks.cancel)
app.add_typer(audit.audit, name="audit")
app.add_typer(root.root, name="root")
app.add_typer(passphrase.passphrase, name="passphrase")
app.add_typer(keys.key, name="key")
app.add_typer(sim.sim, name="sim")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"meshd {__version__}")
        raise typer.Exit


@app.callback()
def every_command(
    context: typer.Context,
    home: HomeOption = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Every machine you own becomes one AI computer, with no head node."""
    context.obj = home


def main() -> NoReturn:
    """Run the command line of this process and end it."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; whatever goes wrong is one line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a name in letters that the terminal lacks
    try:
        outcome = app(args=list(arguments), prog_name="meshd", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as failure:
        complain(failure.message)
        return failure.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        forget_output()
        return ExitCode.FAILED
    except Exception as failure:  # noqa: BLE001 - people get a line, never a traceback
        return _ending_of(failure)
    return outcome if isinstance(outcome, int) else ExitCode.DONE


def _ending_of(failure: Exception) -> int:
    """Say what went wrong where no command expected it."""
    if _UsageFailure is not None and isinstance(failure, _UsageFailure):
        complain(_usage_line(failure))
        return ExitCode.WRONG_USAGE
    if os.environ.get("MESHD_DEBUG"):
        raise failure
    if isinstance(failure, OSError):
        complain(str(failure))
        forget_output()
    else:
        complain(
            f"internal error: {type(failure).__name__}: {failure}; set MESHD_DEBUG=1 to see where"
        )
    return ExitCode.FAILED


def _usage_line(failure: Exception) -> str:
    """typer's explanation on one line, with where to read more."""
    context = getattr(failure, "ctx", None)
    command = context.command_path if context is not None else "meshd"
    said = failure.format_message() if hasattr(failure, "format_message") else str(failure)
    said = said.strip().rstrip(".")
    return f"{said[:1].lower()}{said[1:]} (see: {command} --help)"
