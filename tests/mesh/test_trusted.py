"""Requests that demand trust, on real daemons: they go to trusted machines or nowhere."""

import pytest

from tests.helpers.daemons import Daemon, Daemons, wait_offered, wait_whole
from tests.helpers.gateway_client import Reply
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

BODY = {"model": "words", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def ask(daemon: Daemon, **headers: str) -> Reply:
    """A chat request with these headers."""
    return daemon.request("POST", "/v1/chat/completions", BODY, **headers)


def served(daemon: Daemon) -> int:
    """How many requests of others it has begun to serve."""
    return daemon.log_text().count("request.serving")


def test_only_trusted_nodes_are_asked(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    """By header and by key; also not the asking node itself, nor any other way round a failure."""
    monkeypatch.setenv("MESHD_LOG", "debug")
    anna, bert = daemons.mesh({"anna": "none", "bert": WORDS})
    key = anna.cli_json("key", "create", "careful", "--trusted")["key"]
    demands: list[dict[str, str]] = [
        {"x_meshd_trusted": "1"},
        {"authorization": f"Bearer {key}"},
        {"authorization": f"Bearer {key}", "x_meshd_trusted": "0"},
    ]

    # Nobody trusted has the model: it is said, and bert hears nothing of it.
    for headers in demands:
        reply = ask(anna, **headers)
        assert (reply.status, reply.error["code"]) == (404, "no_trusted_node")
        assert "meshd invite --trusted" in reply.error["message"]
    assert ask(bert, x_meshd_trusted="1").status == 404
    assert served(bert) == 0
    assert ask(anna).headers["x-meshd-node"] == "bert"
    assert served(bert) == 1

    cleo = daemons.add("cleo", model=WORDS).launch("--join", anna.invite(trusted=True)).ready()
    wait_whole([anna, bert, cleo])
    wait_offered([anna, bert, cleo], "words", "cleo")
    for _ in range(5):
        for headers in demands:
            assert ask(anna, **headers).headers["x-meshd-node"] == "cleo"
        assert ask(bert, x_meshd_trusted="1").headers["x-meshd-node"] == "cleo"
        assert ask(cleo, x_meshd_trusted="1").headers["x-meshd-node"] == "cleo"
    reply = ask(anna, x_meshd_trusted="1", x_meshd_node="bert")
    assert (reply.status, reply.error["code"]) == (404, "no_trusted_node")

    cleo.kill()  # and nobody knows it yet: the next candidate is not bert
    for headers in demands:
        reply = ask(anna, **headers)
        assert reply.error["code"] in ("unavailable", "no_trusted_node")
    assert served(bert) == 1
    assert ask(anna).headers["x-meshd-node"] == "bert"
