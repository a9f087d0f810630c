"""Waiting for a turn at a real node: its owner is next, and nodes share it."""

import pathlib
import threading
from collections.abc import Callable

import pytest

from tests.helpers.daemons import Daemon, Daemons, until, wait_offered, wait_whole

pytestmark = pytest.mark.processes


def _join(daemons: Daemons, serving: Daemon, name: str, owner: str) -> Daemon:
    """A node without models that somebody owns."""
    token = str(serving.cli_json("invite", "--owner", owner)["token"])
    return daemons.add(name).launch("--join", token).ready()


class Crowd:
    """Requests, each waiting in a thread of its own, and the order in which they were answered."""

    def __init__(self, serving: Daemon) -> None:
        self._serving = serving
        self._threads: list[threading.Thread] = []
        self.order: list[str] = []
        self.statuses: list[int] = []

    def ask(self, daemon: Daemon, **headers: str) -> None:
        """One more, once it waits at the serving node."""
        messages = [{"role": "user", "content": "More than a quantum. " * 8}]
        body = {"model": "words", "messages": messages, "max_tokens": 4}
        name = headers.get("x-meshd-class", daemon.name)

        def answered() -> None:
            reply = daemon.request("POST", "/v1/chat/completions", body, **headers)
            self.order.append(name)
            self.statuses.append(reply.status)

        self._threads.append(threading.Thread(target=answered, daemon=True))
        self._threads[-1].start()
        count = len(self._threads)
        until(f"{count} wait", lambda: self._serving.status()["load"]["queued"] == count, 10)

    def wait(self) -> None:
        """Until all are answered."""
        for thread in self._threads:
            thread.join(30)


def _when_free(serving: Daemon, asking: Daemon, then: Callable[[], None]) -> None:
    """Do something while the only slot is taken, by a stream that ends afterwards."""
    stream = asking.stream("words", max_tokens=100_000)
    until("it runs", lambda: serving.running_requests() == 1, 10)
    then()
    stream.close()


def test_the_owner_is_next_and_nodes_share(tmp_path: pathlib.Path) -> None:
    """Six of anna's wait, then comes one of bert's, and one of another node of the owner: he is
    first, bert soon after, and anna's batch request last.
    """
    with Daemons(tmp_path) as daemons:
        serving = daemons.add("serving", model="test:words,delay_ms=100,context=1000000")
        serving.launch().ready()
        anna, bert = (_join(daemons, serving, name, name) for name in ("anna", "bert"))
        phone = _join(daemons, serving, "phone", serving.status()["owner"])
        everybody = [serving, anna, bert, phone]
        wait_whole(everybody)
        wait_offered(everybody, "words", "serving")
        crowd = Crowd(serving)

        def all_wait() -> None:
            crowd.ask(anna, **{"x-meshd-class": "batch"})
            for _ in range(5):
                crowd.ask(anna)
            crowd.ask(bert)
            crowd.ask(phone)

        _when_free(serving, anna, all_wait)
        crowd.wait()
        assert crowd.statuses == [200] * 8
        assert (crowd.order[0], crowd.order[-1]) == ("phone", "batch")
        assert crowd.order.index("bert") <= 2, "anna has one turn before, if it is hers"
        assert serving.status()["load"] == {"queued": 0, "running": 0, "slots": 1}
        assert serving.stop() == 0
        served = {row["identity"]: row for row in serving.cli_json("usage")["usage"]}
        assert {served[node.id]["requests"] for node in (bert, phone)} == {1}
        assert (served[bert.id]["side"], served[bert.id]["output_tokens"]) == ("served", 4)
        assert served[anna.id]["requests"] == 7, "the stream that broke off counts"
