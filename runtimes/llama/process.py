"""The one place for how a worker process is started, what it inherits, and what it said last.

A worker gets the Python path and what GPU and thread libraries read from the environment. It gets
nothing else: it has no need of a daemon's secrets.
"""

import collections
import logging
import os
import pathlib
import subprocess
import sys
from typing import Any

import trio

from runtimes.llama.bindings import LOG_VARIABLE

STDERR_LINES_KEPT = 20
STDERR_LINE_BYTES_MAX = 400

_INHERITED = {
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TMP", "TEMP", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "DYLD_LIBRARY_PATH", "SYSTEMROOT", "USERPROFILE", "VIRTUAL_ENV", "XDG_CACHE_HOME", LOG_VARIABLE,
}  # fmt: skip
_INHERITED_PREFIXES = (
    "CUDA_", "NVIDIA_", "GGML_", "LLAMA_", "OMP_", "KMP_", "GOMP_", "HIP_", "HSA_", "ROCR_", "VK_",
)  # fmt: skip

_log = logging.getLogger(__name__)


async def open_worker() -> trio.Process:
    """Start a worker that has not been told its model yet, with three pipes. Raises OSError."""
    options: dict[str, Any] = {}
    if os.name == "posix":
        # Its own process group: Ctrl-C reaches the daemon alone, and a stopped worker whose daemon
        # dies is continued and hung up by the kernel (an orphaned group).
        options["process_group"] = 0
    return await trio.lowlevel.open_process(
        # -P: the current folder is no place to import from.
        [sys.executable, "-P", "-m", "runtimes.llama.worker", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=worker_environment(),
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
    # An abort in llama.cpp would otherwise start a debugger to print its stack.
    inherited["GGML_NO_BACKTRACE"] = "1"
    return inherited


class StderrTail:
    """Reads a worker's standard error and keeps its last lines."""

    def __init__(self) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=STDERR_LINES_KEPT)
        self._unfinished = b""
        self.ended = trio.Event()
        """Set when everything has been read."""

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        """Read until the end; each line is also logged."""
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

    def last_line(self) -> str:
        """The last line that says anything, or an empty string."""
        return self._lines[-1] if self._lines else ""

    def _keep(self, line: bytes) -> None:
        text = line[:STDERR_LINE_BYTES_MAX].decode("utf-8", "replace")
        text = "".join(letter for letter in text if letter.isprintable()).strip()
        if text:
            self._lines.append(text)
            _log.info("llama.worker %s", text)
