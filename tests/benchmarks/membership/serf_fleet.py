"""The one place that runs many Serf agents (Debian's package) and understands what they tell."""

import re
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgpack

from tests.benchmarks.membership.fleet import Fleet
from tests.benchmarks.membership.listener import Take
from tests.benchmarks.membership.places import CannotRun
from tests.benchmarks.membership.sightings import ALIVE, DEAD, LEFT, SUSPECT

_STATES: Final = {b"Join": ALIVE, b"Failed": DEAD, b"Leave": LEFT}
_CHANGED: Final = re.compile(rb"serf: EventMember(Join|Failed|Leave): (\S+)")
_SUSPECTED: Final = re.compile(rb"memberlist: Suspect (\S+) has failed")
_RPC_TIMEOUT_S: Final = 10.0


def is_installed() -> bool:
    """Whether there is a Serf to compare with."""
    return shutil.which("serf") is not None


def from_log(line: bytes) -> tuple[str, str] | None:
    """(subject, state) of a line of the log, if it tells of a member."""
    if found := _CHANGED.search(line):
        return found[2].decode(), _STATES[found[1]]
    if found := _SUSPECTED.search(line):
        return found[1].decode(), SUSPECT
    return None


class SerfFleet(Fleet):
    """Agents with the profile for local networks, as it ships."""

    title: ClassVar[str] = "serf"
    goodbye: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401  # as Fleet
        super().__init__(*arguments)
        if not is_installed():
            raise CannotRun("serf is not installed (Debian's package serf)")
        self._ports: dict[str, int] = {}

    def start(self, names: Sequence[str], *, seed: str | None = None) -> None:
        """See Fleet."""
        for name in names:
            self._ports[name] = self._free_port()
            self._launch(name, seed)
        self._wait_ready(names)

    def join(self, names: Sequence[str], seed: str) -> float:
        """See Fleet: `serf join` on each, by their RPC ports."""
        doors = [self._connect(name) for name in names]
        for name in (seed, *names):
            self.sightings.forget(name)
        began_s = time.monotonic()
        body = {"Existing": [self._address(seed)], "Replay": False}
        for door in doors:
            door.sendall(_packed({"Command": "join", "Seq": 1}, body))
            self.listener.watch(door, lambda at_s, line: None)
        return began_s

    def restart(self, name: str, seed: str, *, other_port: bool) -> None:
        """See Fleet; it is told the seed again, as it has no memory by default."""
        if other_port:
            self._ports[name] = self._free_port()
        self._launch(name, seed)

    def members(self, name: str) -> Mapping[str, tuple[str, int]]:
        """See Fleet."""
        with self._connect(name) as door:
            door.sendall(_packed({"Command": "members", "Seq": 1}))
            unpacker = msgpack.Unpacker(raw=True)
            answers: list[Any] = []
            while len(answers) < 3:  # the greeting's head, our head, our body
                unpacker.feed(door.recv(65_536))
                answers += list(unpacker)
        states = {b"alive": ALIVE, b"failed": DEAD, b"left": LEFT}
        return {
            row[b"Name"].decode(): (states.get(row[b"Status"], "other"), int(row[b"Port"]))
            for row in answers[2][b"Members"]
        }

    def port(self, name: str) -> int:
        """See Fleet."""
        return self._ports[name]

    def _address(self, name: str) -> str:
        return f"{self.place_of(name).address}:{self._ports[name]}"

    def _launch(self, name: str, seed: str | None) -> None:
        options = [
            *("agent", "-node", name, "-bind", self._address(name), "-profile", "lan"),
            *("-rpc-addr", f"127.0.0.1:{self._ports[name] + 1}", "-log-level", "info"),
            *(("-join", self._address(seed)) if seed is not None else ()),
        ]
        self._spawn(name, ["serf", *options], self._line(name), self._line(name))

    def _line(self, name: str) -> Take:
        def take(at_s: float, line: bytes) -> None:
            told = from_log(line)
            if told == (name, ALIVE):
                self._ready[name] = True
            if told is not None:
                self.sightings.note(at_s, name, *told)

        return take

    def _connect(self, name: str) -> socket.socket:
        door = socket.create_connection(("127.0.0.1", self._ports[name] + 1), _RPC_TIMEOUT_S)
        door.sendall(_packed({"Command": "handshake", "Seq": 0}, {"Version": 1}))
        return door


def _packed(*objects: object) -> bytes:
    return b"".join(msgpack.packb(each, use_bin_type=False) for each in objects)
