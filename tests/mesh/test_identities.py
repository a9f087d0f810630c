"""A node is who its key says, whatever it is called and wherever it listens."""

import pytest

from tests.helpers.daemons import Daemon, Daemons, until

pytestmark = pytest.mark.processes

KNOWN_S = 20.0
"""Ample for news to reach everyone on a busy machine."""
BACK_S = 30.0
"""Longer than a death takes, in case one was declared before the node was back."""

View = dict[str, tuple[str, str, str]]
"""Name, state and address by node id."""


def _view(daemon: Daemon) -> View:
    rows = daemon.get("/mesh/v1/nodes")["nodes"]
    view = {row["id"]: (row["name"], row["state"], row["address"]) for row in rows}
    assert len(view) == len(rows), "an id is listed once"
    return view


def _wait_view(nodes: list[Daemon], expected: View, within_s: float) -> None:
    """Wait until each sees exactly this; until then too, nobody knows an id that is not in it."""

    def is_seen() -> bool:
        views = [_view(daemon) for daemon in nodes]
        for view in views:
            assert view.keys() <= expected.keys(), view
        return all(view == expected for view in views)

    until(f"each sees {expected}", is_seen, within_s)


def test_two_nodes_with_one_name_are_two_members(daemons: Daemons) -> None:
    """Everybody sees both alive, each under its own id; when one leaves, the other is still there,
    under the name that both had.
    """
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    twin = daemons.add("twin")
    twin.launch("--join", anna.invite(), "--name", bert.name).ready()
    assert twin.id != bert.id
    nodes = [anna, bert, twin]
    names = {anna.id: "anna", bert.id: "bert", twin.id: "bert"}
    whole = {d.id: (names[d.id], "alive", str(d.said["listen"])) for d in nodes}
    _wait_view(nodes, whole, KNOWN_S)

    assert bert.stop() == 0
    _wait_view([anna, twin], {**whole, bert.id: ("bert", "left", whole[bert.id][2])}, KNOWN_S)


def test_killed_and_started_on_another_port(daemons: Daemons) -> None:
    """kill -9, then a start where nobody expects it: alive everywhere again at the new address,
    under the old id, and never is there a second member.
    """
    _, bert, _ = nodes = daemons.mesh({"anna": "none", "bert": "none", "cleo": "none"})
    before, old = bert.id, bert.port
    bert.kill()
    (bert.home.path / "port").unlink()
    bert.launch().ready()
    assert bert.id == before
    assert bert.port != old
    whole = {d.id: (d.name, "alive", str(d.said["listen"])) for d in nodes}
    _wait_view(nodes, whole, BACK_S)
