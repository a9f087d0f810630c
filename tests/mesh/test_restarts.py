"""A mesh that was switched off comes up from disk: without tokens, in any order."""

import functools
import random
import signal
from typing import Any

import pytest

from meshd.persistence import read_snapshot
from tests.helpers.daemons import Daemon, Daemons, until, wait_offered, wait_whole
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

MODELS = {"anna": WORDS, "bert": "none", "cleo": "none", "dora": "none"}
WHOLE_S = 40.0


def _start_in_order(nodes: list[Daemon]) -> None:
    """Each is ready before the next is started, as when people switch machines on."""
    for daemon in nodes:
        daemon.launch().ready()


def _row(daemon: Daemon, name: str) -> dict[str, Any]:
    [row] = [row for row in daemon.get("/mesh/v1/nodes")["nodes"] if row["name"] == name]
    return dict(row)


def _later(daemon: Daemon, low: int) -> int:
    """Anna's incarnation, once it is above `low`."""
    incarnation = int(_row(daemon, "anna")["incarnation"])
    return incarnation if incarnation > low else 0


def _has_written_down(daemon: Daemon, count: int) -> bool:
    return len(read_snapshot(daemon.home).lives) == count


def _stop_all(nodes: list[Daemon]) -> None:
    for daemon in nodes:
        daemon.signal(signal.SIGTERM)
    assert [daemon.ended() for daemon in nodes] == [0] * len(nodes)


def test_all_stopped_and_started_again(daemons: Daemons) -> None:
    """Reversed, shuffled, and all at once: one mesh, the same ids."""
    nodes = daemons.mesh(MODELS)
    ids = [daemon.id for daemon in nodes]
    mesh = nodes[0].said["mesh"]
    shuffled = random.Random(3).sample(nodes, len(nodes))
    for order in (nodes[::-1], shuffled):
        _stop_all(nodes)
        _start_in_order(order)
        wait_whole(nodes, WHOLE_S)
        wait_offered(nodes, "words", "anna")
    for daemon in nodes:
        daemon.stop()  # one after the other: each but the first has seen the others leave
    for daemon in nodes:
        daemon.launch()
    for daemon in nodes:
        daemon.ready()
    wait_whole(nodes, WHOLE_S)
    assert [daemon.id for daemon in nodes] == ids
    assert {daemon.said["mesh"] for daemon in nodes} == {mesh}


def test_all_killed_and_started_again(daemons: Daemons) -> None:
    """A power cut: nobody said goodbye. The nodes without the founder find each other too."""
    nodes = daemons.mesh(MODELS)
    for order in (nodes[::-1], nodes[1:]):
        for daemon in nodes:  # what it learned in the last second may be lost
            knows_all = functools.partial(_has_written_down, daemon, len(nodes) - 1)
            until(f"{daemon.name} has written down all", knows_all, WHOLE_S)
        for daemon in nodes:
            daemon.kill()
        _start_in_order(order)
        wait_whole(order, WHOLE_S)
    nodes[0].launch().ready()
    wait_whole(nodes, WHOLE_S)
    wait_offered(nodes, "words", "anna")


def test_half_of_them_come_back_elsewhere(daemons: Daemons) -> None:
    """Nodes whose port is another one look for the others, and are believed."""
    nodes = daemons.mesh(MODELS)
    _stop_all(nodes)
    before = [daemon.port for daemon in nodes]
    for daemon in nodes[:2]:
        (daemon.home.path / "port").unlink()
    for index, daemon in enumerate(nodes):
        daemon.launch(*(["--listen", "127.0.0.2:0"] if index < 2 else []))
    for daemon in nodes:
        daemon.ready()
    assert all(daemon.said["listen"].startswith("127.0.0.2:") for daemon in nodes[:2])
    assert [daemon.port for daemon in nodes[2:]] == before[2:]
    wait_whole(nodes, WHOLE_S)
    listen = nodes[0].said["listen"]
    until("anna is seen there", lambda: _row(nodes[3], "anna")["address"] == listen, WHOLE_S)
    assert nodes[3].chat("words", max_tokens=2).status == 200


def test_one_is_restarted_often(daemons: Daemons) -> None:
    """The others never lose it for long, and its incarnation only grows."""
    anna, bert, cleo = nodes = daemons.mesh({"anna": WORDS, "bert": "none", "cleo": "none"})
    last = 0
    for round_number in range(4):
        if round_number % 2:
            assert anna.stop() == 0
        else:
            anna.kill()
        anna.launch().ready()
        wait_whole(nodes, WHOLE_S)
        wait_offered([bert, cleo], "words", "anna")
        last = until("bert knows the new life", functools.partial(_later, bert, last), WHOLE_S)
        assert cleo.chat("words", max_tokens=2).headers["x-meshd-node-id"] == anna.id
