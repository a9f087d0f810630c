"""Outages that are no deaths: a cut, a process that stands still, a machine without its network."""

import functools
import pathlib
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest

from meshd.control_client import ask
from tests.helpers.daemons import Daemon, Daemons, start_together, until, wait_whole
from tests.helpers.namespaces import Namespace, needs_namespaces, two_namespaces

pytestmark = pytest.mark.processes

NOTICED_S = 60.0
"""Longer than a few deaths take, on a busy machine too."""
WHOLE_S = 40.0
STANDSTILL_S = 4.5
"""A second less than the soonest death takes, for a busy machine; that 5 s are none is shown where
time is simulated (tests/simulations/test_faults.py)."""
UNPLUGGED_S = 15.0
NAMES = ("anna", "bert", "cleo", "dora", "emil")


def _events(daemon: Daemon) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = ask(daemon.home, "events", recent=1000, follow=False)["events"]
    return events


def _types(daemon: Daemon) -> list[str]:
    return [event["type"] for event in _events(daemon)]


def _states(daemon: Daemon) -> dict[str, str]:
    """By name; by way of the control socket, which is reached whatever network the daemon has."""
    return {row["name"]: row["state"] for row in ask(daemon.home, "nodes")["nodes"]}


def _status(daemon: Daemon) -> dict[str, Any]:
    return dict(ask(daemon.home, "status"))


def _is_whole(daemon: Daemon) -> bool:
    return daemon.status()["partition"] is None


def _wait_whole(nodes: Sequence[Daemon], within_s: float) -> None:
    whole = {daemon.name: "alive" for daemon in nodes}
    until("each sees all", lambda: all(_states(daemon) == whole for daemon in nodes), within_s)


def test_a_cut_is_told_and_so_is_its_end(daemons: Daemons) -> None:
    """Three of five vanish at once: who is left says how many are lost, in an event and as long as
    it lasts in the status; when they are back, one event says so, and the status says nothing.
    """
    nodes = daemons.mesh(dict.fromkeys(NAMES, "none"))
    present, lost = nodes[:2], nodes[2:]
    assert [daemon.status()["partition"] for daemon in nodes] == [None] * 5
    for daemon in lost:
        daemon.kill()
    until(
        "both that are left count three as lost",
        lambda: all(daemon.status()["partition"] == {"lost": 3} for daemon in present),
        NOTICED_S,
    )
    for daemon in present:
        [told] = [event for event in _events(daemon) if event["type"] == "partition"]
        assert (told["name"], told["lost"], told["present"]) == (daemon.name, 3, 2)
        assert "reunited" not in _types(daemon)

    for daemon in lost:
        daemon.launch()
    for daemon in lost:
        daemon.ready()
    wait_whole(nodes, NOTICED_S)
    for daemon in present:
        until("the cut is over", functools.partial(_is_whole, daemon), NOTICED_S)
        types = _types(daemon)
        assert types.count("partition") == types.count("reunited") >= 1
        assert types.index("reunited") > types.index("partition")


def test_who_stands_still_for_a_while_is_not_dead(daemons: Daemons) -> None:
    """SIGSTOP, and SIGCONT seconds later: it was in doubt, but nobody ever says that any died."""
    nodes = daemons.mesh(dict.fromkeys(NAMES[:4], "none"))
    others, still = nodes[:3], nodes[3]
    still.signal(signal.SIGSTOP)
    resumes = time.monotonic() + STANDSTILL_S
    # Nothing is asked meanwhile: a slow answer would make the pause longer.
    until("it stood still for long enough", lambda: time.monotonic() >= resumes, NOTICED_S)
    still.signal(signal.SIGCONT)
    wait_whole(nodes, WHOLE_S)
    assert any(
        (event["type"], event["name"]) == ("suspect", still.name)
        for daemon in others
        for event in _events(daemon)
    )
    assert [_types(daemon).count("dead") for daemon in nodes] == [0] * 4


@pytest.mark.namespaces
@needs_namespaces
def test_who_has_no_network_blames_itself(tmp_path: pathlib.Path) -> None:
    """An interface goes down: the node behind it still calls nobody dead after 15 s and knows that
    it is itself unwell; the others call it dead; soon after the interface is up, all are one mesh.
    """
    with two_namespaces() as machines, Daemons(tmp_path) as daemons:
        near, far = machines
        *others, alone = nodes = _mesh_of(daemons, [near, near, near, far])
        failed_before = _status(alone)["drops"].get("send_failed", 0)
        far.set_link("down")
        ends = time.monotonic() + UNPLUGGED_S
        until(
            "the others call it dead",
            lambda: all(_states(daemon)[alone.name] == "dead" for daemon in others),
            NOTICED_S,
        )
        until("15 s are over", lambda: time.monotonic() >= ends, NOTICED_S)
        status = _status(alone)
        assert "dead" not in _types(alone)
        assert status["health"] >= 3
        assert status["drops"]["send_failed"] > failed_before
        for daemon in others:
            assert [e["name"] for e in _events(daemon) if e["type"] == "dead"] == [alone.name]
        far.set_link("up")
        _wait_whole(nodes, WHOLE_S)


def _mesh_of(daemons: Daemons, machines: Sequence[Namespace]) -> list[Daemon]:
    """One node per entry, on that machine; the first founds the mesh."""
    founder, *others = nodes = [
        daemons.add(name, listen=f"{machine.address}:0", prefix=machine.prefix)
        for name, machine in zip(NAMES, machines, strict=False)
    ]
    start_together(founder, others)
    _wait_whole(nodes, NOTICED_S)
    return nodes
