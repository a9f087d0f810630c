"""The one place for `meshd sim replay`: a real node's run, repeated from its recording."""

import dataclasses
import pathlib
import platform
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshd import __version__
from meshd.cli import terminal
from meshd.cli.options import JsonOption
from meshd.failures import UserError

if TYPE_CHECKING:
    from protocol.effects import Effect
    from protocol.events import Event
    from simulations.replay import Replay, Step


def replay(
    trace: Annotated[
        pathlib.Path,
        typer.Argument(metavar="TRACE", help="A file that meshd up --record FILE wrote."),
    ],
    effects: Annotated[
        bool, typer.Option("--effects", help="Also print what came of each event.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Repeat a real node's run from its recording and compare all effects."""
    from protocol.errors import BadRecording
    from simulations.replay import Replay

    show = (_print_json_step if as_json else _print_step) if effects else _print_nothing
    try:
        with trace.open("rb") as file, terminal.progress(f"replaying {trace}"):
            replaying = Replay(file)
            for step in replaying.steps():
                show(step)
    except OSError as error:
        raise UserError(f"cannot read {trace}: {error.strerror or error}") from error
    except BadRecording as error:
        raise UserError(f"{trace}: {error}") from error
    difference = replaying.difference
    if difference is not None:
        show(difference.step)
    if as_json:
        terminal.print_json(_summary(trace, replaying))
    if difference is not None:
        raise UserError(f"{trace}: {difference}{_recorded_by(replaying)}")
    if not as_json:
        _print_summary(replaying)


def _summary(trace: pathlib.Path, replaying: "Replay") -> dict[str, Any]:
    from protocol.identity import key_text

    beginning, difference = replaying.beginning, replaying.difference
    assert beginning is not None
    return {
        "trace": str(trace),
        "node": key_text(beginning.node),
        "name": beginning.config.name,
        "meshd": beginning.meshd,
        "python": beginning.python,
        "starts": replaying.starts,
        "events": replaying.events,
        "effects": replaying.effects,
        "seconds": replaying.span_ns / 1e9,
        "same": difference is None,
        "cut": replaying.cut,
        "difference": None if difference is None else str(difference),
    }


def _print_summary(replaying: "Replay") -> None:
    beginning = replaying.beginning
    assert beginning is not None
    starts = f" in {replaying.starts} starts" if replaying.starts > 1 else ""
    print(
        f"{terminal.harmless(beginning.config.name)}: {replaying.events} events{starts} over "
        f"{replaying.span_ns / 1e9:.1f} s, the same {replaying.effects} effects"
    )
    if other := _recorded_by(replaying):
        terminal.remark(other.lstrip("; "))
    if replaying.cut is not None:
        terminal.remark(f"the recording is cut {replaying.cut}; all before it was replayed")


def _recorded_by(replaying: "Replay") -> str:
    """A hint, when another program recorded than the one that replays."""
    beginning = replaying.beginning
    assert beginning is not None
    by = (beginning.meshd, beginning.python)
    own = (__version__, platform.python_version())
    if by == own:
        return ""
    return f"; recorded by meshd {by[0]} on Python {by[1]}, replayed by {own[0]} on Python {own[1]}"


def _print_nothing(step: "Step") -> None:
    del step


def _print_json_step(step: "Step") -> None:
    from protocol.recording import plain

    terminal.print_json(
        {
            "number": step.number,
            "since_ns": step.since_ns,
            "event": {"type": type(step.event).__name__, **plain(step.event)},
            "effects": [{"type": type(e).__name__, **plain(e)} for e in step.effects],
            "raised": step.raised,
        }
    )


def _print_step(step: "Step") -> None:
    print(f"{step.number} {step.since_ns / 1e9:.6f} s  {_shown(step.event)}")
    for effect in step.effects:
        print(f"    {_shown(effect)}")
    if step.raised is not None:
        print(f"    raises {terminal.harmless(step.raised)}")


def _shown(what: "Event | Effect") -> str:
    fields = (
        f"{field.name}={_value(getattr(what, field.name))}" for field in dataclasses.fields(what)
    )
    return " ".join((type(what).__name__, *fields))


def _value(value: object) -> str:
    from protocol.identity import NODE_ID_BYTES, Address, key_text

    if isinstance(value, bytes):
        is_key = len(value) == NODE_ID_BYTES
        return key_text(value)[:8] if is_key else f"<{len(value)} bytes>"
    if isinstance(value, Address):
        return terminal.harmless(str(value))
    if isinstance(value, tuple):
        return ",".join(map(_value, value))
    return terminal.harmless(str(value))
