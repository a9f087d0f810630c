"""The one place that runs many real meshd daemons and understands what they tell.

Two sources, the same facts: the line that a daemon logs for each change of a member (it is
logged anyway, so listening costs the daemon nothing), or one long-lived connection to
`/mesh/v1/events` (server-sent events).
"""

import json
import re
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from meshd import posix
from meshd.cli.children import command
from meshd.control_client import ask
from meshd.home import Home
from tests.benchmarks.membership.fleet import Fleet
from tests.benchmarks.membership.listener import Take
from tests.benchmarks.membership.sightings import ALIVE, DEAD, LEFT, SUSPECT
from tests.helpers.daemons import environment

_STATES: Final = (ALIVE, SUSPECT, DEAD, LEFT)
_CHANGED: Final = re.compile(rb"member\.changed name='?([^' ]+)'? .*state='?(\w+)'?")
_INVITE_USES: Final = 10_000


def from_log(line: bytes) -> tuple[str, str] | None:
    """(subject, state) of a line of the log, if it tells of a member."""
    found = _CHANGED.search(line)
    return (found[1].decode(), found[2].decode()) if found else None


def from_event(line: bytes) -> tuple[str, str] | None:
    """(subject, state) of a line of `/mesh/v1/events`, if it tells of a member."""
    if not line.startswith(b"data: "):
        return None
    event = json.loads(line[len(b"data: ") :])
    if event["type"] not in _STATES:
        return None
    return str(event["name"]), str(event["type"])


class MeshdFleet(Fleet):
    """Gateway-only daemons (no model), off the local network, on ports of the system's choice."""

    title: ClassVar[str] = "meshd"
    goodbye: ClassVar[signal.Signals] = signal.SIGTERM
    source: ClassVar[str] = "log"
    """`log` or `events`."""

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401  # as Fleet
        super().__init__(*arguments)
        self._said: dict[str, dict[str, Any]] = {}
        self._tokens: dict[str, str] = {}

    def start(self, names: Sequence[str], *, seed: str | None = None) -> None:
        """See Fleet."""
        options = ["--join", self._token(seed)] if seed is not None else []
        for name in names:
            self._launch(name, 0, options)
        self._wait_ready(names)

    def join(self, names: Sequence[str], seed: str) -> float:
        """See Fleet: `meshd join` on each, by their control sockets."""
        request = {"do": "join", "token": self._token(seed)}
        doors = [posix.connect_unix(self._home(name).control_socket, 5.0) for name in names]
        for name in (seed, *names):
            self.sightings.forget(name)
        began_s = time.monotonic()
        for name, door in zip(names, doors, strict=True):
            door.sendall(json.dumps(request).encode() + b"\n")
            self.listener.watch(door, self._refusals(name))
        return began_s

    def restart(self, name: str, seed: str, *, other_port: bool) -> None:
        """See Fleet; it knows the mesh from its disk, and would keep its port by itself."""
        del seed
        self._launch(name, self._free_port() if other_port else self.port(name), [])

    def members(self, name: str) -> Mapping[str, tuple[str, int]]:
        """See Fleet."""
        rows = ask(self._home(name), "nodes", timeout_s=10.0)["nodes"]
        return {
            row["name"]: (row["state"], int(str(row["address"]).rpartition(":")[2]))
            for row in rows
            if row["address"]
        }

    def port(self, name: str) -> int:
        """See Fleet."""
        return int(self._said[name]["listen"].rpartition(":")[2])

    def _home(self, name: str) -> Home:
        return Home(self.folder / name)

    def _token(self, seed: str) -> str:
        if seed not in self._tokens:
            result = ask(
                self._home(seed),
                "invite",
                role="worker",
                expires_s=86_400,
                uses=_INVITE_USES,
                trusted=False,
                owner=None,
            )
            self._tokens[seed] = str(result["token"])
        return self._tokens[seed]

    def _launch(self, name: str, port: int, more: Sequence[str]) -> None:
        address = self.place_of(name).address
        options = [
            *("up", "--json", "--home", str(self._home(name).path), "--name", name),
            *("--model", "none", "--no-lan", "--gateway", "127.0.0.1:0"),
            *("--listen", f"{address}:{port}", *more),
        ]
        self._spawn(name, [*command(), *options], self._ready_line(name), self._log_line(name))

    def _environment(self) -> Mapping[str, str]:
        return {**environment(), "MESHD_LOG": "info"}

    def _ready_line(self, name: str) -> Take:
        def take(at_s: float, line: bytes) -> None:
            del at_s
            self._said[name] = json.loads(line)
            self._ready[name] = True
            if self.source == "events":
                self._follow(name)

        return take

    def _log_line(self, name: str) -> Take:
        def take(at_s: float, line: bytes) -> None:
            if b" error " in line or b"Traceback" in line:
                print(f"{name}: {line.decode(errors='replace')}")
            told = from_log(line) if self.source == "log" else None
            if told is not None:
                self.sightings.note(at_s, name, *told)

        return take

    def _follow(self, name: str) -> None:
        """One connection for all events from the beginning of this run on."""
        host, _, port = self._said[name]["gateway"].removeprefix("http://").rpartition(":")
        connection = socket.create_connection((host, int(port)), 5.0)
        connection.sendall(
            f"GET /mesh/v1/events?since=0 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        )

        def take(at_s: float, line: bytes) -> None:
            told = from_event(line)
            if told is not None:
                self.sightings.note(at_s, name, *told)

        self.listener.watch(connection, take)

    def _refusals(self, name: str) -> Take:
        def take(at_s: float, line: bytes) -> None:
            del at_s
            if "error" in json.loads(line):
                print(f"{name} did not join: {line.decode(errors='replace')}")

        return take
