"""The one place for running a scenario over a grid of parameters and seeds, into one table.

Every run becomes a row of a JSON-lines file at once. A sweep that was cut off goes on where it
was: rows that are there already, of the same code and configuration, are not run again.
"""

import copy
import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from protocol.node import Node
from simulations.library import path_of, scenario_from
from simulations.origin import commit, digest
from simulations.other_protocols import find_node
from simulations.participant import NodeFactory, name_of
from simulations.run import run
from simulations.scenario import read_content
from simulations.section import ScenarioError

POINTS_MAX: Final = 100_000
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One parameter and the values that it takes."""

    key: str
    """Where it stands in the file, dotted: `nodes`, `network.loss_percent`, `act.1.count`."""
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a sweep."""

    scenario: str
    folder: str
    content: Mapping[str, Any]
    point: Mapping[str, Any]
    seed: int
    is_checked: bool
    node: str | None
    """The class of another protocol, `module:Class`; None: ours."""
    name: str
    """What tells this run from all others."""


def parse_axis(text: str) -> Axis:
    """`KEY=VALUE,VALUE`; each value is read as TOML, or else is a text. Raises ScenarioError."""
    key, equals, listed = text.partition("=")
    if not key or not equals or not listed:
        raise ScenarioError(f"{text!r} is not KEY=VALUE,VALUE")
    try:
        values = tomllib.loads(f"v = [{listed}]")["v"]
    except tomllib.TOMLDecodeError:
        values = [_value(item.strip()) for item in listed.split(",")]
    if not values:
        raise ScenarioError(f"{text!r} has no values")
    return Axis(key=key.strip(), values=tuple(values))


def _value(text: str) -> Any:  # noqa: ANN401  # what TOML may hold
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def plan(
    named: str,
    axes: Sequence[Axis],
    seeds: Iterable[int],
    *,
    is_checked: bool = False,
    node: str | None = None,
) -> list[Job]:
    """Every run of a sweep over a scenario, by name or file; `node` is the class of another
    protocol. Everything is read and checked before anything runs. Raises ScenarioError.
    """
    _factory(node)
    path = path_of(named)
    content = read_content(path)
    seeds = list(itertools.islice(seeds, POINTS_MAX + 1))
    if len(seeds) * math.prod(len(axis.values) for axis in axes) > POINTS_MAX:
        raise ScenarioError(f"a sweep has at most {POINTS_MAX} runs")
    jobs: list[Job] = []
    for values in itertools.product(*(axis.values for axis in axes)):
        point = dict(zip((axis.key for axis in axes), values, strict=True))
        changed = copy.deepcopy(content)
        for key, value in point.items():
            _put(changed, key, value)
        scenario_from(changed, path)
        origin = (changed, _files(changed, path.parent), is_checked, node, commit())
        jobs += [
            Job(
                scenario=path.stem,
                folder=str(path.parent),
                content=changed,
                point=point,
                seed=seed,
                is_checked=is_checked,
                node=node,
                name=digest({"run": origin, "seed": seed}),
            )
            for seed in seeds
        ]
    return jobs


def _put(content: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401  # TOML's values
    *folders, last = key.split(".")
    place: Any = content
    try:
        for folder in folders:
            if isinstance(place, list):
                place = place[_place(folder)]
            else:
                place = place.setdefault(folder, {})
        if isinstance(place, list):
            place[_place(last)] = value
        else:
            place[last] = value
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise ScenarioError(f"the scenario has no place {key!r}; acts count from 1") from error


def _place(text: str) -> int:
    number = int(text)
    if number < 1:
        raise IndexError
    return number - 1


def _files(value: Any, folder: pathlib.Path) -> list[str]:  # noqa: ANN401  # what TOML may hold
    """What is in the files that a scenario names, in short: they are part of what it says."""
    if isinstance(value, Mapping):
        return [found for item in value.values() for found in _files(item, folder)]
    if isinstance(value, list):
        return [found for item in value for found in _files(item, folder)]
    if not isinstance(value, str) or not value.endswith(".csv"):
        return []
    try:
        return [hashlib.sha256((folder / value).read_bytes()).hexdigest()]
    except (OSError, ValueError):
        return [value]


def run_job(job: Job) -> Row:
    """One row. A mesh that does not form is a row with its `error`, not the end of the sweep."""
    row: Row = {"run": job.name, "commit": commit(), "configuration": digest(job.content)}
    row |= {"scenario": job.scenario, "point": dict(job.point), "seed": job.seed}
    try:
        make_node = _factory(job.node)
        row["node"] = name_of(make_node or Node)
        scenario = scenario_from(job.content, pathlib.Path(job.folder) / f"{job.scenario}.toml")
        result = run(scenario, job.seed, make_node=make_node, is_checked=job.is_checked)
    except ScenarioError as error:
        return row | {"error": str(error)}
    told = result.to_json()
    return row | {key: told[key] for key in told if key not in row}


def _factory(node: str | None) -> NodeFactory | None:
    return None if node is None else find_node(node)


def read_rows(path: pathlib.Path) -> dict[str, Row]:
    """The rows that an earlier sweep wrote, by run; a line that was cut off is not one."""
    rows: dict[str, Row] = {}
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return rows
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"cannot read {path}: {error}") from error
    for line in text.splitlines():
        try:
            row = json.loads(line)
            rows[row["run"]] = row
        except (ValueError, TypeError, KeyError):
            continue
    return rows


def summary(rows: Iterable[Row], measures: Sequence[str]) -> Iterator[list[Any]]:
    """Per point: its values, how many runs, and the median of each measure over its seeds."""
    points: dict[str, list[Row]] = {}
    for row in rows:
        points.setdefault(json.dumps(row["point"], default=str), []).append(row)
    for held in points.values():
        medians = [
            _median([row.get("measures", {}).get(name) for row in held]) for name in measures
        ]
        yield [*held[0]["point"].values(), len(held), *medians]


def _median(values: Sequence[float | None]) -> float | None:
    """Of those that happened; None when most did not."""
    known = sorted(value for value in values if value is not None)
    return None if 2 * len(known) < len(values) or not known else known[len(known) // 2]
