"""Clients that behave badly, while others ask the same model: nobody else notices."""

import pathlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.daemons import Daemon, Daemons, chat_body, until
from tests.helpers.gateway_client import Stream
from tests.helpers.test_runtime import answer_text
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

SLOTS = 2
ENDLESS = 3_000
"""Tokens that nobody waits to the end of."""
TOKENS = 20


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """One node with two slots, and one that asks it."""
    with Daemons(tmp_path_factory.mktemp("neighbours")) as daemons:
        model = f"{WORDS},delay_ms=5,slots={SLOTS}"
        yield daemons.mesh({"anna": model, "bert": "none"})
        daemons.check_logs()


def _others_are_served(daemons: list[Daemon]) -> None:
    """Through either gateway, one after the other and many at once, to the letter."""
    with ThreadPoolExecutor(8) as pool:
        asked = {
            f"question {number}": pool.submit(
                daemons[number % 2].chat, "words", f"question {number}", max_tokens=TOKENS
            )
            for number in range(16)
        }
        for text, reply in asked.items():
            assert reply.result().text == answer_text("words", text, TOKENS)


def _is_idle(daemon: Daemon) -> bool:
    load = daemon.status()["load"]
    return (load["running"], load["queued"]) == (0, 0)


def _endless(daemon: Daemon, pieces: list[Stream]) -> Stream:
    stream = daemon.stream("words", "Go on for ever", max_tokens=ENDLESS)
    pieces.append(stream)
    stream.first_text()
    return stream


@pytest.fixture
def streams() -> Iterator[list[Stream]]:
    """Streams that are closed whatever happens."""
    opened: list[Stream] = []
    yield opened
    for stream in opened:
        stream.close()


def test_one_that_does_not_read(pair: list[Daemon], streams: list[Stream]) -> None:
    """Its own stream waits, in one slot; the other one serves everybody else."""
    anna, bert = pair
    _endless(bert, streams)
    _others_are_served(pair)
    assert anna.running_requests() == 1
    streams[0].close()
    until("its slot is free", lambda: _is_idle(anna), 10.0)


def test_one_that_vanishes(pair: list[Daemon], streams: list[Stream]) -> None:
    """Its requests end on the far node, those that run and those that wait: nothing holds a slot
    for who has gone.
    """
    anna, bert = pair
    for _ in range(SLOTS):
        _endless(bert, streams)
    host, _, port = bert.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as waiting:
        body = b'{"model":"words","messages":[{"role":"user","content":"Hi"}]}'
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}"
        )
        waiting.sendall(f"{head}\r\ncontent-type: application/json\r\n\r\n".encode() + body)
        until("it waits", lambda: anna.status()["load"]["queued"] == 1, 10.0)
    for stream in streams:
        stream.close()
    until("all is free", lambda: _is_idle(anna), 10.0)
    _others_are_served(pair)


def test_one_that_allows_far_more_than_it_needs(tmp_path: pathlib.Path) -> None:
    """`max_tokens` of a million, of which a few are used: no room is kept for the rest."""
    with Daemons(tmp_path) as daemons:
        model = f"{WORDS},slots={SLOTS},end_one_in=20,context=2000000"
        anna, bert = daemons.mesh({"anna": model, "bert": "none"})
        with ThreadPoolExecutor(8) as pool:
            huge = [pool.submit(bert.chat, "words", "Hi", max_tokens=10**6) for _ in range(32)]
            others = [pool.submit(anna.chat, "words", "Hi", max_tokens=2) for _ in range(32)]
            for reply in [*huge, *others]:
                assert reply.result().status == 200, reply.result()


def test_one_with_a_prompt_as_long_as_the_context(pair: list[Daemon]) -> None:
    """It is answered, and so are the others meanwhile."""
    with ThreadPoolExecutor(4) as pool:
        body = chat_body("words", "x" * 4_000, {"max_tokens": TOKENS})
        path = "/v1/chat/completions"
        long = [pool.submit(pair[1].request, "POST", path, body) for _ in range(4)]
        _others_are_served(pair)
        assert [reply.result().status for reply in long] == [200] * 4
