"""The one place for what a scenario is, and for reading one from a TOML file.

    nodes, duration_s      how many, how long
    form                   "together": all start at once through node 0, the clock of the measures
                           with them; "whole": they have found each other before it starts;
                           "at_once": so, too, but without having to: for thousands of nodes
    [network]              delay_ms, loss_percent, ... (`NetworkOptions`)
    [protocol]             any field of `ProtocolConfig`; times in `_ms`
    [inference]            what is asked of the mesh, and who serves it (`inference/table.py`)
    [[act]]                at_s, do, whom it happens to, for_s, every_s, and the act's own options

Everything is checked before anything runs: an unknown key, an impossible value or a missing file is
one line with the nearest valid name.
"""

import dataclasses
import pathlib
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final

from protocol.config import MILLISECOND, SECOND, ProtocolConfig
from simulations.inference.workload import Workload
from simulations.network import NetworkOptions
from simulations.network_table import read_network
from simulations.section import DURATION_S_MAX, ScenarioError, Section, nearest

NODES_MAX: Final = 20_000
"""A byte for each ordered pair, to count how views agree: 400 MB."""
FILE_BYTES_MAX: Final = 4 * 2**20
REPEATS_MAX: Final = 100_000
"""Acts that one `every_s` may unfold into."""
FORMS: Final = ("together", "whole", "at_once")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Whom an act happens to: these nodes, or so many at random, or a share of all."""

    nodes: tuple[int, ...] = ()
    count: int = 0
    share_ppm: int = 0
    among: str = ""
    """Only members of this group ("" for everybody)."""
    but: tuple[str, ...] = ()
    """Never members of these groups."""
    group: str = ""
    """What those chosen are called from now on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that happens to some nodes."""

    do: str
    at_ns: int
    who: Who
    for_ns: int | None = None
    """When it ends by itself, from its beginning."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything about a run but its seed."""

    name: str
    title: str = ""
    nodes: int
    duration_ns: int
    form: str = "whole"
    network: NetworkOptions = dataclasses.field(default_factory=NetworkOptions)
    protocol: ProtocolConfig = dataclasses.field(default_factory=ProtocolConfig)
    acts: tuple[Act, ...] = ()
    inference: Workload | None = None
    content: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What its file says, for whoever asks where a result came from."""


OptionsOf = Callable[[Section], Mapping[str, Any]]
"""Reads an act's own options."""
WorkloadOf = Callable[[str, pathlib.Path, object], Workload]
"""Reads [inference]: (place, folder of the file, table)."""


def read_scenario(
    path: pathlib.Path,
    acts: Mapping[str, tuple[tuple[str, ...], OptionsOf]],
    workload_of: WorkloadOf | None = None,
) -> Scenario:
    """A scenario from a file. `acts`: by name, the options of each and who reads them;
    `workload_of` reads [inference], which else is an unknown key.

    Raises ScenarioError.
    """
    return scenario_of(read_content(path), path, acts, workload_of)


def read_content(path: pathlib.Path) -> dict[str, Any]:
    """What a TOML file says. Raises ScenarioError."""
    try:
        if path.exists() and not path.is_file():
            raise ScenarioError(f"{path} is no file")
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ScenarioError(f"cannot read {path}: {reason or error}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ScenarioError(f"{path} has more than {FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path} is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"{path} is not TOML: {error}") from error


def scenario_of(
    content: Mapping[str, Any],
    path: pathlib.Path,
    acts: Mapping[str, tuple[tuple[str, ...], OptionsOf]],
    workload_of: WorkloadOf | None = None,
) -> Scenario:
    """The same from what a file would hold; `path` names it, and where files it names are.

    Raises ScenarioError.
    """
    known: tuple[str, ...] = ("title", "nodes", "duration_s", "form", "network", "protocol", "act")
    known += ("inference",) if workload_of is not None else ()
    top = Section(path.name, content, known)
    listed = top.raw("act", [])
    workload = top.raw("inference", None)
    if not isinstance(listed, list):
        raise ScenarioError(f"{path.name}: write [[act]], with two brackets")
    return Scenario(
        name=path.stem,
        content=content,
        title=top.text("title"),
        nodes=top.whole("nodes", 2, NODES_MAX),
        duration_ns=round(top.number("duration_s", 0.001, DURATION_S_MAX) * SECOND),
        form=top.text("form", "whole", FORMS),
        network=read_network(path, top.raw("network", {})),
        protocol=_protocol(path.name, top.raw("protocol", {})),
        acts=tuple(
            act
            for number, table in enumerate(listed, start=1)
            for act in _acts(f"{path.name}, act {number}", table, acts)
        ),
        inference=workload_of(path.name, path.parent, workload)
        if workload_of is not None and workload is not None
        else None,
    )


def _protocol(place: str, table: object) -> ProtocolConfig:
    fields = {field.name: field.default for field in dataclasses.fields(ProtocolConfig)}
    known = {name.removesuffix("_ns") + "_ms" if name.endswith("_ns") else name for name in fields}
    section = Section(f"{place}, [protocol]", table, known)
    values: dict[str, Any] = {}
    for name in sorted(known):
        if not section.has(name):
            continue
        stem = name.removesuffix("_ms")
        if name.endswith("_ms") and f"{stem}_ns" in fields:
            values[f"{stem}_ns"] = round(section.number(name, 0, 86_400_000) * MILLISECOND)
        elif isinstance(fields[name], bool):
            values[name] = section.flag(name, default=True)
        else:
            values[name] = section.whole(name, 0, 2**31)
    try:
        return ProtocolConfig(**values)
    except ValueError as error:
        raise ScenarioError(f"{place}, [protocol]: {error}") from error


_WHO: Final = ("nodes", "count", "share", "among", "but", "group")
_WHEN: Final = ("at_s", "for_s", "every_s", "until_s")


def _acts(
    place: str, table: object, acts: Mapping[str, tuple[tuple[str, ...], OptionsOf]]
) -> list[Act]:
    if not isinstance(table, dict) or not isinstance(table.get("do"), str):
        raise ScenarioError(f"{place} must say what to do")
    if table["do"] not in acts:
        raise ScenarioError(f"{place}: do = {table['do']!r}{nearest(table['do'], sorted(acts))}")
    own, options_of = acts[table["do"]]
    section = Section(place, table, ("do", *_WHO, *_WHEN, *own))
    at_ns = round(section.number("at_s", 0, DURATION_S_MAX) * SECOND)
    for_ns = None
    if section.has("for_s"):
        for_ns = round(section.number("for_s", 0.001, DURATION_S_MAX) * SECOND)
    times = [at_ns]
    if section.has("every_s"):
        every_ns = round(section.number("every_s", 0.001, DURATION_S_MAX) * SECOND)
        until_ns = round(section.number("until_s", 0, DURATION_S_MAX) * SECOND)
        if (until_ns - at_ns) // every_ns >= REPEATS_MAX:
            raise ScenarioError(f"{place}: every_s makes more than {REPEATS_MAX} acts of one")
        times = list(range(at_ns, until_ns + 1, every_ns))
    who, options = _who(section, place), options_of(section)
    return [Act(do=table["do"], at_ns=t, who=who, for_ns=for_ns, options=options) for t in times]


def _who(section: Section, place: str) -> Who:
    if sum(map(section.has, ("nodes", "count", "share"))) != 1:
        raise ScenarioError(f"{place} must say whom, by one of: nodes, count, share")
    return Who(
        nodes=section.items("nodes", int),
        count=section.whole("count", 0, NODES_MAX, 0),
        share_ppm=round(section.number("share", 0, 1, 0) * 1_000_000),
        among=section.text("among"),
        but=section.items("but", str),
        group=section.text("group"),
    )
