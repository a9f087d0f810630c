"""kill -9 at many moments of joining, starting and stopping: every node comes back, by itself."""

import signal
import time
from collections.abc import Callable

import pytest

from tests.helpers.daemons import Daemon, Daemons, until, wait_whole

pytestmark = pytest.mark.processes

FILES = [
    "daemon.lock", "node.key", "port", "mesh.msgpack",
    "tls.pem", "numbers.msgpack", "members.msgpack", "control.sock",
]  # fmt: skip
"""What a home gets while its node joins and starts, one after the other."""
WHOLE_S = 40.0


def _kill_when(daemon: Daemon, is_time: Callable[[], bool]) -> None:
    """Kill it at that very moment, which comes within a few seconds."""
    deadline = time.monotonic() + 20.0
    while not is_time():
        assert time.monotonic() < deadline
    daemon.kill()


def _kill_at(daemon: Daemon, moment: float) -> bool:
    """Kill it at that time of `time.monotonic`; whether it had not ended by itself before."""
    until("the moment has come", lambda: time.monotonic() >= moment, 30.0)
    was_running = daemon.is_running
    daemon.kill()
    return was_running


def _moments(duration_s: float) -> list[float]:
    """Delays from nearly nothing to a little beyond `duration_s`."""
    return [duration_s * 1.15 * (number + 0.3) / len(FILES) for number in range(len(FILES))]


def _start_all(victims: list[Daemon], tokens: list[str] | None = None) -> None:
    for index, daemon in enumerate(victims):
        daemon.launch(*([] if tokens is None else ["--join", tokens[index]]))
    for daemon in victims:
        daemon.ready()


def test_any_moment(daemons: Daemons) -> None:
    """Joining (each by an invite for one machine), starting and stopping: 24 kills in all."""
    anna = daemons.add("anna").launch().ready()
    victims = [daemons.add(f"v{number}") for number in range(len(FILES))]
    tokens = [anna.invite(uses=1) for _ in victims]
    ready_s = _time_of_a_join(daemons, anna)

    for daemon, token, file in zip(victims, tokens, FILES, strict=True):
        daemon.launch("--join", token)
        _kill_when(daemon, (daemon.home.path / file).exists)
    assert {daemon.home.mesh.exists() for daemon in victims} == {False, True}
    for daemon, token, delay_s in zip(victims, tokens, _moments(ready_s), strict=True):
        daemon.launch("--join", token)
        assert _kill_at(daemon, time.monotonic() + delay_s)
    _start_all(victims, tokens)
    ids = {daemon.id for daemon in victims}
    wait_whole([anna, *victims], WHOLE_S)

    for daemon in victims:
        daemon.signal(signal.SIGTERM)
    began = time.monotonic()
    ran = [_kill_at(v, began + s) for v, s in zip(victims, _moments(1.2), strict=True)]
    assert any(ran), "all had said goodbye before the first kill"
    _start_all(victims)
    assert {daemon.id for daemon in victims} == ids
    wait_whole([anna, *victims], WHOLE_S)
    until("nothing is half-written", lambda: not any(map(_half_written, victims)), 15.0)


def _time_of_a_join(daemons: Daemons, anna: Daemon) -> float:
    """How long a join takes on this machine, by a node that then leaves."""
    began = time.monotonic()
    bert = daemons.add("bert").launch("--join", anna.invite()).ready()
    took_s = time.monotonic() - began
    assert bert.cli("leave").returncode == 0
    return took_s


def _half_written(daemon: Daemon) -> list[str]:
    return [path.name for path in daemon.home.path.glob("*.tmp-*")]


def test_a_founder_is_killed_while_founding(daemons: Daemons) -> None:
    """Whatever was on disk, the next start is a node in a mesh of its own that can invite."""
    files = ("node.key", "root.key", "mesh.msgpack", "tls.pem", "members.msgpack")
    nodes = [daemons.add(f"f{number}") for number in range(len(files))]
    for daemon, file in zip(nodes, files, strict=True):
        daemon.launch()
        _kill_when(daemon, (daemon.home.path / file).exists)
    _start_all(nodes)
    for daemon in nodes:
        assert daemon.nodes() == {daemon.name: "alive"}
        assert daemon.invite()
