"""Requests whose serving node goes away before the first token, and that go with their client."""

import http.client
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from protocol.admission import QUEUE_MAX
from tests.helpers.daemons import (
    Daemon,
    Daemons,
    revive,
    until,
    wait_state,
)
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

SLOW = f"{WORDS},first_ms=1300,delay_ms=700,slots=4"


@pytest.fixture(scope="module")
def trio_of_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Two slow nodes with a model, and one without; every test leaves all three running."""
    with Daemons(tmp_path_factory.mktemp("failover")) as daemons:
        yield daemons.mesh({"anna": SLOW, "bert": SLOW, "cleo": "none"})
        daemons.check_logs()


@pytest.fixture
def three(trio_of_nodes: list[Daemon]) -> list[Daemon]:
    """The same, whole and idle."""
    revive(trio_of_nodes, "words", ("anna", "bert"))
    until("all is idle", lambda: not _busy(trio_of_nodes[:2]), 10.0)
    return trio_of_nodes


def _busy(nodes: list[Daemon]) -> list[Daemon]:
    return [daemon for daemon in nodes if daemon.running_requests()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_node_dies_before_the_first_token(
    three: list[Daemon], number: signal.Signals, *, is_streamed: bool
) -> None:
    """Killed or stopped in its tracks: the other one answers, wholly. Told to end, it may have the
    time to do so itself.
    """
    if number == signal.SIGSTOP and not is_streamed:
        pytest.skip("takes as long as the detector; once is enough")
    *nodes, cleo = three

    def ask() -> tuple[str, int]:
        if not is_streamed:
            reply = cleo.chat("words", max_tokens=2)
            return reply.headers["x-meshd-node"], reply.json["usage"]["completion_tokens"]
        with cleo.stream("words", max_tokens=2, stream_options={"include_usage": True}) as stream:
            *_, usage, _done = stream.events()
            return stream.headers["x-meshd-node"], usage["usage"]["completion_tokens"]

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        [serving] = until("one of them works", lambda: _busy(nodes), 15.0)
        serving.signal(number)
        try:
            [other] = [daemon for daemon in nodes if daemon is not serving]
            name, tokens = answer.result(30.0)
            assert tokens == 2
            assert name == other.name or (number == signal.SIGTERM and name == serving.name)
        finally:
            if number == signal.SIGSTOP:
                serving.signal(signal.SIGCONT)
    if number == signal.SIGSTOP:
        wait_state([*nodes, cleo], serving.name, "alive", 10.0)
    else:
        serving.ended()


def test_a_client_that_leaves_frees_the_far_node(three: list[Daemon]) -> None:
    """Before the first token and after it, streamed and not: the far node has nothing to do."""
    *nodes, cleo = three
    open_streams = [cleo.stream("words", max_tokens=1000) for _ in range(3)]
    until("they work", lambda: sum(n.running_requests() for n in nodes) == 3, 10.0)
    for stream in open_streams:
        stream.close()
    until("nobody works any more", lambda: not _busy(nodes), 10.0)


def test_a_client_that_leaves_before_the_first_token(daemons: Daemons) -> None:
    """The far node is freed though it has not said a word yet."""
    anna, bert = daemons.mesh({"anna": f"{WORDS},hang_at=0", "bert": "none"})
    for stream in (True, False):
        connection = http.client.HTTPConnection(bert.url.removeprefix("http://"), timeout=10)
        asked = {"model": "words", "messages": [{"role": "user", "content": "Hi"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps({**asked, "stream": stream}))
        until("it works", lambda: anna.running_requests() == 1, 15.0)
        connection.close()
        until("nobody works any more", lambda: anna.running_requests() == 0, 10.0)


def test_a_full_queue_is_said_at_once(daemons: Daemons) -> None:
    """The only node is full: 503 with advice when to come back."""
    anna, bert = daemons.mesh({"anna": f"{WORDS},hang_at=0", "bert": "none"})
    with ThreadPoolExecutor(QUEUE_MAX + 1) as pool:
        waiting = [pool.submit(bert.chat, "words") for _ in range(QUEUE_MAX + 1)]
        load = {"queued": QUEUE_MAX, "running": 1, "slots": 1}
        until("it is full", lambda: anna.status()["load"] == load, 15.0)
        reply = bert.chat("words")
        assert (reply.status, reply.error["code"]) == (503, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1
        anna.kill()
        for answer in waiting:
            assert answer.result(20.0).status == 503
