"""The one place for the commands about jobs: submit, jobs, job, cancel."""

import json
import pathlib
import secrets
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from meshd.cli import terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.control_client import ask
from meshd.failures import UserError
from meshd.options import wrong_usage

JOB_BYTES_MAX = 60_000
"""Of the file; one request to the daemon has 64 KiB. Large things belong into input files."""
WAIT_S = 24 * 3600.0 + 120.0
"""The daemon keeps the job's own deadline; this is for a daemon that hangs."""
ERROR_CHARACTERS = 80

JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB.json", help="What to run; - reads it here.")],
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's id and do not wait.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a registered function on some node of the mesh and print its result."""
    place = chosen_home(context, home)
    descriptor = _read_job(job)
    # Chosen here, so that Ctrl-C can name it at any moment.
    job_id = descriptor.setdefault("job_id", secrets.token_hex(4))
    try:
        result = ask(
            place,
            "submit",
            timeout_s=WAIT_S,
            on_progress=_tell,
            descriptor=descriptor,
            detach=detach,
        )
    except KeyboardInterrupt:
        terminal.complain(f"cancelling job {job_id}")
        ask(place, "cancel", id=job_id)
        raise
    if as_json:
        terminal.print_json(result)
    elif detach:
        print(result["job"])
    else:
        _print_result(result["result"])


def jobs(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the jobs that were submitted here, the newest first."""
    result = ask(chosen_home(context, home), "jobs")
    if as_json:
        terminal.print_json(result)
        return
    if not result["jobs"]:
        terminal.complain("no jobs yet; submit one with: meshd submit JOB.json")
        return
    terminal.print_table(
        ("id", "function", "state", "node", "attempts", "submitted", "error"),
        [_cells(row) for row in result["jobs"]],
    )


def job(
    context: typer.Context,
    job_id: JobArgument,
    result: Annotated[bool, typer.Option("--result", help="Print its result alone.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one job: where it was tried, what it printed, and what came of it."""
    found = ask(chosen_home(context, home), "job", id=job_id)
    if result and found["state"] != "done":
        raise UserError(f"job {job_id} has no result: {_state(found)}")
    if as_json:
        terminal.print_json({"job": job_id, "result": found["result"]} if result else found)
    elif result:
        _print_result(found["result"])
    else:
        _print_job(found)


def cancel(
    context: typer.Context,
    job_id: JobArgument,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a job, wherever it runs."""
    result = ask(chosen_home(context, home), "cancel", id=job_id)
    if as_json:
        terminal.print_json(result)
        return
    print(f"Job {job_id} is {terminal.harmless(str(result['state']))}.")


def _read_job(name: str) -> dict[str, Any]:
    """The descriptor in a file, its input paths made absolute: the daemon stands elsewhere.

    Raises UserError.
    """
    path = pathlib.Path(name)
    try:
        if name == "-":
            content = sys.stdin.buffer.read(JOB_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                content = file.read(JOB_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise wrong_usage(
            f"cannot read {name}: {reason}; give the path of a job's JSON file, or - to type it"
        ) from None
    if len(content) > JOB_BYTES_MAX:
        raise wrong_usage(f"{name} has more than {JOB_BYTES_MAX} bytes; use input files")
    try:
        descriptor = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise wrong_usage(f"{name} is not JSON: {error}") from None
    if not isinstance(descriptor, dict):
        raise wrong_usage(f"{name} is no job: a job is a JSON object")
    inputs = descriptor.get("inputs")
    if isinstance(inputs, dict):
        folder = pathlib.Path.cwd() if name == "-" else path.absolute().parent
        descriptor["inputs"] = {
            key: str(folder / pathlib.Path(value).expanduser()) if isinstance(value, str) else value
            for key, value in inputs.items()
        }
    return descriptor


def _tell(news: Mapping[str, Any]) -> None:
    """One line of progress on standard error."""
    node, reason = news.get("node"), news.get("reason")
    match news.get("event"):
        case "placed":
            terminal.remark(f"placed on {node}")
        case "running":
            terminal.remark(f"running on {node}")
        case "refused":
            terminal.remark(f"{node} does not run it: {reason}")
        case "retrying":
            terminal.remark(f"retrying in {news.get('wait_s')} s: {reason}")


def _print_result(result: object) -> None:
    indent = 2 if terminal.output_is_terminal() else None
    print(json.dumps(result, indent=indent), flush=True)


def _print_job(found: Mapping[str, Any]) -> None:
    descriptor = found["descriptor"]
    lines = [
        ("job", found["id"]),
        ("function", descriptor["function"]),
        ("arguments", json.dumps(descriptor["arguments"])),
        ("state", _state(found)),
        ("submitted", found["submitted_at"]),
        ("finished", found["finished_at"] or "-"),
    ]
    for attempt in found["attempts"]:
        reason = f" ({attempt['reason']})" if attempt["reason"] else ""
        lines.append(("attempt", f"{attempt['node']}: {attempt['state']}{reason}"))
    lines.extend(("printed", line) for line in found["log"])
    if found["state"] == "done":
        lines.append(("result", json.dumps(found["result"])))
    width = max(len(label) for label, _ in lines)
    for label, value in lines:
        print(f"{label.ljust(width)}  {terminal.harmless(str(value))}")


def _state(found: Mapping[str, Any]) -> str:
    error = found.get("error")
    return f"{found['state']}: {error['message']} ({error['code']})" if error else found["state"]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    error = row["error"]["message"] if row["error"] else ""
    return (
        row["id"],
        row["function"],
        row["state"],
        row["node"] or "",
        str(row["attempts"]),
        row["submitted_at"][:19].replace("T", " "),
        error[:ERROR_CHARACTERS],
    )
