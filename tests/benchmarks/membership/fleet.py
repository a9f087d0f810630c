"""The one place for what every kind of daemon can be told to do: start, join, die, pause, leave."""

import abc
import pathlib
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

from meshd import posix
from tests.benchmarks.membership.listener import Listener, Take
from tests.benchmarks.membership.places import CannotRun, Place
from tests.benchmarks.membership.sightings import ALIVE, Sightings

BATCH: Final = 8
"""So many start at the same time, so that nobody waits long for a processor."""
READY_S: Final = 60.0
WHOLE_S: Final = 180.0
"""Longer than Serf's slowest join storm."""
_WORDS_KEPT: Final = 12
_FIRST_PORT: Final = 21_000
"""Below those that a system gives to whoever asks for any."""


class Fleet(abc.ABC):
    """Many daemons of one kind, by name. Leaving the context ends them all."""

    title: ClassVar[str]
    goodbye: ClassVar[signal.Signals]
    """What makes it leave in order."""

    def __init__(
        self, listener: Listener, folder: pathlib.Path, place_of: Callable[[str], Place]
    ) -> None:
        """`place_of`: where each of them runs."""
        self.listener = listener
        self.folder = folder
        self.place_of = place_of
        self.sightings = Sightings()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ready: dict[str, bool] = {}
        self._words: dict[str, deque[bytes]] = {}
        self._next_port = _FIRST_PORT

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *exception: object) -> None:
        for name in list(self._processes):
            self.kill(name)

    # ---- what each kind does its own way ----

    @abc.abstractmethod
    def start(self, names: Sequence[str], *, seed: str | None = None) -> None:
        """Start daemons and wait until they are ready: each alone, or joining `seed` at once."""

    @abc.abstractmethod
    def join(self, names: Sequence[str], seed: str) -> float:
        """Make running, lonely daemons join through `seed`, all at once; when they were told to.

        Seconds of time.monotonic. What they told before is forgotten.
        """

    @abc.abstractmethod
    def restart(self, name: str, seed: str, *, other_port: bool) -> None:
        """Start a killed one again with what is on its disk; does not wait."""

    @abc.abstractmethod
    def members(self, name: str) -> Mapping[str, tuple[str, int]]:
        """Ask one of them: (state, port) of each member that it knows, by name."""

    @abc.abstractmethod
    def port(self, name: str) -> int:
        """Where others reach it now."""

    # ---- what all do alike ----

    def form(self, names: Sequence[str]) -> None:
        """A running mesh in which everybody sees everybody. Raises CannotRun."""
        seed, *others = names
        self.start([seed])
        for begin in range(0, len(others), BATCH):
            self.start(others[begin : begin + BATCH], seed=seed)
        self.wait_whole(names)

    def wait_whole(self, names: Sequence[str], within_s: float = WHOLE_S) -> None:
        """Wait until each counts each of the others as alive. Raises CannotRun."""
        if not self.listener.until(lambda: self.is_whole(names), within_s):
            self.explain(names)
            raise CannotRun(f"{self.title} is not whole after {within_s:g} s")

    def is_whole(self, names: Sequence[str]) -> bool:
        """Whether each counts each of the others as alive."""
        return self.sightings.do_all_say(names, names, ALIVE)

    def explain(self, names: Sequence[str]) -> None:
        """Print who is missing where, and the last words of the worst."""
        missing = self.sightings.missing(names, ALIVE)
        worst = list(missing.items())[:3]
        print(f"  {self.title}: pairs that do not see each other, by node: {worst}")
        for name, _ in worst[:1]:
            for line in self._words[name]:
                print(f"    {name}: {line.decode(errors='replace')}")

    def kill(self, name: str) -> float:
        """kill -9, and wait until it is gone; when it was killed."""
        process = self._processes.pop(name)
        at_s = time.monotonic()
        process.kill()
        process.wait()
        return at_s

    def signal(self, name: str, number: signal.Signals) -> float:
        """Send a signal; when."""
        self._processes[name].send_signal(number)
        return time.monotonic()

    def leave(self, name: str) -> float:
        """Tell it to say goodbye and stop; when it was told. Does not wait."""
        return self.signal(name, self.goodbye)

    def has_ended(self, name: str) -> bool:
        """Whether its process is gone; it is forgotten then."""
        process = self._processes.get(name)
        if process is not None and process.poll() is not None:
            del self._processes[name]
        return name not in self._processes

    def pid(self, name: str) -> int:
        """Its process."""
        return self._processes[name].pid

    def _free_port(self) -> int:
        """One that nobody uses, nor the next above it; never given twice."""
        while True:
            port, self._next_port = self._next_port, self._next_port + 2
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    for number in (port, port + 1):
                        with socket.socket(socket.AF_INET, kind) as probe:
                            probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            return port

    def _spawn(self, name: str, command: Sequence[str], said: Take, told: Take) -> None:
        """Start a process: lines of its output go to `said`, of its standard error to `told`."""
        self.sightings.forget(name)
        self._ready[name] = False
        process = subprocess.Popen(
            [*self.place_of(name).prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(),
            preexec_fn=posix.dying_with_parent(),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        self._processes[name] = process
        words = self._words[name] = deque(maxlen=_WORDS_KEPT)

        def keep(at_s: float, line: bytes) -> None:
            words.append(line)
            told(at_s, line)

        self.listener.watch(process.stdout, said)
        self.listener.watch(process.stderr, keep)

    def _environment(self) -> Mapping[str, str] | None:
        return None

    def _wait_ready(self, names: Sequence[str]) -> None:
        def is_decided() -> bool:
            return all(self._ready[n] or self._processes[n].poll() is not None for n in names)

        self.listener.until(is_decided, READY_S)
        missing = [name for name in names if not self._ready[name]]
        if missing:
            raise CannotRun(f"{self.title}: {missing[0]} was not ready within {READY_S:g} s")
