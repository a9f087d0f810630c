"""The one place for reading the table [inference] of a scenario file.

Everything from the file and from the CSV files that it names is bounded and checked; what is wrong
is one line with the mend.
"""

import csv
import decimal
import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from protocol.config import SECOND
from simulations.inference.arrivals import Arrivals, Bursty, Diurnal, Poisson, Recorded, Trace
from simulations.inference.lengths import Constant, Empirical, Lengths, LogNormal, Uniform
from simulations.inference.machines import CLASSES, MILLION, Machine, Portion, counts
from simulations.inference.policies import POLICIES
from simulations.inference.workload import GATEWAYS, Workload
from simulations.scenario import NODES_MAX
from simulations.section import DURATION_S_MAX, ScenarioError, Section, nearest

T = TypeVar("T")
TOKENS_MAX: Final = 1_000_000
"""Of one prompt or one answer."""
USERS_MAX: Final = 1_000_000
REQUESTS_MAX: Final = 2_000_000
"""Of one run."""
FILE_BYTES_MAX: Final = 64 * 2**20
ROWS_MAX: Final = 1_000_000
_ASKED: Final = ("prompt_tokens", "output_tokens", "arrivals", "requests_per_s", "offered_load")
_WHO: Final = ("machine", "owners", "users", "shares", "gateways", "policy", "load_age_s")
_KEYS: Final = (*_ASKED, *_WHO, "lasts_s", "deadline_s", "may_continue")


def read_workload(place: str, folder: pathlib.Path, table: object) -> Workload:
    """A workload from its table; files are looked for in `folder`. Raises ScenarioError."""
    place = f"{place}, [inference]"
    section = Section(place, table, _KEYS)
    arrivals = _arrivals(section, place, folder)
    is_trace = isinstance(arrivals, Trace)
    rows = arrivals.rows if isinstance(arrivals, Trace) else ()
    rates = [key for key in ("requests_per_s", "offered_load") if section.has(key)]
    if len(rates) != (0 if is_trace else 1):
        how = "nothing, a trace has its own" if is_trace else "one of: requests_per_s, offered_load"
        raise ScenarioError(f"{place} must say how much comes, by {how}")
    for key in ("prompt_tokens", "output_tokens"):
        if section.has(key) == is_trace:
            how = "a trace has its own" if is_trace else "it is missing"
            raise ScenarioError(f"{place}: {key}: {how}")
    lengths = [
        _lengths(section, place, folder, key) if not is_trace else Constant(1)
        for key in ("prompt_tokens", "output_tokens")
    ]
    gateways = section.whole("gateways", 1, NODES_MAX, 1)
    if (last := max((row.gateway for row in rows), default=0)) >= gateways:
        raise ScenarioError(f"{place}: the trace has gateway {last}; gateways = {gateways}")
    told = section.span("load_age_s", SECOND, (0, 0)) if section.has("load_age_s") else None
    lasts_s = section.number("lasts_s", 0.001, DURATION_S_MAX, DURATION_S_MAX)
    return Workload(
        portions=_portions(section, place),
        prompt=lengths[0],
        output=lengths[1],
        arrivals=arrivals,
        policy=section.text("policy", "meshd", POLICIES),
        rate_uhz=round(section.number("requests_per_s", 0.000_001, 1_000_000, 1) * MILLION)
        if section.has("requests_per_s")
        else 0,
        load_ppm=round(section.number("offered_load", 0.000_001, 100, 1) * MILLION),
        users=section.whole("users", 1, USERS_MAX, gateways),
        is_zipf=section.text("shares", "even", ("even", "zipf")) == "zipf",
        gateways=gateways,
        lasts_ns=round(lasts_s * SECOND) if section.has("lasts_s") else None,
        deadline_ns=round(section.number("deadline_s", 0.001, DURATION_S_MAX, 600) * SECOND),
        may_continue=section.flag("may_continue", default=True),
        has_one_owner=section.text("owners", "one", ("one", "each")) == "one",
        told_ns=told,
    )


# ---- who serves ----

_SPEEDS: Final = ("prefill_tokens_per_s", "decode_tokens_per_s", "slots", "queue")
_MACHINE: Final = ("class", "name", "count", "share", *_SPEEDS, "slowdown", "load_s")


def _portions(section: Section, place: str) -> tuple[Portion, ...]:
    listed = section.raw("machine", [])
    if not isinstance(listed, list) or not listed:
        raise ScenarioError(f"{place}: write [[inference.machine]] at least once")
    portions = tuple(
        _portion(f"{place}, machine {number}", table) for number, table in enumerate(listed, 1)
    )
    names = [portion.machine.name for portion in portions]
    for name in names:
        if names.count(name) > 1 or name == GATEWAYS:
            raise ScenarioError(f"{place}: two kinds are called {name!r}; give one another name")
    return portions


def _portion(place: str, table: object) -> Portion:
    section = Section(place, table, _MACHINE)
    known = CLASSES[section.text("class", "cpu", CLASSES)]
    if section.has("count") == section.has("share"):
        raise ScenarioError(f"{place} must say how many, by one of: count, share")

    def milli(key: str, default: int) -> int:
        return round(section.number(key, 0.001, 10_000_000, default / 1_000) * 1_000)

    name = section.text("name", known.name)
    if not name.isidentifier():
        raise ScenarioError(f"{place}: name = {name!r}: letters, digits and _ only")
    machine = Machine(
        name=name,
        prefill_milli=milli("prefill_tokens_per_s", known.prefill_milli),
        decode_milli=milli("decode_tokens_per_s", known.decode_milli),
        slots=section.whole("slots", 1, 1_024, known.slots),
        queue=section.whole("queue", 0, 10_000, known.queue),
        slowdown_ppm=round(
            section.number("slowdown", 0, 1, known.slowdown_ppm / MILLION) * MILLION
        ),
        load_ns=round(section.number("load_s", 0, 86_400, known.load_ns / SECOND) * SECOND),
    )
    return Portion(
        machine=machine,
        count=section.whole("count", 1, NODES_MAX, 1) if section.has("count") else 0,
        share_ppm=round(section.number("share", 0, 1, 0) * MILLION),
    )


# ---- when, and how long ----


def _arrivals(section: Section, place: str, folder: pathlib.Path) -> Arrivals:
    kinds: dict[str, tuple[tuple[str, ...], Callable[[Section], Arrivals]]] = {
        "poisson": ((), lambda own: Poisson()),
        "bursty": (("burst_s", "quiet_s", "factor"), lambda own: _bursty(own, place)),
        "diurnal": (
            ("period_s",),
            lambda own: Diurnal(period_ns=_seconds(own, "period_s", 86_400)),
        ),
        "trace": (("file",), lambda own: _trace(own, folder)),
    }
    return _kind(section, place, "arrivals", kinds)


def _bursty(own: Section, place: str) -> Bursty:
    burst_ns, quiet_ns = _seconds(own, "burst_s", 5), _seconds(own, "quiet_s", 15)
    most = (burst_ns + quiet_ns) / burst_ns
    factor = own.number("factor", 1, 1_000_000, min(3.0, most))
    if factor > most:
        raise ScenarioError(
            f"{place}, arrivals: factor = {factor:g} is more than (burst_s + quiet_s) / burst_s"
        )
    return Bursty(burst_ns=burst_ns, quiet_ns=quiet_ns, factor_ppm=int(factor * MILLION))


def _seconds(own: Section, key: str, default: float) -> int:
    return round(own.number(key, 0.001, DURATION_S_MAX, default) * SECOND)


def _lengths(section: Section, place: str, folder: pathlib.Path, key: str) -> Lengths:
    if isinstance(section.raw(key, None), int):
        return Constant(section.whole(key, 1, TOKENS_MAX))

    def tokens(own: Section, name: str, default: int | None = None) -> int:
        return own.whole(name, 1, TOKENS_MAX, default)

    def uniform(own: Section) -> Lengths:
        low = tokens(own, "low")
        return Uniform(low, own.whole("high", low, TOKENS_MAX))

    def log_normal(own: Section) -> Lengths:
        sigma_ppm = round(own.number("sigma", 0, 3) * MILLION)
        return LogNormal(tokens(own, "median"), sigma_ppm, tokens(own, "high", 100_000))

    kinds: dict[str, tuple[tuple[str, ...], Callable[[Section], Lengths]]] = {
        "constant": (("tokens",), lambda own: Constant(tokens(own, "tokens"))),
        "uniform": (("low", "high"), uniform),
        "log_normal": (("median", "sigma", "high"), log_normal),
        "empirical": (("file", "column"), lambda own: _empirical(own, folder, key)),
    }
    return _kind(section, place, key, kinds)


def _kind(
    section: Section,
    place: str,
    key: str,
    kinds: Mapping[str, tuple[tuple[str, ...], Callable[[Section], T]]],
) -> T:
    """What a table `{ kind = "...", ... }` says, or a name alone."""
    value = section.raw(key, next(iter(kinds)))
    table = {"kind": value} if isinstance(value, str) else value
    name = table.get("kind") if isinstance(table, dict) else None
    if not isinstance(name, str) or name not in kinds:
        said = f"kind = {name!r}" if name is not None else "kind is missing"
        raise ScenarioError(f"{place}: {key}: {said}{nearest(str(name), sorted(kinds))}")
    own_keys, read = kinds[name]
    return read(Section(f"{place}, {key}", table, ("kind", *own_keys)))


# ---- CSV ----


def _rows(own: Section, folder: pathlib.Path) -> tuple[str, list[dict[str, str | None]]]:
    """The name of the CSV file, and its rows; its first line has the columns' names."""
    path = folder / own.text("file")
    try:
        if path.exists() and not path.is_file():
            raise ScenarioError(f"{path} is no file")
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ScenarioError(f"{path} has more than {FILE_BYTES_MAX} bytes")
        reader = csv.DictReader(io.StringIO(path.read_text("utf-8")), restval=None)
        rows: list[dict[str, str | None]] = []
        for row in reader:
            rows.append(row)
            if len(rows) > ROWS_MAX:
                raise ScenarioError(f"{path} has more than {ROWS_MAX} rows")
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise ScenarioError(f"{path} is no CSV text") from error
    if not rows:
        raise ScenarioError(f"{path} has no rows under its first line")
    return str(path), rows


def _cell(place: str, row: Mapping[str, str | None], column: str) -> str:
    value = row.get(column)
    if value is None:
        raise ScenarioError(f"{place} has no column {column!r}{nearest(column, _names(row))}")
    return value.strip()


def _names(row: Mapping[str, str | None]) -> Sequence[str]:
    return [name for name in row if isinstance(name, str)]


def _whole(place: str, row: Mapping[str, str | None], column: str, low: int, high: int) -> int:
    text = _cell(place, row, column)
    if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
        raise ScenarioError(f"{place}: {column} = {text[:40]!r} is not in {low} to {high}")
    return int(text)


def _trace(own: Section, folder: pathlib.Path) -> Trace:
    name, rows = _rows(own, folder)
    users: dict[str, int] = {}
    recorded: list[Recorded] = []
    for line, row in enumerate(rows, start=2):
        place = f"{name}, line {line}"
        user = _cell(place, row, "user")
        recorded.append(
            Recorded(
                at_ns=_time_ns(place, _cell(place, row, "time_s")),
                prompt_tokens=_whole(place, row, "prompt_tokens", 1, TOKENS_MAX),
                output_tokens=_whole(place, row, "output_tokens", 1, TOKENS_MAX),
                user=users.setdefault(user, len(users)),
                gateway=_whole(place, row, "gateway", 0, NODES_MAX),
            )
        )
    return Trace(tuple(sorted(recorded, key=lambda one: one.at_ns)))


def _time_ns(place: str, text: str) -> int:
    try:
        seconds = decimal.Decimal(text)
    except decimal.InvalidOperation:
        seconds = decimal.Decimal("NaN")
    if not seconds.is_finite() or not 0 <= seconds <= DURATION_S_MAX:
        raise ScenarioError(f"{place}: time_s = {text[:40]!r} is not in 0 to {DURATION_S_MAX}")
    return int(seconds * SECOND)


def _empirical(own: Section, folder: pathlib.Path, key: str) -> Empirical:
    name, rows = _rows(own, folder)
    column = own.text("column", key)
    places = (f"{name}, line {line}" for line in range(2, len(rows) + 2))
    return Empirical(
        tuple(
            _whole(place, row, column, 1, TOKENS_MAX)
            for place, row in zip(places, rows, strict=True)
        )
    )


def check_workload(name: str, workload: Workload, nodes: int, duration_ns: int) -> None:
    """Raise ScenarioError if it does not fit to so many nodes, or is more than can be held."""
    if workload.gateways > nodes:
        raise ScenarioError(f"{name}: gateways = {workload.gateways}, but there are {nodes} nodes")
    serving = sum(counts(nodes, workload.portions))
    if not 0 < serving <= nodes:
        raise ScenarioError(f"{name}: {serving} machines serve, but there are {nodes} nodes")
    span_ns = min(duration_ns, workload.lasts_ns or duration_ns)
    if workload.rate_for(nodes) * span_ns > REQUESTS_MAX * MILLION * SECOND:
        raise ScenarioError(
            f"{name}: more than {REQUESTS_MAX} requests would come; make it shorter"
        )
