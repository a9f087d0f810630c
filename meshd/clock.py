"""The one place that reads clocks: one that counts suspended time, and the wall."""

import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def now_ns() -> int:
    """Nanoseconds of a clock that never goes back and runs on while a laptop sleeps (Linux).

    Elsewhere the monotonic clock, which on macOS stands still in sleep; `Gossip` then sees a
    sleep as no time at all, and its first probes after it simply start anew.
    """
    if _BOOTTIME is not None:
        return time.clock_gettime_ns(_BOOTTIME)
    return time.monotonic_ns()


def wall_s() -> int:
    """Unix time in whole seconds."""
    return int(time.time())
