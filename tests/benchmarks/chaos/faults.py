"""The one place for what is done to the serving daemons, and when."""

import dataclasses
import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from tests.benchmarks.chaos.network import Machine
from tests.helpers.daemons import Daemon

DOWN_S: Final = (2.5, 4.5)
"""How long a daemon is stopped, or its cable out."""
HEARD_S: Final = 1.5
"""Until all others know that it is back."""
ODD: Final = 0.4
"""So often a daemon that was killed comes back as another than the usual one."""
SEVERED: Final = 8
"""Connections of one daemon that are reset at once."""
STEP_S: Final = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What was done to whom."""

    kind: str
    node: str
    at: float
    """Of `time.monotonic`."""


class Serving:
    """One serving daemon and its machine."""

    def __init__(self, daemon: Daemon, machine: Machine, specs: Sequence[tuple[str, str]]) -> None:
        """`specs`: what it may be after a restart, by name; the first is the usual one."""
        self.daemon = daemon
        self.machine = machine
        self.is_well = True
        self.kind = "usual"
        self._specs = specs

    def restart(self, rng: random.Random, *, may_be_odd: bool) -> None:
        """Start it again, most often as it was; does not wait."""
        odd = may_be_odd and rng.random() < ODD
        self.kind, spec = rng.choice(self._specs[1:]) if odd else self._specs[0]
        self.daemon.options[1] = spec
        self.daemon.launch()


@dataclasses.dataclass(slots=True)
class Healing:
    """What ends a fault."""

    target: Serving
    due: float
    heal: Callable[[], object]


class Chaos:
    """Strikes, at least once a second; one of the serving ones always stays well.

    All in one thread: a daemon ends with the thread that started it.
    """

    def __init__(self, serving: Sequence[Serving], rng: random.Random) -> None:
        self._serving = serving
        self._rng = rng
        self._healings: list[Healing] = []
        self.faults: list[Fault] = []

    def run(self, count: int, pause_s: float) -> None:
        """So many faults, then all is healed."""
        next_at = time.monotonic()
        while len(self.faults) < count or self._healings:
            now = time.monotonic()
            if now >= next_at and len(self.faults) < count:
                next_at = now + pause_s
                self._strike()
            for healing in list(self._healings):
                if healing.due <= now:
                    self._healings.remove(healing)
                    healing.heal()
            time.sleep(STEP_S)

    def _strike(self) -> None:
        well = [each for each in self._serving if each.is_well]
        target = self._rng.choice(well)
        # Somebody with room for all must be left.
        is_needed = not any(each.kind == "usual" for each in well if each is not target)
        strikes = [self._kill, self._kill, self._stop, self._unplug]
        strike = self._sever if is_needed else self._rng.choice(strikes)
        strike(target)

    def _note(self, kind: str, target: Serving) -> None:
        self.faults.append(Fault(kind, target.daemon.name, time.monotonic()))

    def _kill(self, target: Serving) -> None:
        self._note("kill", target)
        target.is_well = False
        target.daemon.kill()
        others = [each for each in self._serving if each is not target]
        target.restart(self._rng, may_be_odd=all(each.kind == "usual" for each in others))
        self._look_after(target)

    def _look_after(self, target: Serving) -> None:
        """Until it is ready and the others can have heard of it."""
        if target.daemon.is_ready():
            self._well_again(target)
        else:
            self._later(target, STEP_S, lambda: self._look_after(target))

    def _stop(self, target: Serving) -> None:
        self._note("stop", target)
        target.is_well = False
        target.daemon.signal(signal.SIGSTOP)
        self._heal(target, lambda: target.daemon.signal(signal.SIGCONT))

    def _unplug(self, target: Serving) -> None:
        self._note("unplug", target)
        target.is_well = False
        target.machine.set_cable("down")
        self._heal(target, lambda: target.machine.set_cable("up"))

    def _sever(self, target: Serving) -> None:
        port = target.daemon.port
        peers = target.machine.streams(port)
        self._note("sever", target)
        for peer in self._rng.sample(peers, min(SEVERED, len(peers))):
            target.machine.reset_stream(port, peer)

    def _heal(self, target: Serving, heal: Callable[[], None]) -> None:
        def healed() -> None:
            heal()
            self._well_again(target)

        self._later(target, self._rng.uniform(*DOWN_S), healed)

    def _well_again(self, target: Serving) -> None:
        self._later(target, HEARD_S, lambda: setattr(target, "is_well", True))

    def _later(self, target: Serving, after_s: float, heal: Callable[[], object]) -> None:
        self._healings.append(Healing(target, time.monotonic() + after_s, heal))
