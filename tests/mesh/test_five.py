"""Five nodes on loopback, one of which has a model: any of them answers as if it were there."""

import functools

import pytest

from runtimes.base import ChatMessage, GenerateRequest
from tests.helpers import test_runtime
from tests.helpers.daemons import WHOLE_S, Daemon, until
from tests.helpers.gateway_client import text_of_event

pytestmark = pytest.mark.processes

TOKENS = 12


def foretold(text: str, count: int = TOKENS) -> str:
    """What the model `words` says to a user's `text`."""
    request = GenerateRequest(model="words", messages=(ChatMessage(role="user", content=text),))
    prompt = test_runtime.prompt_ids(request)
    return test_runtime.text_of(test_runtime.completion_ids("words", prompt, count))


def test_all_see_five_alive(standing: list[Daemon]) -> None:
    """Each view has the same five names and ids, all alive, and one mesh."""
    assert len({daemon.said["mesh"] for daemon in standing}) == 1
    expected = {(daemon.name, daemon.id, "alive") for daemon in standing}
    counts = {"alive": 5, "suspect": 0, "dead": 0, "left": 0}

    def is_seen_by(daemon: Daemon) -> bool:
        rows = daemon.get("/mesh/v1/nodes")["nodes"]
        seen = {(row["name"], row["id"], row["state"]) for row in rows}
        return seen == expected and daemon.status()["members"] == counts

    for daemon in standing:
        # A machine that is busy for a moment may be in doubt for as long.
        until(f"{daemon.name} sees them", functools.partial(is_seen_by, daemon), WHOLE_S)
        assert daemon.get("/mesh/v1/nodes")["nodes"][0]["id"] == daemon.id


def test_a_row_has_what_the_interface_says(standing: list[Daemon]) -> None:
    """The fields of a node, for oneself and for another."""
    fields = {"id", "name", "state", "incarnation", "address", "role", "owner", "labels", "tier"}
    fields |= {"hardware", "models", "load", "rtt_ms", "version"}
    own, *others = standing[1].get("/mesh/v1/nodes")["nodes"]
    for row in (own, *others):
        assert set(row) == fields
        assert row["tier"] in (1, 2, 3)
        assert set(row["load"]) == {"queued", "running", "slots"}
        assert row["role"] == ("admin" if row["name"] == "anna" else "worker")
        assert row["owner"] == "founder"
    assert own["rtt_ms"] is None
    [anna] = [row for row in others if row["name"] == "anna"]
    assert anna["models"] == ["words"]
    assert anna["address"] == standing[0].said["listen"]


def test_all_list_the_model_with_its_owner(standing: list[Daemon]) -> None:
    """`/v1/models` is the same everywhere."""
    for daemon in standing:
        [row] = daemon.get("/v1/models")["data"]
        assert (row["id"], row["object"], row["owned_by"]) == ("words", "model", "anna")
        assert row["meshd"]["nodes"] == ["anna"]


@pytest.mark.parametrize("index", range(5))
def test_a_chat_streams_from_its_owner(standing: list[Daemon], index: int) -> None:
    """Through each node: the owner is named, its tokens come one by one, none is changed."""
    with standing[index].stream("words", f"Hi {index}", max_tokens=TOKENS) as stream:
        assert stream.status == 200
        assert stream.headers["x-meshd-node"] == "anna"
        assert stream.headers["x-meshd-node-id"] == standing[0].id
        assert stream.headers["x-meshd-request"]
        *events, last = stream.events()
    texts = [text for event in events if (text := text_of_event(event))]
    assert last == "[DONE]"
    assert "".join(texts) == foretold(f"Hi {index}")
    assert len(texts) == TOKENS


@pytest.mark.parametrize("index", [0, 3])
def test_a_chat_in_one_piece(standing: list[Daemon], index: int) -> None:
    """The same text, with exact counts."""
    reply = standing[index].chat("words", "Hi", max_tokens=TOKENS)
    assert reply.text == foretold("Hi")
    assert reply.headers["x-meshd-node-id"] == standing[0].id
    prompt_tokens = len("user: Hi\nassistant:")
    assert reply.json["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": TOKENS,
        "total_tokens": prompt_tokens + TOKENS,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_many_chats_at_one_time(standing: list[Daemon]) -> None:
    """Streams that overlap do not mix."""
    streams = [d.stream("words", f"I am {d.name}", max_tokens=TOKENS) for d in standing]
    for daemon, stream in zip(standing, streams, strict=True):
        with stream:
            text = "".join(text_of_event(event) for event in stream.events())
        assert text == foretold(f"I am {daemon.name}")
