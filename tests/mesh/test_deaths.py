"""Nodes that say goodbye, and nodes that do not."""

import signal
import time

import pytest

from tests.helpers.daemons import Daemon, Daemons, until, wait_offered, wait_state
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

LEFT_S = 6.0
DEAD_S = 30.0
"""Limits, not figures: those are in the benchmarks."""


def test_goodbyes_and_a_death(daemons: Daemons) -> None:
    """SIGTERM and SIGINT: shown as left, exit code 0. kill -9: dead everywhere in seconds, no
    request is lost meanwhile, and none goes to the dead one afterwards.
    """
    models = {"anna": WORDS, "bert": WORDS, "cleo": "none", "dora": "none", "emil": "none"}
    anna, bert, cleo, dora, emil = daemons.mesh(models)
    _says_goodbye(dora, signal.SIGTERM, [anna, bert, cleo, emil])
    _says_goodbye(emil, signal.SIGINT, [anna, bert, cleo])

    assert {_ask(anna), _ask(bert)} == {"anna", "bert"}
    victim, other = (anna, bert) if _ask(cleo) == "anna" else (bert, anna)
    victim.kill()
    killed = time.monotonic()
    while any(daemon.nodes()[victim.name] != "dead" for daemon in (other, cleo)):
        assert {_ask(other), _ask(cleo)} == {other.name}
        assert time.monotonic() - killed < DEAD_S
    states = {"anna": "alive", "bert": "alive", "cleo": "alive", "dora": "left", "emil": "left"}
    for daemon in (other, cleo):
        assert daemon.models() == {"words": other.name}
        tried = daemon.log_text().count("request.attempt_failed")
        assert {_ask(daemon) for _ in range(10)} == {other.name}
        assert daemon.log_text().count("request.attempt_failed") == tried
        for name, state in {**states, victim.name: "dead"}.items():
            wait_state([daemon], name, state, LEFT_S)

    victim.launch().ready()
    wait_state([other, cleo], victim.name, "alive", 15.0)
    wait_offered([other, cleo], "words", victim.name)


def _ask(daemon: Daemon) -> str:
    reply = daemon.chat("words", max_tokens=2)
    assert reply.status == 200, reply
    return reply.headers["x-meshd-node"]


def _says_goodbye(leaving: Daemon, number: signal.Signals, others: list[Daemon]) -> None:
    leaving.signal(number)
    wait_state(others, leaving.name, "left", LEFT_S)
    assert leaving.ended() == 0


def test_a_signal_during_the_start_ends_it(daemons: Daemons) -> None:
    """Before the ready line too: SIGTERM and SIGINT end it in time, without a traceback."""
    nodes = [daemons.add(f"n{number}") for number in range(4)]
    for index, daemon in enumerate(nodes):
        daemon.launch()
        until("its home is there", daemon.home.lock_file.exists, 10.0)
        daemon.signal(signal.SIGTERM if index % 2 else signal.SIGINT)
    for daemon in nodes:
        assert daemon.ended() in (0, 130, -signal.SIGTERM, -signal.SIGINT)
    for daemon in nodes[:2]:
        daemon.launch().ready()


def test_an_impatient_person_signals_twice(daemons: Daemons) -> None:
    """A second SIGINT does not wait for goodbyes, and is no traceback either."""
    [anna] = daemons.mesh({"anna": WORDS})
    anna.signal(signal.SIGINT)
    until("it has heard", lambda: "daemon.stopping" in anna.log_text(), 5.0)
    anna.signal(signal.SIGINT)
    assert anna.ended(5.0) in (0, 130)


def test_goodbye_with_a_request_in_flight(daemons: Daemons) -> None:
    """A node that is told to stop while it streams ends in time; the client gets an error event."""
    anna, bert = daemons.mesh({"anna": f"{WORDS},delay_ms=300", "bert": "none"})
    with bert.stream("words", max_tokens=1000) as stream:
        stream.first_text()
        anna.signal(signal.SIGTERM)
        last = list(stream.events())[-1]
        assert last["error"]["code"] == "interrupted", last
    assert anna.ended() == 0
    with bert.stream("words") as refused:
        assert refused.status in (404, 503)
