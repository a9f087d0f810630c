"""The one place for how a worker process is started and ended, and what it inherits and says.

A worker gets the Python path and what GPU and thread libraries read from the environment. It gets
nothing else: it has no need of a daemon's secrets.
"""

import collections
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import trio

STDERR_LINES_KEPT = 20
STDERR_LINE_BYTES_MAX = 400

_INHERITED = {
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TMP", "TEMP", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "DYLD_LIBRARY_PATH", "SYSTEMROOT", "USERPROFILE", "VIRTUAL_ENV", "XDG_CACHE_HOME",
}  # fmt: skip
_INHERITED_PREFIXES = (
    "CUDA_", "NVIDIA_", "GGML_", "LLAMA_", "MESHD_LLAMA_", "OMP_", "KMP_", "GOMP_", "HIP_", "HSA_",
    "ROCR_", "VK_",
)  # fmt: skip


async def open_worker(module: str, folder: pathlib.Path | None = None) -> trio.Process:
    """Start `module` as a worker that has not been told its work yet, with three pipes.

    It gets this process's id as its argument, for its lifeline. `folder` is where it works; None:
    here. Raises OSError.
    """
    options: dict[str, Any] = {}
    if os.name == "posix":
        # Its own process group: Ctrl-C reaches the daemon alone, and a stopped worker whose daemon
        # dies is continued and hung up by the kernel (an orphaned group).
        options["process_group"] = 0
    return await trio.lowlevel.open_process(
        # -P: the current folder is no place to import from.
        [sys.executable, "-P", "-m", module, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=worker_environment(),
        cwd=folder,
        **options,
    )


def worker_environment() -> dict[str, str]:
    """The environment of a worker."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _INHERITED or name.upper().startswith(_INHERITED_PREFIXES)
    }
    # Our own packages come last: nothing of theirs can stand in for the standard library.
    here = str(pathlib.Path(__file__).resolve().parents[2])
    inherited["PYTHONPATH"] = os.pathsep.join([*(path for path in sys.path if path), here])
    # GPUs have the numbers that nvidia-smi shows, which are NVML's.
    inherited.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # An abort in llama.cpp would otherwise start a debugger to print its stack.
    inherited["GGML_NO_BACKTRACE"] = "1"
    return inherited


def kill_with_group(worker: trio.Process) -> None:
    """Kill a worker, and what it started. Before anybody has asked how it ended: until then its
    number cannot belong to others.
    """
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
    worker.kill()


def how_it_ended(returncode: int | None, last_line: str) -> str:
    """One phrase for people; `last_line` is the worker's own, or empty."""
    if returncode is not None and returncode < 0:
        how = f"killed by signal {-returncode}"
        with contextlib.suppress(ValueError):  # real-time signals have no name
            how = f"killed by {signal.Signals(-returncode).name}"
    else:
        how = f"exit code {returncode}"
    return f"{how} ({last_line})" if last_line else how


class StderrTail:
    """Reads a worker's standard error and keeps its last lines."""

    def __init__(
        self, on_line: Callable[[str], None] | None = None, lines_kept: int = STDERR_LINES_KEPT
    ) -> None:
        """`on_line` is called with each line."""
        self._on_line = on_line
        self._lines: collections.deque[str] = collections.deque(maxlen=lines_kept)
        self._unfinished = b""
        self.ended = trio.Event()
        """Set when everything has been read."""

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        """Read until the end."""
        try:
            async for data in stream:
                *lines, rest = (self._unfinished + bytes(data)).split(b"\n")
                for line in lines:
                    self._keep(line)
                self._unfinished = rest[:STDERR_LINE_BYTES_MAX]
            self._keep(self._unfinished)
        except trio.BrokenResourceError:
            pass  # nothing more to hear
        finally:
            self.ended.set()

    def lines(self) -> tuple[str, ...]:
        """The last lines that say anything."""
        return tuple(self._lines)

    def last_line(self) -> str:
        """The last line that says anything, or an empty string."""
        return self._lines[-1] if self._lines else ""

    def _keep(self, line: bytes) -> None:
        text = line[:STDERR_LINE_BYTES_MAX].decode("utf-8", "replace")
        text = "".join(letter for letter in text if letter.isprintable()).strip()
        if text:
            self._lines.append(text)
            if self._on_line is not None:
                self._on_line(text)
