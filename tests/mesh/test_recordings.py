"""A real node is recorded while it lives in a real mesh, and replayed."""

import json

import pytest

from meshd.trust.keys import node_seed
from tests.helpers.daemons import Daemons, meshd, meshd_json, until, wait_whole

pytestmark = pytest.mark.processes


def test_a_real_node_is_replayed(daemons: Daemons) -> None:
    """Over a join and a goodbye: the same effects, also while it still runs; without its key."""
    trace = daemons.folder / "trace"
    anna = daemons.add("anna", "--record", str(trace)).launch().ready()
    bert = daemons.add("bert").launch("--join", anna.invite()).ready()
    wait_whole([anna, bert])
    assert meshd_json("sim", "replay", str(trace))["same"]
    assert bert.stop() == 0
    until("anna knows that bert left", lambda: anna.nodes()["bert"] == "left", 30.0)
    assert anna.stop() == 0
    told = meshd_json("sim", "replay", str(trace))
    assert (told["same"], told["cut"], told["starts"]) == (True, None, 1)
    assert told["node"] == anna.id
    shown = meshd("sim", "replay", str(trace), "--effects", "--json")
    steps = [json.loads(line) for line in shown.stdout.splitlines()[:-1]]
    changes = [
        (effect["name"], effect["state"])
        for step in steps
        for effect in step["effects"]
        if effect["type"] == "MembershipChanged"
    ]
    assert {("bert", "alive"), ("bert", "left")} <= set(changes)
    assert node_seed(anna.home).hex() not in trace.read_text()
    assert trace.stat().st_mode & 0o077 == 0
