"""Embeddings and ranking: what is read, what is refused, and how answers are worded."""

import base64
import json
import struct
from typing import Any

import openai
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshd.failures import RequestFailed
from meshd.gateway.embedding_request import parse_embedding, parse_rerank
from meshd.gateway.errors import Refusal
from runtimes.base import Finished, Started
from runtimes.embedding import EmbedRequest, Vector
from tests.meshd.gateway.fake_mesh import FakeMesh, Step
from tests.meshd.gateway.official_client import with_client
from tests.meshd.gateway.raw_http import Reply, gateway, request_bytes

VECTORS = ((0.25, -0.5), (1.0, 0.125))
ENDED = Finished("stop", 7, 0)


def mesh_of(*vectors: tuple[float, ...]) -> FakeMesh:
    """One that answers so."""
    steps: list[Step] = [Started((1, 2)), *map(Vector.of, vectors or VECTORS), ENDED]
    return FakeMesh(steps=steps)


def asked(mesh: FakeMesh, path: str, **fields: object) -> Reply:
    """What a gateway for `mesh` answers."""
    replies: list[Reply] = []

    async def main() -> None:
        async with gateway(mesh) as running:
            body = json.dumps({"model": "m", **fields}).encode()
            headers = {"x_meshd_class": "batch"}
            replies.append(await running.ask("POST", path, body, **headers))

    trio.run(main)
    return replies[0]


def test_the_official_client_embeds() -> None:
    """In base64, as it asks by itself, and as numbers; with the counts."""

    def use(client: openai.OpenAI) -> None:
        for encoding in ("float", "base64", None):
            more: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
            answer = client.embeddings.create(model="m", input=["a", "b"], **more)
            got = [item.embedding for item in answer.data]
            if encoding == "base64":  # asked for by name it is handed through
                data = [base64.b64decode(str(each), validate=True) for each in got]
                got = [list(struct.unpack("<2f", each)) for each in data]
            assert [tuple(each) for each in got] == list(VECTORS)
            assert [item.index for item in answer.data] == [0, 1]
            assert (answer.object, answer.model) == ("list", "m")
            assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)

    with_client(mesh_of(), use)


def test_an_answer_is_worded_as_openai_does() -> None:
    """Every field, and who served."""
    mesh = mesh_of()
    reply = asked(mesh, "/v1/embeddings", input=["a", "b"], user="ann", dimensions=2)
    assert reply.status == 200
    assert reply.json == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.25, -0.5]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.125]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    assert (reply.headers["x-meshd-node"], reply.headers["x-meshd-resumed"]) == ("bert", "0")
    [(request, options)] = mesh.requests
    assert request == EmbedRequest(model="m", texts=("a", "b"), dimensions=2)
    assert (options.user, options.is_batch) == ("ann", True)


@pytest.mark.parametrize(
    ("given_", "texts", "token_ids"),
    [
        ("a", ("a",), ()),
        (["a", "b"], ("a", "b"), ()),
        ([1, 2], (), ((1, 2),)),
        ([[1, 2], [3]], (), ((1, 2), (3,))),
    ],
)
def test_inputs_have_four_forms(given_: object, texts: object, token_ids: object) -> None:
    """OpenAI's."""
    call = parse_embedding(json.dumps({"model": "m", "input": given_}).encode())
    assert (call.request.texts, call.request.token_ids) == (texts, token_ids)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", 5]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [[1], []]}, "input"),
        ({"input": [[1], [-2]]}, "input"),
        ({"input": [[1.5]]}, "input"),
        ({"input": [[True]]}, "input"),
        ({"input": [2**40]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": "a\0b"}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "2"}, "dimensions"),
        ({"input": "a", "user": 5}, "user"),
        ({"input": "a", "model": ""}, "model"),
    ],
)
def test_what_is_no_request_to_embed_is_refused(fields: dict[str, object], param: str) -> None:
    """400, with the field that is wrong."""
    with pytest.raises(Refusal) as caught:
        parse_embedding(json.dumps({"model": "m", **fields}).encode())
    assert (caught.value.code, caught.value.param) == ("bad_request", param)


def test_ranked_documents_come_best_first() -> None:
    """As Jina words it: with the texts unless they are not wanted; equal ones in their order."""
    mesh = mesh_of((0.5,), (-3.0,), (2.0,), (0.5,))
    documents: list[object] = ["a", {"text": "b"}, "c", "d"]
    reply = asked(mesh, "/v1/rerank", query="q", documents=documents)
    assert reply.json == {
        "object": "list",
        "results": [
            {"index": 2, "relevance_score": 2.0, "document": {"text": "c"}},
            {"index": 0, "relevance_score": 0.5, "document": {"text": "a"}},
            {"index": 3, "relevance_score": 0.5, "document": {"text": "d"}},
            {"index": 1, "relevance_score": -3.0, "document": {"text": "b"}},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    [(request, _)] = mesh.requests
    assert request == EmbedRequest(model="m", texts=("a", "b", "c", "d"), query="q")
    few = asked(mesh, "/v1/rerank", query="q", documents=documents, top_n=1, return_documents=False)
    assert few.json["results"] == [{"index": 2, "relevance_score": 2.0}]
    many = asked(mesh, "/v1/rerank", query="q", documents=documents, top_n=9)
    assert len(many.json["results"]) == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": "q"}, "documents"),
        ({"documents": ["a"]}, "query"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "documents": "a"}, "documents"),
        ({"query": "q", "documents": ["a", 5]}, "documents[1]"),
        ({"query": "q", "documents": [{"texts": "a"}]}, "documents[0]"),
        ({"query": "q", "documents": ["a\0"]}, "documents[0]"),
        ({"query": "q", "documents": ["a"] * 2049}, "documents"),
        ({"query": ["q"], "documents": ["a"]}, "query"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "q", "documents": ["a"], "return_documents": "no"}, "return_documents"),
    ],
)
def test_what_is_no_request_to_rank_is_refused(fields: dict[str, object], param: str) -> None:
    """400, with the field that is wrong."""
    with pytest.raises(Refusal) as caught:
        parse_rerank(json.dumps({"model": "m", **fields}).encode())
    assert (caught.value.code, caught.value.param) == ("bad_request", param)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_failures_are_told(path: str) -> None:
    """Those of the mesh, before anything was sent and after vectors have come."""
    fields = {"input": ["a"], "query": "q", "documents": ["a"]}
    refused = FakeMesh(refuse=RequestFailed("context_too_long", "Too long."))
    reply = asked(refused, path, **fields)
    assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")
    broken = FakeMesh(steps=[Started(()), RequestFailed("unavailable", "Nobody.")])
    assert asked(broken, path, **fields).status == 503


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_a_client_that_leaves_cancels_its_request(path: str) -> None:
    """At once, while the vectors are worked on."""

    async def main() -> None:
        mesh = FakeMesh(steps=[Started(()), trio.Event()])
        async with gateway(mesh) as running:
            stream = await running.connect()
            body = b'{"model":"m","input":"a","query":"q","documents":["a"]}'
            await stream.send_all(request_bytes("POST", path, body))
            await mesh.entered.wait()
            await stream.aclose()
            await mesh.left.wait()

    trio.run(main)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    """Nothing else is raised."""
    for parse in (parse_embedding, parse_rerank):
        for body in (data, b'{"model":"m","query":"q","input":[' + data + b"]}"):
            try:
                parse(body)
            except Refusal:
                continue
