"""Small models that embed and rank, behind real daemons: llama.cpp's own numbers, from any node."""

import importlib.util
import json
import math
import pathlib
from collections.abc import Iterator

import openai
import pytest

from tests.helpers.daemons import Daemon, Daemons, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.llama,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("llama_cpp", "gguf")),
        reason="needs the extra [dev]",
    ),
]

TEXTS = ["the cat", "a dog ran far", "the cat sat on the mat, old dog.", "new? the cat!"]
MODELS = {"demo": ["generate"], "embedder": ["embed"], "ranker": ["rerank"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where the models are."""
    import gguf

    from tests.helpers.embedding_models import write_bert

    folder = tmp_path_factory.mktemp("models")
    write_bert(folder / "embedder.gguf", gguf.PoolingType.MEAN)
    write_bert(folder / "ranker.gguf", gguf.PoolingType.RANK)
    return folder


@pytest.fixture(scope="module")
def mesh(folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """A node without models, one with those that embed and rank, and one with a talking one."""
    with Daemons(tmp_path_factory.mktemp("embedding")) as daemons:
        models = {"anna": "none", "bert": str(folder), "carl": "demo"}
        nodes = daemons.mesh(models, is_whole=False)
        until("all know all", lambda: all(set(node.models()) == set(MODELS) for node in nodes), 60)
        yield nodes
        daemons.check_logs()


def test_vectors_are_llama_cpps(client: openai.OpenAI, folder: pathlib.Path) -> None:
    """Of texts, and of their tokens; with its count of tokens."""
    from llama_cpp import Llama

    llama = Llama(
        str(folder / "embedder.gguf"), embedding=True, n_ctx=64, n_threads=1, verbose=False
    )
    wanted = llama.embed(TEXTS, normalize=True)
    tokens = [llama.tokenize(text.encode()) for text in TEXTS]
    llama.close()
    for given in (TEXTS, tokens):
        answer = client.embeddings.create(model="embedder", input=given)
        got = [item.embedding for item in answer.data]
        distances = [math.dist(one, other) for one, other in zip(got, wanted, strict=True)]
        assert max(distances) < 1e-3
        assert answer.usage.prompt_tokens == sum(map(len, tokens))
    short = client.embeddings.create(model="embedder", input=TEXTS[0], dimensions=10)
    assert len(short.data[0].embedding) == 10
    assert math.isclose(math.hypot(*short.data[0].embedding), 1.0, abs_tol=1e-6)


def test_documents_are_ranked(mesh: list[Daemon]) -> None:
    """Alike from both nodes, whoever stands beside whom; the node that serves is named."""
    body = {"model": "ranker", "query": "old dog", "documents": TEXTS, "top_n": 3}
    replies = [node.request("POST", "/v1/rerank", body) for node in mesh[:2]]
    assert [reply.status for reply in replies] == [200, 200]
    first, second = [json.loads(reply.body)["results"] for reply in replies]
    assert [row["index"] for row in first] == [row["index"] for row in second]
    scores = [row["relevance_score"] for row in first]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3
    best = first[0]
    alone = mesh[0].request(
        "POST", "/v1/rerank", {**body, "documents": [TEXTS[best["index"]]], "top_n": None}
    )
    [row] = json.loads(alone.body)["results"]
    assert math.isclose(row["relevance_score"], best["relevance_score"], abs_tol=5e-3)
    assert row["document"] == {"text": TEXTS[best["index"]]}
    assert alone.headers["x-meshd-node"] == "bert"


def test_each_model_is_asked_for_what_it_is_made_for(client: openai.OpenAI) -> None:
    """The list says it, and anything else is a 400 in one line that names who could."""
    listed = {model.id: getattr(model, "meshd")["tasks"] for model in client.models.list().data}  # noqa: B009  # not a field of theirs
    assert listed == MODELS
    with pytest.raises(openai.BadRequestError, match="made to embed and cannot generate") as caught:
        client.chat.completions.create(
            model="embedder", messages=[{"role": "user", "content": "Hi"}]
        )
    assert "the mesh has for that: demo." in str(caught.value)
    with pytest.raises(openai.BadRequestError, match="cannot embed; the mesh has for that: embed"):
        client.embeddings.create(model="demo", input="Hi")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="absent", input="Hi")


def test_what_is_too_long_is_said_to_be(client: openai.OpenAI) -> None:
    """Typed, with the text that is at fault."""
    with pytest.raises(openai.BadRequestError, match="text 1 has") as caught:
        client.embeddings.create(model="embedder", input=["a cat", "the cat " * 200])
    assert caught.value.code == "context_length_exceeded"


def test_hundreds_of_texts_come_in_order(client: openai.OpenAI) -> None:
    """More than fit into one decode, or into what is sent without being taken."""
    texts = [f"the cat {number}" for number in range(600)]
    answer = client.embeddings.create(model="embedder", input=texts)
    assert [item.index for item in answer.data] == list(range(600))
    last = client.embeddings.create(model="embedder", input=texts[-1])
    assert math.dist(answer.data[-1].embedding, last.data[0].embedding) < 1e-3


def test_requests_are_explained_and_counted(mesh: list[Daemon]) -> None:
    """As chats are."""
    reply = mesh[0].request("POST", "/v1/embeddings", {"model": "embedder", "input": TEXTS})
    tokens = json.loads(reply.body)["usage"]["prompt_tokens"]
    story = mesh[0].get(f"/mesh/v1/explain/{reply.headers['x-meshd-request']}")
    assert [each["node"] for each in story["attempts"]] == ["bert"]
    assert story["state"] == "done"
    assert story["usage"]["prompt_tokens"] == tokens
    assert story["expected"]["output_tokens"] == 0


def test_the_command_line_chats_with_what_chats(mesh: list[Daemon]) -> None:
    """Not with the first of the list, which embeds."""
    rows = {row["name"]: row["tasks"] for row in mesh[0].cli_json("models")["models"]}
    assert rows == MODELS
    assert mesh[0].cli_json("chat", "Hi")["model"] == "demo"
