"""The one place for what a scenario is, and for reading one from a TOML file.

    nodes, duration_s      how many, how long
    form                   "together": all start at once through node 0, the clock of the measures
                           with them; "whole": they have found each other before it starts
    [network]              delay_ms, loss_percent, ... (`NetworkOptions`)
    [protocol]             any field of `ProtocolConfig`; times in `_ms`
    [[act]]                at_s, do, whom it happens to, for_s, every_s, and the act's own options

Everything is checked before anything runs: an unknown key, an impossible value or a missing file is
one line with the nearest valid name.
"""

import dataclasses
import difflib
import pathlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from protocol.config import MILLISECOND, SECOND, ProtocolConfig
from simulations.network import NetworkOptions

NODES_MAX: Final = 100_000
DURATION_S_MAX: Final = 30 * 86_400
REPEATS_MAX: Final = 100_000
"""Acts that one `every_s` may unfold into."""
FORMS: Final = ("together", "whole")


class ScenarioError(Exception):
    """A scenario that cannot be run; the text is one line for the person who wrote it."""


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


class Section:
    """One table of a scenario file, read key by key; what nobody asked for is an error."""

    def __init__(self, place: str, table: object, known: Iterable[str]) -> None:
        """Raises ScenarioError for a key that is not among `known`."""
        if not isinstance(table, dict):
            raise ScenarioError(f"{place} must be a table")
        self._place = place
        self._table: dict[str, Any] = table
        names = sorted(known)
        for key in table:
            if key not in names:
                raise ScenarioError(f"{place} has an unknown key {key!r}{nearest(key, names)}")

    def has(self, key: str) -> bool:
        """Whether the file says anything about it."""
        return key in self._table

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number within these bounds."""
        value = self._table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ScenarioError(f"{self._place}: {key} must be a number")
        if not low <= value <= high:
            raise ScenarioError(f"{self._place}: {key} = {value:g} is not in {low:g} to {high:g}")
        return value

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number within these bounds."""
        value = self.number(key, low, high, default)
        if value != int(value):
            raise ScenarioError(f"{self._place}: {key} must be a whole number")
        return int(value)

    def text(self, key: str, default: str = "", among: Iterable[str] | None = None) -> str:
        """A text, one of `among` if given."""
        value = self._table.get(key, default)
        if not isinstance(value, str):
            raise ScenarioError(f"{self._place}: {key} must be a text")
        if among is not None and value not in (names := sorted(among)):
            raise ScenarioError(f"{self._place}: {key} = {value!r}{nearest(value, names)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._table.get(key, default)
        if not isinstance(value, bool):
            raise ScenarioError(f"{self._place}: {key} must be true or false")
        return value

    def span(self, key: str, unit_ns: int, default: tuple[float, float]) -> tuple[int, int]:
        """[low, high], or one number for both, in nanoseconds."""
        value = self._table.get(key, list(default))
        pair = value if isinstance(value, list) else [value, value]
        is_plain = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in pair)
        if len(pair) != 2 or not is_plain or not 0 <= pair[0] <= pair[1] <= DURATION_S_MAX * 1000:
            raise ScenarioError(f"{self._place}: {key} must be [low, high] with 0 <= low <= high")
        return round(pair[0] * unit_ns), round(pair[1] * unit_ns)

    def items(self, key: str, kind: type) -> tuple[Any, ...]:
        """A list whose items are all of one kind; one item alone may stand for it."""
        value = self._table.get(key, [])
        items = value if isinstance(value, list) else [value]
        if not all(type(item) is kind for item in items):
            raise ScenarioError(f"{self._place}: {key} must be a list of {kind.__name__}")
        return tuple(items)

    def raw(self, key: str, default: object) -> Any:  # noqa: ANN401  # read by another Section
        """Whatever stands there."""
        return self._table.get(key, default)


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for a name that is not among `names`."""
    known = list(names)
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there is: {', '.join(known)}"


OptionsOf = Callable[[Section], Mapping[str, Any]]
"""Reads an act's own options."""


def read_scenario(
    path: pathlib.Path, acts: Mapping[str, tuple[tuple[str, ...], OptionsOf]]
) -> Scenario:
    """A scenario from a file. `acts`: by name, the options of each and who reads them.

    Raises ScenarioError.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path} is not TOML: {error}") from error
    known = ("title", "nodes", "duration_s", "form", "network", "protocol", "act")
    top = Section(path.name, content, known)
    listed = top.raw("act", [])
    if not isinstance(listed, list):
        raise ScenarioError(f"{path.name}: write [[act]], with two brackets")
    return Scenario(
        name=path.stem,
        title=top.text("title"),
        nodes=top.whole("nodes", 2, NODES_MAX),
        duration_ns=round(top.number("duration_s", 0.001, DURATION_S_MAX) * SECOND),
        form=top.text("form", "whole", FORMS),
        network=_network(path.name, top.raw("network", {})),
        protocol=_protocol(path.name, top.raw("protocol", {})),
        acts=tuple(
            act
            for number, table in enumerate(listed, start=1)
            for act in _acts(f"{path.name}, act {number}", table, acts)
        ),
    )


def _network(place: str, table: object) -> NetworkOptions:
    known = ("delay_ms", "loss_percent", "duplicate_percent", "stream_timeout_s")
    section = Section(f"{place}, [network]", table, known)
    low_ns, high_ns = section.span("delay_ms", MILLISECOND, (0.5, 2.0))
    return NetworkOptions(
        delay_min_ns=low_ns,
        delay_max_ns=high_ns,
        loss_ppm=round(section.number("loss_percent", 0, 100, 0) * 10_000),
        duplicate_ppm=round(section.number("duplicate_percent", 0, 100, 0) * 10_000),
        stream_timeout_ns=round(section.number("stream_timeout_s", 0.001, 600, 5) * SECOND),
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
        times = list(range(at_ns, until_ns + 1, every_ns))
        if len(times) > REPEATS_MAX:
            raise ScenarioError(f"{place}: every_s makes more than {REPEATS_MAX} acts of one")
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
