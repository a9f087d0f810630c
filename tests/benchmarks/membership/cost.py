"""The one place for what daemons cost the machine: processor, memory, traffic (from /proc)."""

import dataclasses
import os
import pathlib
import statistics
import time
from collections.abc import Sequence

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KIB = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """Counters of some processes and of their network at one time."""

    at_s: float
    cpu_s: tuple[float, ...]
    datagrams: int
    ip_bytes: int


def read(pids: Sequence[int]) -> Reading:
    """Processor time of each; what their network namespace has sent, over all protocols of IP."""
    snmp, netstat = (_network(pids[0], file) for file in ("snmp", "netstat"))
    cpu = tuple(_cpu_s(pid) for pid in pids)
    return Reading(
        time.monotonic(), cpu, snmp["Udp"]["OutDatagrams"], netstat["IpExt"]["OutOctets"]
    )


def between(before: Reading, after: Reading) -> dict[str, float | None]:
    """Per daemon: share of a core, and of the traffic."""
    count = len(before.cpu_s)
    seconds = after.at_s - before.at_s
    shares = [
        100 * (new - old) / seconds for old, new in zip(before.cpu_s, after.cpu_s, strict=True)
    ]
    return {
        "CPU mean % of a core": statistics.mean(shares),
        "CPU max % of a core": max(shares),
        "datagrams/s": (after.datagrams - before.datagrams) / seconds / count,
        "bytes/s with IP headers": (after.ip_bytes - before.ip_bytes) / seconds / count,
    }


def memory(pids: Sequence[int]) -> dict[str, float | None]:
    """Medians over the processes: resident (RSS), with shared pages shared out (PSS), own (USS)."""
    rows = [_memory(pid) for pid in pids]
    return {
        f"{kind} MB": statistics.median(row[kind] for row in rows) / 1e6
        for kind in ("RSS", "PSS", "USS")
    }


def _cpu_s(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / _TICKS_PER_S


def _memory(pid: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        sizes[name.rstrip(":")] = int(value) * _KIB
    uss = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"RSS": sizes["Rss"], "PSS": sizes["Pss"], "USS": uss}


def _network(pid: int, file: str) -> dict[str, dict[str, int]]:
    """Pairs of lines: names, then numbers, each behind the protocol's name."""
    lines = pathlib.Path(f"/proc/{pid}/net/{file}").read_text().splitlines()
    tables: dict[str, dict[str, int]] = {}
    for names, numbers in zip(lines[::2], lines[1::2], strict=True):
        protocol, _, keys = names.partition(":")
        values = map(int, numbers.partition(":")[2].split())
        tables[protocol] = dict(zip(keys.split(), values, strict=True))
    return tables
