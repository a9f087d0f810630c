"""Completions of a text: bodies, answers, and what is refused; the official client throughout."""

import json
from typing import Any

import openai
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion

from meshd.failures import RequestFailed
from meshd.gateway.completion import TokenTable
from meshd.gateway.completion_request import MAX_TOKENS, parse_completion
from meshd.gateway.errors import Refusal, meaning
from meshd.gateway.generate_call import GenerateCall
from runtimes.base import Chunk, Finished, GenerateRequest, Logprob, Started
from tests.meshd.gateway.fake_mesh import HELLO, FakeMesh, Step
from tests.meshd.gateway.official_client import with_client
from tests.meshd.gateway.raw_http import gateway

TEXT = "Hello \u2028 wörld"
A, B = Logprob(2, b"a", -0.5), Logprob(3, b"b", -1.5)
HALF, REST, END = Logprob(4, b"\xc3", -0.25), Logprob(5, b"\xbc", -0.125), Logprob(9, b"", -0.1)
LIKELY: tuple[Step, ...] = (
    Started((1,)),
    Chunk((2,), "a", ((A, A, B),)),
    Chunk((4,), "", ((HALF, A, B),)),
    Chunk((5, 9), "ü", ((REST, REST, B), (END, END, A))),
    Finished("stop", 1, 4),
)


def body(**fields: object) -> bytes:
    """A valid body that differs in `fields`."""
    return json.dumps({"model": "org/demo", "prompt": "Once", **fields}).encode()


def in_pieces(client: openai.OpenAI, *, stream: bool, **asked: Any) -> list[Completion]:  # noqa: ANN401  # any field
    """A streamed answer's pieces, or the one that it is."""
    if stream:
        return list(client.completions.create(**asked, stream=True))
    return [client.completions.create(**asked)]


def test_a_completion_in_one_piece() -> None:
    """Text, reason, usage, headers; and the mesh was asked for what the client asked."""

    def use(client: openai.OpenAI) -> None:
        raw = client.completions.with_raw_response.create(
            model="org/demo",
            prompt=["Once upon"],
            max_tokens=7,
            temperature=0.5,
            stop=["x"],
            extra_body={"top_k": 3},
        )
        assert raw.headers["x-meshd-node"] == "bert"
        completion = raw.parse()
        assert completion.id == f"cmpl-{raw.headers['x-meshd-request']}"
        assert (completion.object, completion.model) == ("text_completion", "org/demo")
        [choice] = completion.choices
        assert (choice.index, choice.text, choice.finish_reason) == (0, TEXT, "stop")
        assert choice.logprobs is None
        assert completion.usage is not None
        assert completion.usage.total_tokens == 6

    mesh = FakeMesh()
    with_client(mesh, use)
    [(request, _)] = mesh.requests
    assert request == GenerateRequest(
        model="org/demo", prompt="Once upon", max_tokens=7, temperature=0.5, stop=("x",), top_k=3
    )


def test_a_streamed_completion() -> None:
    """Its text in pieces, then the reason, then the counts."""

    def use(client: openai.OpenAI) -> None:
        stream = client.completions.create(
            model="org/demo", prompt="Hi", stream=True, stream_options={"include_usage": True}
        )
        *pieces, counts = stream
        assert "".join(piece.choices[0].text for piece in pieces) == TEXT
        assert [piece.choices[0].finish_reason for piece in pieces] == [None, None, "stop"]
        assert counts.choices == []
        assert counts.usage is not None
        assert counts.usage.completion_tokens == 3

    with_client(FakeMesh(), use)


@pytest.mark.parametrize("stream", [False, True])
def test_several_completions_are_told_apart(stream: bool) -> None:
    """Each by its index, and asked as a request of its own; `best_of` may say the same."""

    def use(client: openai.OpenAI) -> None:
        asked: dict[str, Any] = {"model": "org/demo", "prompt": "Hi", "n": 2, "best_of": 2}
        pieces = in_pieces(client, stream=stream, **asked)
        texts = {0: "", 1: ""}
        for piece in pieces:
            for choice in piece.choices:
                texts[choice.index] += choice.text
        assert texts == {0: TEXT, 1: "other"}

    other: list[Step] = [Started((1, 2, 3)), Chunk((1,), "other"), Finished("stop", 3, 1)]
    mesh = FakeMesh(HELLO, others=[other])
    with_client(mesh, use)
    assert [request.prompt for request, _ in mesh.requests] == ["Hi", "Hi"]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_lists_of_tokens(stream: bool) -> None:
    """With the likeliest in place of each and where it is in the text, in whatever pieces; a
    token without text has none.
    """
    top = [{"a": -0.5, "b": -1.5}, {"\ufffd": -0.25, "a": -0.5, "b": -1.5}, {"\ufffd": -0.125}]

    def use(client: openai.OpenAI) -> None:
        asked: dict[str, Any] = {"model": "org/demo", "prompt": "Hi", "logprobs": 2}
        pieces = in_pieces(client, stream=stream, **asked)
        told = [piece.choices[0].logprobs for piece in pieces if piece.choices[0].logprobs]
        assert [each for some in told for each in some.tokens or ()] == ["a", "\ufffd", "\ufffd"]
        values = [each for some in told for each in some.token_logprobs or ()]
        assert values == [-0.5, -0.25, -0.125]
        assert [each for some in told for each in some.text_offset or ()] == [0, 1, 1]
        likeliest = [each for some in told for each in some.top_logprobs or ()]
        assert likeliest == [*top[:2], {"\ufffd": -0.125, "b": -1.5}]

    mesh = FakeMesh(LIKELY)
    with_client(mesh, use)
    assert mesh.requests[0][0].logprobs == 2


def test_logprobs_alone_have_no_likeliest() -> None:
    """`logprobs: 0` asks for those of the tokens that came."""
    told = TokenTable().rows([(A,), (B,)])
    assert told is not None
    assert told["top_logprobs"] is None
    assert told["token_logprobs"] == [-0.5, -1.5]


def test_the_least_body_takes_the_dialects_defaults() -> None:
    """16 tokens, unlike a chat; no markers of thoughts in the text."""
    [request] = parse_completion(body()).requests
    assert request == GenerateRequest(model="org/demo", prompt="Once", max_tokens=MAX_TOKENS)
    assert MAX_TOKENS == 16


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": None}, "prompt", "valid string"),
        ({"prompt": ["a", "b"]}, "prompt", "several texts"),
        ({"prompt": [1, 2]}, "prompt", "token ids"),
        ({"prompt": [[1, 2]]}, "prompt", "token ids"),
        ({"prompt": []}, "prompt", "must be a text"),
        ({"prompt": "a\0"}, "prompt", "U+0000"),
        ({"suffix": "end"}, "suffix", "not supported"),
        ({"echo": True}, "echo", "not supported"),
        ({"best_of": 3}, "best_of", "not supported"),
        ({"best_of": 3, "n": 2}, "best_of", "not supported"),
        ({"n": 9}, "n", "less than or equal to 8"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"logprobs": True}, "logprobs", "integer"),
        ({"grammar": "root ::= a", "json_schema": {}}, "grammar", "only one"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    fields: dict[str, object], param: str, words: str
) -> None:
    """In one line, as in a chat."""
    with pytest.raises(Refusal, match=words.replace("+", r"\+")) as caught:
        parse_completion(body(**fields))
    assert caught.value.param == param
    assert meaning(caught.value).status == 400
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("fields", [{"suffix": ""}, {"echo": False}, {"best_of": 1}, {"n": None}])
def test_what_asks_for_nothing_is_harmless(fields: dict[str, object]) -> None:
    """Clients send defaults of their own."""
    assert parse_completion(body(**fields)).requests[0].prompt == "Once"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["model", "prompt", "logprobs", "best_of", "echo", "suffix", "n", "stop"])


def outcome(data: bytes) -> GenerateCall | Refusal:
    """What the parser makes of `data`; any other exception goes on."""
    try:
        return parse_completion(data)
    except Refusal as refusal:
        return refusal


@settings(deadline=None)
@given(st.dictionaries(FIELDS, JSON))
def test_any_json_is_a_request_or_a_refusal(fields: dict[str, Any]) -> None:
    """Nothing but Refusal leaves the parser."""
    met = outcome(body(**fields))
    if isinstance(met, Refusal):
        assert meaning(met).status == 400
    else:
        assert isinstance(met.requests[0].prompt, str)


def test_failures_are_those_of_a_chat() -> None:
    """Their own status before the first text, the stream's last event after it; demands alike."""

    async def main() -> None:
        mesh = FakeMesh(refuse=RequestFailed("queue_full", "All busy.", retry_after_s=3.0))
        async with gateway(mesh) as running:
            reply = await running.ask("POST", "/v1/completions", body())
            assert (reply.status, reply.headers["retry-after"]) == (503, "3")
            mesh.refuse = None
            mesh.steps = [*HELLO[:2], RequestFailed("interrupted", "The node died.")]
            reply = await running.ask("POST", "/v1/completions", body(stream=True))
            assert reply.status == 200
            assert b"[DONE]" not in reply.body
            assert b'"code":"interrupted"' in reply.body
            reply = await running.ask("GET", "/v1/completions")
            assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
            reply = await running.ask("POST", "/v1/completions", body(), x_meshd_policy="best")
            assert (reply.status, reply.error["param"]) == (400, "x-meshd-policy")

    trio.run(main)
