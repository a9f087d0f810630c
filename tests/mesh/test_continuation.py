"""Answers whose serving node is lost in the middle: another goes on with them, to the letter."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.daemons import (
    Daemon,
    Daemons,
    chat_body,
    revive,
    until,
    wait_offered,
    wait_state,
)
from tests.helpers.gateway_client import text_of_event
from tests.helpers.severing import can_reset_streams, reset_streams
from tests.helpers.test_runtime import answer_text
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

SLOW = f"{WORDS},delay_ms=40,slots=8"
TOKENS = 60


@pytest.fixture(scope="module")
def trio_of_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Two nodes with a model, and one without; every test leaves all three running."""
    with Daemons(tmp_path_factory.mktemp("continuation")) as daemons:
        yield daemons.mesh({"anna": SLOW, "bert": SLOW, "cleo": "none"})
        daemons.check_logs()


@pytest.fixture
def three(trio_of_nodes: list[Daemon]) -> list[Daemon]:
    """The same, whole."""
    revive(trio_of_nodes, "words", ("anna", "bert"))
    return trio_of_nodes


def _kill(daemon: Daemon) -> None:
    daemon.kill()


def _stop(daemon: Daemon) -> None:
    daemon.signal(signal.SIGSTOP)


def _say_goodbye(daemon: Daemon) -> None:
    daemon.signal(signal.SIGTERM)


def _sever(daemon: Daemon) -> None:
    reset_streams(daemon.port)


@pytest.mark.parametrize(
    "strike",
    [
        _kill,
        _stop,
        _say_goodbye,
        pytest.param(
            _sever,
            marks=pytest.mark.skipif(not can_reset_streams(), reason="cannot reset connections"),
        ),
    ],
)
def test_a_stream_goes_on_elsewhere(three: list[Daemon], strike: Callable[[Daemon], None]) -> None:
    """Killed, stopped in its tracks, told to end, or cut off: the text is that of an unbroken run,
    it is counted once, and the answer says who gave it.
    """
    *nodes, cleo = three
    tokens = 3 * TOKENS if strike is _say_goodbye else TOKENS  # more than it has time for
    asked = {"max_tokens": tokens, "stream_options": {"include_usage": True}}
    with cleo.stream("words", "Go on", **asked) as stream:
        text = stream.first_text()
        [serving] = [node for node in nodes if node.name == stream.headers["x-meshd-node"]]
        strike(serving)
        events = list(stream.events())
        comment = stream.comments[-1]
    if strike is _stop:
        serving.signal(signal.SIGCONT)
    elif strike is not _sever:
        serving.ended()
    text += "".join(text_of_event(event) for event in events)
    assert text == answer_text("words", "Go on", tokens)
    *_, usage, done = events
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == tokens
    assert comment.endswith(" continuations=1")
    told = cleo.get(f"/mesh/v1/explain/{stream.headers['x-meshd-request']}")
    assert (told["state"], told["continuations"]) == ("done", 1)
    parts = [attempt["node"] for attempt in told["attempts"] if attempt["tokens"]]
    assert parts[0] == serving.name
    if strike is not _sever:  # then it may itself go on
        [other] = [node for node in nodes if node is not serving]
        assert parts[1] == other.name
        assert comment == f"meshd nodes={','.join(parts)} continuations=1"
    assert sum(attempt["tokens"] for attempt in told["attempts"]) == tokens
    if strike is _stop:
        wait_state(three, serving.name, "alive", 10.0)


def test_a_whole_answer_goes_on_elsewhere(three: list[Daemon]) -> None:
    """Not streamed: its client sees nothing but the header."""
    *nodes, cleo = three
    tokens = 3 * TOKENS  # more than it has time for, while it is found out who works
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(cleo.chat, "words", "Go on", max_tokens=tokens)
        [serving] = until(
            "one of them works", lambda: [n for n in nodes if n.running_requests()], 15.0
        )
        # When this one has five tokens, the other, which came before, has some too.
        body = chat_body("words", "Hi", {"max_tokens": 5})
        cleo.request("POST", "/v1/chat/completions", body, x_meshd_node=serving.name)
        serving.kill()
        reply = answer.result(30.0)
    assert reply.text == answer_text("words", "Go on", tokens)
    assert reply.headers["x-meshd-resumed"] == "1"
    assert reply.headers["x-meshd-node"] != serving.name


def test_a_person_is_told_why(three: list[Daemon]) -> None:
    """`meshd explain` names candidates, what was expected of each, and who was asked."""
    *_, cleo = three
    reply = cleo.chat("words", max_tokens=3)
    request = reply.headers["x-meshd-request"]
    told = cleo.cli("explain", request)
    assert told.returncode == 0, told
    for words in (request, "3 completion tokens", "anna", "bert", "ranked by fastest"):
        assert words in told.stdout
    assert cleo.cli_json("explain", request) == cleo.get(f"/mesh/v1/explain/{request}")
    unknown = cleo.cli("explain", "0" * 16)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "x-meshd-request" in unknown.stderr


def test_a_node_that_is_told_to_end_ends_its_answers_first(three: list[Daemon]) -> None:
    """SIGTERM: a stream that is nearly done comes whole from that node; then it is gone."""
    *nodes, cleo = three
    with cleo.stream("words", max_tokens=TOKENS // 4) as stream:
        stream.first_text()
        [serving] = [node for node in nodes if node.name == stream.headers["x-meshd-node"]]
        _say_goodbye(serving)
        events = list(stream.events())
    assert serving.ended() == 0
    assert events[-1] == "[DONE]"
    assert stream.comments[-1] == f"meshd nodes={serving.name} continuations=0"


def test_a_node_that_drains_ends_what_it_has(three: list[Daemon]) -> None:
    """Its stream comes whole and from nobody else, new requests go elsewhere, also its own; then
    nothing runs there, and it serves again when told so.
    """
    anna, bert, cleo = three
    with cleo.stream("words", max_tokens=5 * TOKENS) as stream:
        stream.first_text()
        serving = anna if stream.headers["x-meshd-node"] == "anna" else bert
        other = bert if serving is anna else anna
        refused = serving.cli("drain", "--within", "1s")
        assert refused.returncode == 1
        assert "1 requests still run here" in refused.stderr
        replies = [daemon.chat("words", max_tokens=2) for daemon in (serving, cleo, other)]
        assert [reply.headers["x-meshd-node"] for reply in replies] == [other.name] * 3
        events = list(stream.events())
    assert events[-1] == "[DONE]"
    assert not any("continuations=1" in comment for comment in stream.comments)
    assert serving.cli_json("drain")["running"] == 0
    assert serving.cli_json("drain", "--end")["draining"] is False
    wait_offered(three, "words", serving.name)
