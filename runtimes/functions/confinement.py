"""The one place for what the operating system holds a job's process to, where it can.

POSIX has limits on a process for itself and whatever it starts; elsewhere only the daemon's own
deadline and the limits on what it takes from the pipe hold.
"""

import contextlib

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # checked before each use

FILE_BYTES_MAX = 2**30
"""One file that a job writes."""


def confine(*, cpu_s: int, memory_bytes: int) -> None:
    """Bound this process for the rest of its life.

    Over the processor time it gets SIGXCPU and then SIGKILL, over the memory a MemoryError. A limit
    that the system does not take, or that is lower already, stays as it is.
    """
    if resource is None:
        return
    limits = {
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        resource.RLIMIT_FSIZE: (FILE_BYTES_MAX, FILE_BYTES_MAX),
        resource.RLIMIT_CORE: (0, 0),
    }
    for which, (soft, hard) in limits.items():
        _, allowed = resource.getrlimit(which)
        if allowed != resource.RLIM_INFINITY:
            soft, hard = min(soft, allowed), min(hard, allowed)
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(which, (soft, hard))
