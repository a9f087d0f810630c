"""A member whose invite only lets it ask, and which offers a model and jobs all the same."""

import pathlib

import pytest

from tests.helpers.daemons import Daemon, Daemons, until, wait_whole
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

OWN = "test:only-mine"
ASKED = 12


def _row(viewer: Daemon, name: str) -> dict[str, object]:
    rows = {row["name"]: row for row in viewer.get("/mesh/v1/nodes")["nodes"]}
    row: dict[str, object] = rows[name]
    return row


MODIFIED = """
import meshd.view

meshd.view.View.may_serve = lambda view: True
"""
"""What somebody changes who wants to serve all the same."""


def test_a_client_that_serves_is_asked_nothing(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """It runs a model of its own and one of the name that another node has: nobody lists either as
    its, no request ever reaches it, its offers are refused and counted; and it may still ask.
    """
    monkeypatch.setenv("MESHD_LOG", "debug")  # then a node says whom it serves
    anna, _ = nodes = daemons.mesh({"anna": WORDS, "bert": "none"})
    (tmp_path / "sitecustomize.py").write_text(MODIFIED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    carl = daemons.add("carl", "--model", OWN, model=WORDS)
    carl.launch("--join", str(anna.cli_json("invite", "--role", "client")["token"])).ready()
    wait_whole([*nodes, carl])
    until("carl's models are up", lambda: len(carl.status()["models"]) == 2, 20.0)
    for daemon in nodes:
        until("its offers are refused", lambda d=daemon: _refused(d), 30.0)  # type: ignore[misc]
        assert _row(daemon, "carl")["role"] == "client"
        assert _row(daemon, "carl")["models"] == []
        assert daemon.models() == {"words": "anna"}
        assert daemon.chat("only-mine").status == 404
    for number in range(ASKED):
        reply = nodes[number % 2].chat("words", f"question {number}", max_tokens=2)
        assert (reply.status, reply.headers["x-meshd-node-id"]) == (200, anna.id)
    assert carl.chat("words", max_tokens=2).status == 200
    assert "request.serving" in anna.log_text()
    assert "request.serving" not in carl.log_text()


def _refused(daemon: Daemon) -> bool:
    return int(daemon.status()["drops"].get("not_allowed", 0)) > 0
