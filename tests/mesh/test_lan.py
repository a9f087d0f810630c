"""The local network, on loopback: nodes whose addresses are all new find each other by mDNS."""

import signal

import pytest

from tests.helpers.daemons import Daemons, until, wait_offered, wait_whole
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes


def test_all_come_back_elsewhere(daemons: Daemons) -> None:
    """Every address on disk is wrong; the announcements bring the nodes together."""
    anna = daemons.add("anna", model=WORDS, lan=True)
    bert = daemons.add("bert", lan=True)
    anna.launch().ready()
    bert.launch("--join", anna.invite()).ready()
    wait_whole([anna, bert])
    before = [anna.port, bert.port]
    for daemon in (anna, bert):
        daemon.signal(signal.SIGTERM)
    assert [daemon.ended() for daemon in (anna, bert)] == [0, 0]
    for daemon in (anna, bert):
        (daemon.home.path / "port").unlink()
        daemon.launch()
    for daemon in (anna, bert):
        daemon.ready()
    assert not {anna.port, bert.port} & set(before)
    wait_whole([anna, bert], 15.0)
    wait_offered([bert], "words", "anna")
    assert bert.chat("words", max_tokens=2).headers["x-meshd-node-id"] == anna.id


def test_another_mesh_is_named_and_left_alone(daemons: Daemons) -> None:
    """Two meshes on one network: each says how to join the other, neither mixes with it."""
    anna, bert = (daemons.add(name, lan=True) for name in ("anna", "bert"))
    anna.launch().ready()
    bert.launch().ready()
    until("anna names bert's mesh", lambda: "meshd invite on bert" in anna.log_text(), 15.0)
    until("bert names anna's mesh", lambda: "meshd invite on anna" in bert.log_text(), 15.0)
    for daemon in (anna, bert):
        assert daemon.nodes() == {daemon.name: "alive"}
