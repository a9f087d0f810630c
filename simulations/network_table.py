"""The one place for reading what a scenario file says of its network."""

import pathlib
from typing import Any, Final

from protocol.config import MILLISECOND, SECOND
from simulations.latency import Delay, MatrixError, Path, Regions, even, read_matrix, tailed
from simulations.lines import LineOptions
from simulations.nat import NatKind
from simulations.network import NetworkOptions
from simulations.section import ScenarioError, Section, nearest

_MATRICES: Final = ("round_trip_csv", "one_way_csv")
_KNOWN: Final = (
    *("delay_ms", "loss_percent", "duplicate_percent", "reorder_percent", "reorder_ms"),
    *("stream_timeout_s", "regions", "link", *_MATRICES, "jitter_percent"),
    *("up_kbit_s", "down_kbit_s", "queue_bytes", "nat"),
)
_TAILED: Final = ("min", "p50", "p99", "max")
_KBIT_BYTES: Final = 125
_DELAY_MS: Final = (0.5, 2.0)


def read_network(path: pathlib.Path, table: object) -> NetworkOptions:
    """The options in the file's table `[network]`. Raises ScenarioError."""
    section = Section(f"{path.name}, [network]", table, _KNOWN)
    return NetworkOptions(
        delay=_delay(section),
        loss_ppm=_ppm(section, "loss_percent"),
        duplicate_ppm=_ppm(section, "duplicate_percent"),
        reorder_ppm=_ppm(section, "reorder_percent"),
        reorder_ns=section.span("reorder_ms", MILLISECOND, (1, 20)),
        stream_timeout_ns=round(section.number("stream_timeout_s", 0.001, 600, 5) * SECOND),
        regions=_regions(path, section),
        line=LineOptions(
            up_bytes_per_s=section.whole("up_kbit_s", 0, 10**9, 0) * _KBIT_BYTES,
            down_bytes_per_s=section.whole("down_kbit_s", 0, 10**9, 0) * _KBIT_BYTES,
            queue_bytes=section.whole("queue_bytes", 1_500, 10**9, 262_144),
        ),
        nat_ppm=_nats(section.table("nat", tuple(NatKind))),
    )


def _ppm(section: Section, key: str) -> int:
    return round(section.number(key, 0, 100, 0) * 10_000)


def _delay(section: Section) -> Delay:
    """`[low, high]`, one number, or a table of quantiles."""
    if not isinstance(section.raw("delay_ms", None), dict):
        return even(*section.span("delay_ms", MILLISECOND, _DELAY_MS))
    quantiles = section.table("delay_ms", _TAILED)
    values = [round(quantiles.number(key, 0, 600_000) * MILLISECOND) for key in _TAILED]
    if values != sorted(values):
        raise ScenarioError(f"{section.place}: delay_ms must have min <= p50 <= p99 <= max")
    return tailed(*values)


def _nats(section: Section) -> tuple[tuple[NatKind, int], ...]:
    shares = tuple(
        (NatKind(key), round(section.number(key, 0, 1) * 1_000_000)) for key in section.names()
    )
    if sum(ppm for _, ppm in shares) > 1_000_000:
        raise ScenarioError(f"{section.place}: these are more than all nodes")
    return shares


def _regions(path: pathlib.Path, section: Section) -> Regions:
    named = [key for key in _MATRICES if section.has(key)]
    links = section.raw("link", [])
    if len(named) + section.has("regions") > 1:
        raise ScenarioError(f"{section.place}: give regions, or one matrix of them")
    if named:
        if links:
            raise ScenarioError(f"{section.place}: a matrix needs no links")
        file = path.parent / section.text(named[0])
        jitter_ppm = round(section.number("jitter_percent", 0, 1_000, 10) * 10_000)
        try:
            return read_matrix(
                file, is_round_trip=named[0] == "round_trip_csv", jitter_ppm=jitter_ppm
            )
        except MatrixError as error:
            raise ScenarioError(str(error)) from error
    table = section.table("regions")
    names = table.names()
    weights = [table.whole(name, 1, 1_000_000) for name in names]
    if not isinstance(links, list):
        raise ScenarioError(f"{section.place}: write [[network.link]], with two brackets")
    return Regions(names, weights, _links(section, names, links))


def _links(section: Section, names: list[str], links: list[Any]) -> dict[tuple[int, int], Path]:
    paths: dict[tuple[int, int], Path] = {}
    for number, table in enumerate(links, start=1):
        place = f"{section.place}, link {number}"
        link = Section(place, table, ("between", "delay_ms", "loss_percent"))
        between = link.items("between", str)
        if len(between) not in (1, 2):
            raise ScenarioError(f"{place}: between must name two regions, or one for its inside")
        for name in between:
            if name not in names:
                raise ScenarioError(f"{place}: no region {name!r}{nearest(name, names)}")
        ends = names.index(between[0]), names.index(between[-1])
        paths[ends] = Path(_delay(link), _ppm(link, "loss_percent"))
    return paths
