"""The one place for reading what was done to hosts in a run: `World.history`."""

from collections.abc import Sequence

Row = tuple[int, int, str]
"""(time in nanoseconds, host, act)."""


def next_start(history: Sequence[Row], row: int) -> int | None:
    """When the host of this row was started after it; None: never."""
    host = history[row][1]
    return next((t for t, who, act in history[row:] if who == host and act == "start"), None)


def last_start(history: Sequence[Row], host: int) -> int:
    """When a host that was started was started last."""
    return max(t for t, who, act in history if who == host and act == "start")
