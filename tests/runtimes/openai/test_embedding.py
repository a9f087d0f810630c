"""Embedding and ranking by an upstream: what it is asked, and what its answers are taken for."""

import base64
import json
import struct

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import Finished, Runtime, RuntimeFailure, Started
from runtimes.embedding import EmbedRequest, Vector
from runtimes.openai.embedding import BATCH_TEXTS_MAX, read_answer
from tests.runtimes.openai.upstream import (
    Seen,
    Upstream,
    replying,
    with_runtime,
)
from tests.runtimes.serving import wait_idle

EMBEDDING = EmbedRequest(model="m", texts=("a", "b"))
RERANKING = EmbedRequest(model="m", texts=("a", "b"), query="q")
JSON = "Content-Type: application/json"


async def answer(runtime: Runtime, request: EmbedRequest) -> tuple[list[tuple[float, ...]], int]:
    """The vectors, and how many tokens they took."""
    events = [event async for event in runtime.generate(request)]
    assert events[0] == Started(())
    finished = events[-1]
    assert isinstance(finished, Finished)
    vectors = [event.numbers for event in events if isinstance(event, Vector)]
    assert len(vectors) == len(events) - 2
    return vectors, finished.prompt_tokens


def embeddings(*rows: object, tokens: int = 3) -> dict[str, object]:
    """An answer with these."""
    data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
    return {"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def test_what_is_asked_and_what_comes_back() -> None:
    """Base64 is asked for, numbers are taken too, and the order is that of the index."""
    both = base64.b64encode(struct.pack("<2f", 0.5, 1.5)).decode()
    content = embeddings([0.25, 2], both)
    content["data"].reverse()  # type: ignore[attr-defined]  # a list

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        assert await answer(runtime, EMBEDDING) == ([(0.25, 2.0), (0.5, 1.5)], 3)
        [seen] = upstream.seen
        assert seen.path == "/v1/embeddings"
        assert seen.json == {"model": "m", "input": ["a", "b"], "encoding_format": "base64"}

    with_runtime(replying(200, content, JSON), test)


def test_many_texts_are_several_calls() -> None:
    """Each of a few texts; the tokens are summed."""
    texts = tuple(str(number) for number in range(2 * BATCH_TEXTS_MAX + 1))

    async def script(seen: Seen, stream: trio.SocketStream) -> None:
        rows = [[float(text)] for text in seen.json["input"]]
        await replying(200, embeddings(*rows, tokens=len(rows)), JSON)(seen, stream)

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        request = EmbedRequest(model="m", texts=texts)
        vectors, tokens = await answer(runtime, request)
        assert vectors == [(float(text),) for text in texts]
        assert tokens == len(texts)
        assert [len(seen.json["input"]) for seen in upstream.seen] == [32, 32, 1]

    with_runtime(script, test)


def test_a_query_is_asked_of_rerank() -> None:
    """All scores are wanted, and put back in order."""
    results = [{"index": 1, "relevance_score": 2}, {"index": 0, "relevance_score": -0.5}]

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        assert await answer(runtime, RERANKING) == ([(-0.5,), (2.0,)], 9)
        [seen] = upstream.seen
        assert seen.path == "/v1/rerank"
        assert seen.json == {"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 2}

    with_runtime(replying(200, {"results": results, "usage": {"total_tokens": 9}}, JSON), test)


@pytest.mark.parametrize(
    ("status", "code"), [(400, "bad_request"), (404, "unavailable"), (503, "queue_full")]
)
def test_refusals_mean_what_they_mean_elsewhere(status: int, code: str) -> None:
    """And the slot is free again."""

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        del upstream
        with pytest.raises(RuntimeFailure, match="no such thing") as failed:
            await answer(runtime, EMBEDDING)
        assert failed.value.code == code
        await wait_idle(runtime)

    with_runtime(replying(status, {"error": {"message": "no such thing"}}, JSON), test)


BAD: list[object] = [
    [],
    {},
    {"data": []},
    embeddings([1.0]),
    embeddings([1.0], [1.0], [1.0]),
    embeddings([1.0], []),
    embeddings([1.0], [True]),
    embeddings([1.0], ["1"]),
    embeddings([1.0], [1e400]),
    embeddings([1.0], [1e39]),
    embeddings([1.0], [10**400]),
    embeddings([1.0], "!!"),
    embeddings([1.0], "AAA="),
    embeddings([1.0], "AADAfw=="),
    embeddings([1.0], None),
    {"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]},
    {"data": [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}]},
    {"data": [{"index": 0, "embedding": [1.0]}, 5]},
]


@pytest.mark.parametrize("content", BAD)
def test_what_makes_no_sense_is_crashed(content: object) -> None:
    """Not as many, not numbered, no numbers, not finite."""
    with pytest.raises(RuntimeFailure, match="makes no sense") as failed:
        read_answer(json.dumps(content).encode(), EMBEDDING, 2)
    assert failed.value.code == "crashed"


@given(st.binary(max_size=60))
def test_any_bytes_are_vectors_or_a_failure(data: bytes) -> None:
    """Nothing else is raised."""
    for whole in (data, b'{"data":[{"embedding":' + data + b"}]}"):
        for request in (EMBEDDING, RERANKING):
            try:
                read_answer(whole, request, 1)
            except RuntimeFailure:
                continue
