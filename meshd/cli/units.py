"""The one place that writes numbers for people: short, with their unit."""

from collections.abc import Sequence


def size(size_bytes: int) -> str:
    """1.2 GB and the like; empty for 0, which means unknown."""
    return _scaled(size_bytes, (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)), " B")


def count(number: int) -> str:
    """7.6B (thousand million) and the like, as models are named; empty for 0, unknown."""
    return _scaled(number, (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)), "", gap="")


def milliseconds(time_ms: float | None) -> str:
    """1.2 ms and the like; empty for None, unknown."""
    if time_ms is None:
        return ""
    return f"{time_ms:.1f} ms" if time_ms < 100 else f"{time_ms:.0f} ms"


def seconds(time_s: float) -> str:
    """42 s, 3 min, 5.0 h, 2.1 d."""
    if time_s < 120:
        return f"{time_s:.0f} s"
    if time_s < 7_200:
        return f"{time_s / 60:.0f} min"
    return f"{time_s / 3_600:.1f} h" if time_s < 172_800 else f"{time_s / 86_400:.1f} d"


def _scaled(number: int, units: Sequence[tuple[str, int]], plain: str, *, gap: str = " ") -> str:
    if number <= 0:
        return ""
    for unit, factor in units:
        if number >= factor:
            scaled = number / factor
            return f"{scaled:.1f}{gap}{unit}" if scaled < 100 else f"{scaled:.0f}{gap}{unit}"
    return f"{number}{plain}"
