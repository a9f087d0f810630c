"""The one place for the command that shows what happened lately: events."""

import datetime
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from meshd.cli import terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.control_client import ask

RECENT = 50
"""As many as one looks through."""
KEPT = 1_000
"""What the daemon remembers (`meshd/event_log.py`)."""
SILENCE_S = 60.0
"""A daemon that follows its events tells every 15 s that it is there."""
HEAD_FIELDS = ("id", "time", "type", "node", "name")

Event = Mapping[str, Any]


def events(
    context: typer.Context,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")
    ] = False,
    recent: Annotated[
        int, typer.Option("--recent", metavar="N", help="Begin with the last N.", min=0, max=KEPT)
    ] = RECENT,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened in the mesh lately: who came, went or is in doubt, who offers what."""
    place = chosen_home(context, home)
    if follow:
        show = _print_each_json if as_json else _print_lines
        ask(
            place,
            "events",
            timeout_s=SILENCE_S,
            on_progress=show,
            is_endless=True,
            recent=recent,
            follow=True,
        )
        return
    result = ask(place, "events", recent=recent, follow=False)
    if as_json:
        terminal.print_json({"events": result["events"]})
    elif result["events"] or not recent:
        _print_lines(result)
    else:
        terminal.complain("nothing has happened yet; wait for it with: meshd events --follow")


def _print_each_json(news: Mapping[str, Any]) -> None:
    for event in _events(news):
        terminal.print_json(event)


def _print_lines(news: Mapping[str, Any]) -> None:
    for event in _events(news):
        print(terminal.harmless(line_of(event)), flush=True)


def _events(news: Mapping[str, Any]) -> Iterator[Event]:
    yield from news.get("events", ())


def line_of(event: Event) -> str:
    """One event on one line: local time, type, whom it is about, what changed."""
    when = datetime.datetime.fromisoformat(event["time"]).astimezone()
    name = event.get("name") or str(event["node"])[:8]
    return f"{when:%Y-%m-%d %H:%M:%S}  {event['type']:<12}  {name:<16}  {_what(event)}".rstrip()


def _what(event: Event) -> str:
    """What changed, in words; of a type that is not known here, all that it tells."""
    match event["type"]:
        case "alive" | "suspect" | "dead" | "left":
            return _life(event)
        case "offer":
            return f"{'no longer offers' if event['removed'] else 'offers'} {event['key']}"
        case "partition":
            return f"lost {event['lost']} members at once, {event['present']} are left"
        case "reunited":
            return f"most are back, {event['present']} are here"
        case "superseded":
            return "a newer run of this node lives elsewhere; this one is silent"
        case "equivocation":
            return "signed two different statements under one number"
        case "lagged":
            missed = event["missed"]
            return f"{missed if missed is not None else 'an unknown number of'} events were missed"
    rest = {key: value for key, value in event.items() if key not in HEAD_FIELDS}
    return " ".join(f"{key}={value}" for key, value in rest.items())


def _life(event: Event) -> str:
    previous, state = event["previous"], event["type"]
    incarnation = f"incarnation {event['incarnation']}"
    if previous is None:
        return f"is new, {incarnation}"
    if previous == state:
        return f"states itself anew, {incarnation}"
    return f"was {previous}, {incarnation}"
