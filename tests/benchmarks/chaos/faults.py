"""The one place for what is done to the serving daemons, and when."""

import collections
import dataclasses
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tests.benchmarks.chaos.network import Machine
from tests.helpers.daemons import Daemon

DOWN_S: Final = (2.5, 4.5)
"""How long a daemon is stopped, loses packets, or is another than the usual one."""
HEARD_S: Final = 1.5
"""Until all others know that it is back."""
KILLS: Final = ("kill", "slow", "full", "crashing")
"""All are kill -9 and a start at once: as the usual one, or as what the fault is called."""
LOSSES: Final = {"udp": ("udp",), "one-way": ("incoming", "outgoing")}
"""What of its packets a daemon loses; of several one by chance."""
HARMFUL: Final = (*KILLS, "stop", "unplug", *LOSSES)
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

    def __init__(self, daemon: Daemon, machine: Machine, specs: Mapping[str, str]) -> None:
        """`specs`: what it offers after each of KILLS."""
        self.daemon = daemon
        self.machine = machine
        self.is_well = True
        self.is_usual = True
        self._specs = specs

    def restart(self, kind: str) -> None:
        """Kill it and start it again as another; does not wait."""
        self.daemon.kill()
        self.is_usual = kind == "kill"
        self.daemon.options[1] = self._specs[kind]
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
        self._counts: collections.Counter[str] = collections.Counter()

    def run(self, count: int, pause_s: float, each: int = 0) -> None:
        """So many faults, and `each` of every kind, then all is healed."""
        next_at = time.monotonic()
        while not (is_enough := self._is_enough(count, each)) or self._healings:
            now = time.monotonic()
            if now >= next_at and not is_enough:
                next_at = now + pause_s
                self._strike()
            for healing in list(self._healings):
                if healing.due <= now:
                    self._healings.remove(healing)
                    healing.heal()
            time.sleep(STEP_S)

    def _is_enough(self, count: int, each: int) -> bool:
        return len(self.faults) >= count and all(
            self._counts[kind] >= each for kind in (*HARMFUL, "sever")
        )

    def _strike(self) -> None:
        well = [each for each in self._serving if each.is_well]
        odd = [each for each in well if not each.is_usual]
        usual = [each for each in well if each.is_usual]
        if not odd and len(usual) == 1:  # somebody with room for all must be left
            self._sever(usual[0])
            return
        target = self._rng.choice(odd or usual)
        kinds = ["kill"] if odd else list(HARMFUL)
        if not all(each.is_usual for each in self._serving):
            kinds = [kind for kind in kinds if kind == "kill" or kind not in KILLS]
        rarest = min(self._counts[kind] for kind in kinds)
        self._harm(target, self._rng.choice([k for k in kinds if self._counts[k] == rarest]))

    def _note(self, kind: str, target: Serving) -> None:
        self._counts[kind] += 1
        self.faults.append(Fault(kind, target.daemon.name, time.monotonic()))

    def _harm(self, target: Serving, kind: str) -> None:
        self._note(kind, target)
        target.is_well = False
        machine, daemon = target.machine, target.daemon
        if kind in KILLS:
            target.restart(kind)
            self._look_after(target)
        elif kind == "stop":
            daemon.signal(signal.SIGSTOP)
            self._heal(target, lambda: daemon.signal(signal.SIGCONT))
        elif kind == "unplug":
            machine.set_cable("down")
            self._heal(target, lambda: machine.set_cable("up"))
        else:
            machine.lose(self._rng.choice(LOSSES[kind]))
            self._heal(target, machine.lose_nothing)

    def _look_after(self, target: Serving) -> None:
        """Until it is ready and the others can have heard of it."""
        if target.daemon.is_ready():
            self._well_again(target)
        else:
            self._later(target, STEP_S, lambda: self._look_after(target))

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
        lasts_s = 0.0 if target.is_usual else self._rng.uniform(*DOWN_S)
        self._later(target, HEARD_S + lasts_s, lambda: setattr(target, "is_well", True))

    def _later(self, target: Serving, after_s: float, heal: Callable[[], object]) -> None:
        self._healings.append(Healing(target, time.monotonic() + after_s, heal))
