"""The one place that starts nodes as child processes, and sees to it that none outlives us.

Plain subprocess from the main thread, on purpose: Linux kills a child when the *thread* that
started it ends, so no pool of threads may start one.
"""

import contextlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from meshd import posix
from meshd.failures import UserError
from meshd.home import Home

GOODBYE_TIMEOUT_S = 10.0
"""A daemon that is told to stop ends within this, or is killed."""
READER_TIMEOUT_S = 1.0
"""For the pipe to end with the child; something that it started may still hold it open."""
LINE_BYTES_MAX = 65_536
LAST_WORDS_BYTES_MAX = 4_096


class Child:
    """A running `meshd up` of ours."""

    def __init__(self, name: str, home: Home, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.home = home
        self.gateway = ""
        """`http://HOST:PORT`, once ready."""
        self._process = process
        self._first_line: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()

    def _read_output(self) -> None:
        """In a thread of its own: a pipe has no time-out on every system."""
        output = self._process.stdout
        assert output is not None
        with output:
            self._first_line.put(output.readline(LINE_BYTES_MAX))
            while output.read(LINE_BYTES_MAX):
                pass  # nothing more is expected; a full pipe would stop the child

    def wait_ready(self, timeout_s: float) -> None:
        """Wait for its ready line. Raises UserError when it ends before, or takes too long."""
        try:
            line = self._first_line.get(timeout=timeout_s)
        except queue.Empty:
            raise UserError(
                f"{self.name} was not ready within {timeout_s:.0f} s; {self._said()}"
            ) from None
        try:
            self.gateway = str(json.loads(line)["gateway"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.name} did not start; {self._said()}") from None

    def check_alive(self) -> None:
        """Raises UserError when it has ended."""
        if self._process.poll() is not None:
            raise UserError(f"{self.name} ended unexpectedly; {self._said()}")

    def last_words(self) -> str:
        """The last line on its standard error, for an error message; may be empty."""
        try:
            with _log_of(self.home).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - LAST_WORDS_BYTES_MAX))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return last.removeprefix("meshd: ")

    def _said(self) -> str:
        return f"its last words: {self.last_words() or 'none'}"

    def tell_to_stop(self) -> None:
        """Ask it to say goodbye and end; does not wait."""
        self._process.terminate()

    def stop(self, deadline: float) -> None:
        """Wait until it has ended; kill it at `deadline` (of `time.monotonic`)."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End it now, if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join(READER_TIMEOUT_S)


class Children:
    """Nodes that run while inside the context; leaving stops all, whatever happens."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._running: list[Child] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            for child in self._running:
                child.tell_to_stop()
            deadline = time.monotonic() + GOODBYE_TIMEOUT_S
            for child in self._running:
                child.stop(deadline)
        finally:  # also when an impatient Ctrl-C ends the waiting
            for child in self._running:
                child.kill()

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start a node of this name on free loopback ports, in a new home, off the LAN."""
        home = Home(self._folder / name)
        ports = ["--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0", "--no-lan"]
        options = ["--json", "--home", str(home.path), "--name", name, *ports, *arguments]
        with _log_of(home).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program, options of our own making
                [*command(), "up", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                preexec_fn=posix.dying_with_parent(),
            )
        child = Child(name, home, process)
        self._running.append(child)
        return child


def command() -> list[str]:
    """What starts this very meshd again; needs `_environment`."""
    return [sys.executable, "-P", "-m", "meshd"]


def _environment() -> dict[str, str]:
    """Ours, with the folder first that meshd was imported from: not whatever lies around."""
    ours = str(pathlib.Path(__file__).resolve().parents[2])
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{ours}{os.pathsep}{others}" if others else ours}


def _log_of(home: Home) -> pathlib.Path:
    return home.path.with_suffix(".log")
