"""The one place for `meshd explain`: why a request went where it went."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from meshd.cli import terminal, units
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.control_client import ask


def explain(
    context: typer.Context,
    request: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="An answer's header x-meshd-request.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a request went where it went: candidates, refusals, continuations, times."""
    told = ask(chosen_home(context, home), "explain", request=request)
    if as_json:
        terminal.print_json(told)
        return
    for line in _head(told):
        print(terminal.harmless(line))
    if told["candidates"]:
        print()
        terminal.print_table(
            (
                "candidate",
                "expected",
                "wait",
                "load",
                "prefill",
                "decode",
                "round trip",
                "retries",
                "remarks",
            ),
            [_candidate_cells(row) for row in told["candidates"]],
        )
    for row in told["left_out"]:
        print(terminal.harmless(f"not asked: {row['node']}, {row['reason']}"))
    if told["attempts"]:
        print()
        terminal.print_table(
            ("asked", "at", "slot at", "first token at", "until", "tokens", "outcome"),
            [_attempt_cells(row) for row in told["attempts"]],
        )


def _head(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"request {told['request']} for {told['model']}: {told['state']}"
    usage, error = told["usage"], told["error"]
    if usage is not None:
        yield (
            f"{usage['prompt_tokens']} prompt and {usage['completion_tokens']} completion tokens, "
            f"ended by {usage['finish_reason']}, after {told['duration_s']:.2f} s"
        )
    if error is not None:
        yield f"{error['code']}: {error['message']}"
    if told["continuations"]:
        times = "once" if told["continuations"] == 1 else f"{told['continuations']} times"
        yield f"the answer broke off and went on elsewhere {times}"
    if told["policy"] is not None:
        expected = told["expected"]
        yield (
            f"ranked by {told['policy']}, for some {expected['prompt_tokens']} prompt and "
            f"{expected['output_tokens']} completion tokens"
        )


def _candidate_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("total", "wait", "load", "prefill", "decode", "round_trip", "retry")
    remarks = [
        "" if row["is_speed_known"] else "speed unknown",
        "has the conversation" if row["had_conversation"] else "",
        f"holds {row['held_tokens']} tokens" if row["held_tokens"] else "",
        "failed lately" if row["failed_lately"] else "",
        "its context may be too small" if row["may_be_too_long"] else "",
    ]
    times = [units.milliseconds(row[f"{name}_ms"]) for name in names]
    return (str(row["node"]), *times, ", ".join(filter(None, remarks)))


def _attempt_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    failure = row["failure"]
    outcome = "gave it to the end" if failure is None else f"{failure['code']}: {failure['reason']}"
    if row["ended_s"] is None:
        outcome = "at work"
    name = str(row["node"]) + (" (continues)" if row["is_continuation"] else "")
    moments = [row[part] for part in ("asked_s", "started_s", "first_token_s", "ended_s")]
    times = ["" if moment is None else f"{moment:.3f} s" for moment in moments]
    return (name, *times, str(row["tokens"]), outcome)
