"""What one node tells of what happens in the mesh: on its command line, and on its gateway."""

import contextlib
import http.client
import json
import queue
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshd.cli.children import command
from tests.helpers.daemons import STOP_S, Daemon, Daemons, environment, until, wait_state
from tests.helpers.gateway_client import TIMEOUT_S, Stream

pytestmark = pytest.mark.processes

HEARD_S = 40.0
"""Longer than a death takes."""
FORM = ("id", "time", "type", "node", "name")
"""What every event begins with."""

Event = dict[str, Any]


class Heard:
    """The events that one listener gives, read by a thread of its own: waiting is bounded."""

    def __init__(self, events: Callable[[], Iterator[Event]]) -> None:
        self.all: list[Event] = []
        self._queue: queue.Queue[Event] = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._thread.start()

    def _read(self, events: Callable[[], Iterator[Event]]) -> None:
        for event in events():
            self._queue.put(event)

    def wait(self, kind: str, name: str) -> Event:
        """The next event of this type about this node."""
        deadline = time.monotonic() + HEARD_S
        while True:
            try:
                event = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind!r} of {name} among {self.all}") from None
            self.all.append(event)
            assert tuple(event)[:5] == FORM, event
            if (event["type"], event["name"]) == (kind, name):
                return event

    def until_end(self) -> None:
        """Wait until the listener is through."""
        self._thread.join(HEARD_S)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def _on_command_line(daemon: Daemon) -> Iterator[Heard]:
    """`meshd events --json --follow`, from the recent ones on; ends by Ctrl-C."""
    options = ["events", "--json", "--follow", "--home", str(daemon.home.path)]
    with subprocess.Popen(
        [*command(), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = process.stdout
        heard = Heard(lambda: (json.loads(line) for line in lines))
        try:
            yield heard
            process.send_signal(signal.SIGINT)
            assert process.wait(HEARD_S) == 130
            assert process.stderr.read() == b""
        finally:
            process.kill()
            heard.until_end()


@contextlib.contextmanager
def _on_gateway(daemon: Daemon, query: str) -> Iterator[Heard]:
    parts = urllib.parse.urlsplit(daemon.url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    connection.connect()
    wire: socket.socket = connection.sock
    connection.request("GET", f"/mesh/v1/events{query}")
    with Stream(connection) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        heard = Heard(stream.events)
        try:
            yield heard
        finally:
            with contextlib.suppress(OSError):  # the other end was faster
                wire.shutdown(socket.SHUT_RDWR)
            heard.until_end()


def test_a_join_a_leave_and_a_death_are_heard(daemons: Daemons) -> None:
    """By who follows on the command line and by who listens at the gateway, alike, in the published
    form; who comes later is shown the same ones.
    """
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    carl = daemons.add("carl")
    with _on_command_line(anna) as printed, _on_gateway(anna, "?recent=1000") as streamed:
        listeners = (printed, streamed)
        for heard in listeners:
            assert heard.wait("alive", "bert")["node"] == bert.id
        token = anna.invite()
        carl.launch("--join", token).ready()
        for heard in listeners:
            came = heard.wait("alive", "carl")
            assert (came["node"], came["previous"]) == (carl.id, None)
            assert heard.wait("offer", "carl")["removed"] is False
        assert carl.stop() == 0
        for heard in listeners:
            left = heard.wait("left", "carl")
            assert left["node"] == carl.id
            assert left["previous"] in ("alive", "suspect")  # a busy machine may have doubted it
        bert.kill()
        for heard in listeners:
            assert heard.wait("suspect", "bert")["previous"] == "alive"
            dead = heard.wait("dead", "bert")
            assert (dead["node"], dead["previous"]) == (bert.id, "suspect")
    assert printed.all == streamed.all, "each saw every event, once and in order"
    ids = [event["id"] for event in printed.all]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert anna.cli_json("events", "--recent", "1000")["events"][: len(ids)] == printed.all
    _who_comes_back(anna, came, dead)


def _who_comes_back(anna: Daemon, came: Event, dead: Event) -> None:
    """By the id of what was seen last; and a person reads the same."""
    with _on_gateway(anna, f"?since={came['id']}") as resumed:
        assert resumed.wait("dead", "bert") == dead
        assert resumed.all[0]["id"] == came["id"] + 1
    shown = anna.cli("events")
    assert shown.returncode == 0, shown.stderr
    [line] = [line for line in shown.stdout.splitlines() if "  dead  " in line]
    assert "bert" in line
    assert "was suspect, incarnation" in line


def test_listeners_do_not_hold_up_the_end(daemons: Daemons) -> None:
    """A daemon that is told to stop ends as quickly as ever; a stream ends whole, the command says
    that the daemon has gone; and after a restart, who comes back with an old id is told so.
    """
    [anna] = daemons.mesh({"anna": "none"})
    options = ["events", "--follow", "--home", str(anna.home.path)]
    with (
        _on_gateway(anna, "?recent=1") as streamed,
        subprocess.Popen(
            [*command(), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as follower,
    ):
        assert follower.stdout is not None
        assert "anna" in follower.stdout.readline()
        last = streamed.wait("offer", "anna")
        began = time.monotonic()
        assert anna.stop() == 0
        assert time.monotonic() - began < STOP_S
        streamed.until_end()
        _, complaints = follower.communicate(timeout=HEARD_S)
        assert follower.returncode == 1
        assert complaints.startswith("meshd: the daemon on ")
        assert complaints.count("\n") == 1
    anna.launch().ready()
    with _on_gateway(anna, f"?since={last['id']}") as resumed:
        assert resumed.wait("lagged", "anna")["missed"] is None
        assert resumed.wait("alive", "anna")["id"] > last["id"]


def test_nodes_are_shown_with_their_round_trips(daemons: Daemons) -> None:
    """`meshd nodes`: measured for others, none for itself; who is gone stays in the list for a
    while, and `--all` shows at least as many.
    """
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})

    def rows() -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in anna.get("/mesh/v1/nodes")["nodes"]}

    until("a round trip is measured", lambda: rows()["bert"]["rtt_ms"], HEARD_S)
    assert rows()["anna"]["rtt_ms"] is None
    header, own, other = anna.cli("nodes").stdout.splitlines()
    begin = header.index("RTT")
    assert own[begin:].split()[0] == "-"
    assert other[begin:].split()[1] == "ms"
    assert float(other[begin:].split()[0]) >= 0
    assert bert.stop() == 0
    wait_state([anna], "bert", "left", HEARD_S)
    for options in ((), ("--all",)):
        shown = anna.cli("nodes", *options).stdout
        assert [line.split()[:2] for line in shown.splitlines()[1:]] == [
            ["anna", "alive"],
            ["bert", "left"],
        ]
