"""Two machines with their own addresses: everything by default, across a cable."""

import json
import pathlib
from collections.abc import Iterator

import pytest

from tests.helpers.daemons import Daemon, Daemons, until
from tests.helpers.namespaces import Namespace, needs_namespaces, two_namespaces
from tests.mesh.conftest import WORDS

pytestmark = [pytest.mark.processes, pytest.mark.namespaces, needs_namespaces]


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Namespace, Namespace]]:
    """Two machines."""
    with two_namespaces() as both:
        yield both


def _states(daemon: Daemon) -> dict[str, str]:
    return {row["name"]: row["state"] for row in daemon.cli_json("nodes")["nodes"]}


def _wait_whole(nodes: list[Daemon]) -> None:
    whole = {daemon.name: "alive" for daemon in nodes}
    until("each sees both", lambda: all(_states(daemon) == whole for daemon in nodes), 15.0)


def _ask(daemon: Daemon) -> dict[str, object]:
    done = daemon.cli("chat", "--model", "words", "--json", "Hello")
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_two_machines(machines: tuple[Namespace, Namespace], tmp_path: pathlib.Path) -> None:
    """Default listen and gateway addresses, an invite over the cable, a chat both ways; stopped
    and started again without tokens; a cable that is pulled and plugged in again.
    """
    with Daemons(tmp_path) as daemons:
        anna, bert = nodes = [
            daemons.add(name, model=model, listen=None, gateway=None, prefix=machine.prefix)
            for name, model, machine in zip(
                ("anna", "bert"), (WORDS, "none"), machines, strict=True
            )
        ]
        anna.launch().ready()
        assert anna.said["listen"] == "[::]:7700"
        assert anna.said["gateway"] == "http://127.0.0.1:7701"
        token = anna.cli_json("invite")["token"]
        bert.launch("--join", token).ready()
        _wait_whole(nodes)
        _check_addresses(bert, machines)
        until("the model is known", lambda: bert.cli_json("models")["models"], 10.0)
        answers = [_ask(daemon) for daemon in nodes]
        assert [answer["node"] for answer in answers] == ["anna", "anna"]
        assert answers[0]["text"] == answers[1]["text"] != ""

        assert [daemon.stop() for daemon in nodes] == [0, 0]
        for daemon in (bert, anna):
            daemon.launch().ready()
        _wait_whole(nodes)
        _pull_the_cable(nodes, machines[0])
        assert _ask(bert)["node"] == "anna"
        for daemon in nodes:
            daemon.kill()
        for daemon in nodes:
            daemon.launch().ready()
        _wait_whole(nodes)


def _check_addresses(bert: Daemon, machines: tuple[Namespace, Namespace]) -> None:
    rows = {row["name"]: row["address"] for row in bert.cli_json("nodes")["nodes"]}
    assert rows == {"anna": f"{machines[0].address}:7700", "bert": f"{machines[1].address}:7700"}


def _pull_the_cable(nodes: list[Daemon], machine: Namespace) -> None:
    """Each side counts the other as dead, and both find each other again."""
    machine.set_link("down")
    anna, bert = nodes

    def are_apart() -> bool:
        return (_states(anna)["bert"], _states(bert)["anna"]) == ("dead", "dead")

    try:
        until("each counts the other as dead", are_apart, 40.0)
    finally:
        machine.set_link("up")
    _wait_whole(nodes)
