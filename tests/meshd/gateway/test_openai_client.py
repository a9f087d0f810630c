"""The official `openai` client works unchanged."""

import openai
import pytest

from meshd.failures import RequestFailed
from runtimes.base import Chunk, Started
from tests.meshd.gateway.fake_mesh import FakeMesh
from tests.meshd.gateway.official_client import with_client

TEXT = "Hello \u2028 wörld"


def test_models() -> None:
    """Listed, and retrieved by a name with a slash."""

    def use(client: openai.OpenAI) -> None:
        [model] = client.models.list().data
        assert (model.id, model.owned_by) == ("org/demo", "anna,bert")
        assert client.models.retrieve("org/demo") == model
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("absent")

    with_client(FakeMesh(), use)


def test_chat() -> None:
    """An answer in one piece, with its headers."""

    def use(client: openai.OpenAI) -> None:
        raw = client.chat.completions.with_raw_response.create(
            model="org/demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=5
        )
        assert raw.headers["x-meshd-node"] == "bert"
        completion = raw.parse()
        assert completion.choices[0].message.content == TEXT
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage is not None
        assert completion.usage.total_tokens == 6

    with_client(FakeMesh(), use)


def test_chat_streamed() -> None:
    """Pieces, then the counts; our comment does not disturb."""

    def use(client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(
            model="org/demo",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True, "top_k": 5},
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3
        assert all(chunk.usage is None for chunk in chunks[:-1])

    mesh = FakeMesh()
    with_client(mesh, use)
    [(request, _)] = mesh.requests
    assert (request.ignore_eos, request.top_k) == (True, 5)


def test_error_classes() -> None:
    """Each failure is the class that users of the client catch."""

    def use(client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(
                model="absent", messages=[{"role": "user", "content": "Hi"}]
            )
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as wrong:
            client.chat.completions.create(
                model="org/demo", messages=[{"role": "user", "content": "Hi"}], temperature=-1
            )
        assert wrong.value.param == "temperature"

    with_client(FakeMesh(), use)


def test_unavailable() -> None:
    """A 503 is an InternalServerError with its status and code, streamed or not."""

    def use(client: openai.OpenAI) -> None:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(
                    model="org/demo", messages=[{"role": "user", "content": "Hi"}], stream=stream
                )
            assert (caught.value.status_code, caught.value.code) == (503, "unavailable")

    with_client(FakeMesh(refuse=RequestFailed("unavailable", "No node serves it.")), use)


def test_a_broken_stream_raises() -> None:
    """The error event becomes an APIError after the text that did arrive."""

    def use(client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(
            model="org/demo", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        texts: list[str | None] = []
        with pytest.raises(openai.APIError, match="node died") as caught:
            texts.extend(chunk.choices[0].delta.content for chunk in stream)
        assert caught.value.code == "interrupted"

    steps = (Started((1,)), Chunk((2,), "a"), RequestFailed("interrupted", "The node died."))
    with_client(FakeMesh(steps), use)
