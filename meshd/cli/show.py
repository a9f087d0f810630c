"""The one place for the commands that show what this node believes: nodes, models, status."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from meshd.cli import terminal, units
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.control_client import ask

ID_CHARACTERS = 12
"""Of an id in a table: enough to tell nodes apart, and commands take a beginning."""


def nodes(
    context: typer.Context,
    include_all: Annotated[
        bool, typer.Option("--all", help="Also members dead or left for over 10 minutes.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the members of the mesh as this node sees them."""
    result = ask(chosen_home(context, home), "nodes", all=include_all)
    rows = _rows(result, "nodes")
    if as_json:
        terminal.print_json({"nodes": rows})
        return
    terminal.print_table(
        ("name", "state", "role", "id", "address", "tier", "load", "rtt", "models"),
        [_node_cells(row) for row in rows],
    )


def models(
    context: typer.Context,
    local: Annotated[bool, typer.Option("--local", help="Only this node's own.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models that the mesh offers, and where."""
    result = ask(chosen_home(context, home), "models", local=local)
    rows = _rows(result, "models")
    if as_json:
        terminal.print_json({"models": rows})
        return
    if not rows:
        terminal.complain("no models here; offer one with: meshd up --model demo")
        return
    columns = ("name", "tasks", "size", "parameters", "quantization", "context", "runtime")
    last, cells = (("memory", "state"), _local_cells) if local else (("nodes",), _mesh_cells)
    terminal.print_table((*columns, *last), [(*_model_cells(row), *cells(row)) for row in rows])


def status(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show how this node is doing."""
    result = ask(chosen_home(context, home), "status")
    if as_json:
        terminal.print_json(result)
        return
    lines = list(_flattened(result))
    width = max((len(label) for label, _ in lines), default=0)
    for label, value in lines:
        print(f"{terminal.harmless(label.ljust(width))}  {terminal.harmless(value)}".rstrip())


def _rows(result: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    rows = result[name]
    assert isinstance(rows, list)
    return rows


def _node_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    load = row.get("load") or {}
    busy = f"{load.get('running', 0)}/{load.get('slots', 0)}" if load.get("slots") else ""
    queued = f" +{load['queued']}" if load.get("queued") else ""
    return (
        _text(row, "name"),
        _text(row, "state"),
        _text(row, "role"),
        _text(row, "id")[:ID_CHARACTERS],
        _text(row, "address"),
        _text(row, "tier"),
        busy + queued,
        units.milliseconds(row.get("rtt_ms")),
        ", ".join(str(model) for model in row.get("models") or ()),
    )


def _model_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    context_tokens = row.get("context_tokens") or 0
    return (
        _text(row, "name"),
        ", ".join(str(task) for task in row.get("tasks") or ()),
        units.size(row.get("size_bytes") or 0),
        units.count(row.get("parameters") or 0),
        _text(row, "quantization"),
        f"{context_tokens} tokens" if context_tokens else "",
        _text(row, "runtime"),
    )


def _mesh_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Where it is offered; a node that has to load it first is marked."""
    nodes = row.get("nodes") or ()
    loaded = row.get("loaded", nodes)
    return (", ".join(f"{node}" if node in loaded else f"{node} (cold)" for node in nodes),)


def _local_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What it takes of the memory, and whether it can be asked."""
    need = units.size(row.get("needed_bytes") or 0)
    vram = units.size(row.get("needed_vram_bytes") or 0)
    state = _text(row, "state")
    if state in ("loading", "fetching"):
        state += f" {row.get('share') or 0:.0%}"
    if row.get("ready_in_s"):
        state += f", ready in {units.seconds(row['ready_in_s'])}"
    if row.get("reason"):
        state += f": {row['reason']}"
    return (f"{need} + {vram} GPU" if vram else need, state)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value)


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, str]]:
    """Labels and values, a line each; what lies deeper has its path as label."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        label = f"{prefix}{key}"
        if isinstance(value, Mapping):
            lines.extend(_flattened(value, f"{label}."))
        else:
            lines.append(_with_unit(label, value))
    return lines


def _with_unit(label: str, value: object) -> tuple[str, str]:
    """The unit moves from the label's end to the value."""
    if isinstance(value, bool):
        return label, "yes" if value else "no"
    if value is None:
        return label, "-"
    if isinstance(value, list):
        return label, ", ".join(str(item) for item in value)
    if isinstance(value, (int, float)):
        for suffix, written in (("_ms", units.milliseconds), ("_s", units.seconds)):
            if label.endswith(suffix):
                return label.removesuffix(suffix), written(value)
        if label.endswith("_bytes") and isinstance(value, int):
            return label.removesuffix("_bytes"), units.size(value) or "0 B"
    return label, str(value)
