"""Bodies of the OpenAI dialect: what is read, what is refused, and that nothing else happens."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshd.gateway.errors import Refusal, meaning
from meshd.gateway.generate_call import GenerateCall
from meshd.gateway.openai_request import MESSAGES_MAX, VALUES_MAX, parse_chat
from runtimes.base import ChatMessage, GenerateRequest

HI = [{"role": "user", "content": "Hi"}]


def body(**fields: object) -> bytes:
    """A valid chat body that differs in `fields`."""
    return json.dumps({"model": "m", "messages": HI, **fields}).encode()


def refusal(data: bytes) -> Refusal:
    """The refusal that `data` meets."""
    with pytest.raises(Refusal) as caught:
        parse_chat(data)
    assert meaning(caught.value).status == 400
    return caught.value


def test_the_least_body_takes_the_defaults() -> None:
    """Absent fields keep GenerateRequest's own defaults; nothing is streamed."""
    call = parse_chat(body())
    assert call.requests[0] == GenerateRequest(
        model="m", messages=(ChatMessage(role="user", content="Hi"),), with_markers=True
    )
    assert (call.stream, call.with_usage) == (False, False)


def test_every_field_arrives() -> None:
    """Each supported field ends up where it belongs."""
    call = parse_chat(
        body(
            messages=[{"role": "developer", "content": "Be brief."}, *HI],
            max_completion_tokens=7,
            max_tokens=9,
            temperature=0,
            top_p=0.5,
            top_k=0,
            min_p=0.25,
            seed=-5,
            stop=["a", "b"],
            stop_token_ids=[5, 6],
            ignore_eos=True,
            stream=True,
            stream_options={"include_usage": True},
            n=1,
            user="someone",
        )
    )
    assert call.requests[0] == GenerateRequest(
        model="m",
        messages=(
            ChatMessage(role="system", content="Be brief."),
            ChatMessage(role="user", content="Hi"),
        ),
        max_tokens=7,
        temperature=0,
        top_p=0.5,
        top_k=0,
        min_p=0.25,
        seed=2**63 - 5,
        stop=("a", "b"),
        stop_token_ids=(5, 6),
        ignore_eos=True,
        with_markers=True,
    )
    assert (call.stream, call.with_usage) == (True, True)


def test_each_choice_has_a_seed_of_its_own() -> None:
    """Behind the one that is given; without one each draws its own."""

    def seeds(**fields: object) -> list[int | None]:
        first, *others = parse_chat(body(**fields)).requests
        assert all(dataclasses.replace(other, seed=first.seed) == first for other in others)
        return [request.seed for request in (first, *others)]

    assert seeds(n=3, seed=5) == [5, 6, 7]
    assert seeds(n=2, seed=-1) == [2**63 - 1, 0]
    assert seeds(n=8) == [None] * 8
    assert seeds(n=1, seed=5) == seeds(n=None, seed=5) == [5]


def test_text_parts_are_joined_and_one_stop_is_a_list_of_one() -> None:
    """The two fields with two spellings mean the same in both."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = parse_chat(body(messages=[{"role": "user", "content": parts}], stop="x")).requests[0]
    assert request.messages == (ChatMessage(role="user", content="a\nb"),)
    assert request.stop == ("x",)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tool_choice": "none"},
        {"tool_choice": "auto", "tools": None, "parallel_tool_calls": True},
        {"response_format": {"type": "text"}},
        {"logprobs": False, "top_logprobs": 0},
        {"modalities": ["text"]},
        {"frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}},
        {"grammar": "", "json_schema": None, "logit_bias": None, "repeat_penalty": 1},
        {"n": None, "stop": None, "seed": None, "temperature": None, "stream_options": None},
        {"metadata": {"a": 1}, "store": True, "anything": [1, {"b": None}]},
    ],
)
def test_fields_that_ask_for_nothing_are_ignored(fields: dict[str, object]) -> None:
    """Null, empty and unknown fields change nothing."""
    assert parse_chat(body(**fields)) == parse_chat(body())


def test_sampling_and_form_arrive() -> None:
    """Penalties, biases, grammars and schemas, in each of the dialects."""
    request = parse_chat(
        body(
            typical_p=0.9,
            repeat_penalty=1.1,
            presence_penalty=-2,
            frequency_penalty=0.5,
            logit_bias={"5": -100, "0": 2.5},
            grammar='root ::= "a"',
        )
    ).requests[0]
    assert (request.typical_p, request.repeat_penalty) == (0.9, 1.1)
    assert (request.presence_penalty, request.frequency_penalty) == (-2.0, 0.5)
    assert request.logit_bias == ((5, -100.0), (0, 2.5))
    assert (request.grammar, request.json_schema) == ('root ::= "a"', None)
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    for fields in (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
        {"response_format": {"type": "json_object", "schema": schema}},
        {"json_schema": schema},
    ):
        assert json.loads(parse_chat(body(**fields)).requests[0].json_schema or "") == schema
    plain = parse_chat(body(response_format={"type": "json_object"})).requests[0]
    assert json.loads(plain.json_schema or "") == {"type": "object"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("presence_penalty", 2.1),
        ("frequency_penalty", "much"),
        ("repeat_penalty", 0),
        ("typical_p", -0.1),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": True}),
        ("logit_bias", {"99999999999": 1}),
        ("logit_bias", {str(token): 1 for token in range(1025)}),
        ("logit_bias", 5),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", "json"),
        ("json_schema", [1]),
        ("json_schema", {"a": "x" * 70_000}),
        ("grammar", "x" * 70_000),
        ("grammar", "a\0b"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_by_name(field: str, value: object) -> None:
    """Types, bounds and unknown forms: a bad request that names the field."""
    failure = refusal(body(**{field: value}))
    assert failure.param is not None
    assert failure.param.split(".")[0] == field
    assert meaning(failure).status == 400


def test_only_one_form_can_be_kept() -> None:
    """A grammar beside a schema would be two answers."""
    failure = refusal(body(grammar="x", response_format={"type": "json_object"}))
    assert failure.code == "bad_request"


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_logprobs_are_asked_for(fields: dict[str, object], asked: int | None) -> None:
    """OpenAI's two fields are one number here."""
    assert parse_chat(body(**fields)).requests[0].logprobs == asked


@pytest.mark.parametrize(
    "fields", [{"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 21}, {"logprobs": 2}]
)
def test_logprobs_that_cannot_be_are_refused(fields: dict[str, object]) -> None:
    """More than the dialect allows, or the number without the switch."""
    assert refusal(body(**fields)).code == "bad_request"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("audio", {"voice": "a"}),
        ("modalities", ["text", "audio"]),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(field: str, value: object) -> None:
    """A field that is not there yet is never silently ignored."""
    failure = refusal(body(**{field: value}))
    assert failure.param == field
    assert field in failure.message
    assert meaning(failure).code == "unsupported_parameter"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": HI * (MESSAGES_MAX + 1)}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [*HI, "Hi"]}, "messages[1]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "Ü", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "messages[0].tool_calls[0].function",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ""}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
        ({"stop_token_ids": 5}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
    ],
)
def test_wrong_values_are_refused_with_the_place(fields: dict[str, object], param: str) -> None:
    """Types and bounds are checked, and the error names the field."""
    failure = refusal(body(**fields))
    assert failure.param == param
    assert param in failure.message


def test_other_kinds_of_parts_are_named() -> None:
    """A sound says that it is not supported."""
    parts = [{"type": "input_audio", "input_audio": {"data": ""}}]
    failure = refusal(body(messages=[{"role": "user", "content": parts}]))
    assert "input_audio" in failure.message
    assert meaning(failure).code == "unsupported_parameter"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b'{"model": "\\ud800", "messages": []}',
        b'{"model": "m", "n": ' + b"9" * 100_000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    """Truncated, nested beyond reason, not UTF-8, lone surrogates, endless numbers: all 400."""
    refusal(data)


@pytest.mark.parametrize("filler", [b"[],", b"0,", b'"",', b'"",[],'])
def test_a_body_may_hold_only_so_many_values(filler: bytes) -> None:
    """What costs far more memory than its bytes is refused before it is parsed."""
    data = b'{"model":"m","x":[' + filler * (VALUES_MAX + 1) + b"0]}"
    assert str(VALUES_MAX) in refusal(data).message


def test_long_text_full_of_separators_is_no_bomb() -> None:
    """Only what lies outside of strings counts as values."""
    text = '[{,"}]' * VALUES_MAX
    request = parse_chat(body(messages=[{"role": "user", "content": text}])).requests[0]
    assert request.messages == (ChatMessage(role="user", content=text),)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "n",
        "user",
        "tools",
        "logprobs",
        "top_logprobs",
        "modalities",
        "audio",
    ]
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), JSON | st.just("user"))
    | JSON
)


def outcome(data: bytes) -> GenerateCall | Refusal:
    """What the parser makes of `data`; any other exception goes on."""
    try:
        return parse_chat(data)
    except Refusal as failure:
        return failure


@settings(deadline=None)
@given(st.binary())
@example(b'{"model":"m","messages":[{"role":"user","content":"\\u0000"}]}')
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    """Nothing but Refusal leaves the parser, whatever the bytes."""
    met = outcome(data)
    assert isinstance(met, GenerateCall) or meaning(met).status == 400


@settings(deadline=None)
@given(st.dictionaries(FIELDS, JSON), MESSAGES)
def test_any_json_is_a_request_or_a_refusal(fields: dict[str, Any], messages: list[Any]) -> None:
    """The same for bytes that are JSON and nearly right."""
    data = json.dumps({"model": "m", "messages": messages, **fields}).encode()
    met = outcome(data)
    if isinstance(met, Refusal):
        assert meaning(met).status == 400
        assert met.message
    else:
        assert met.requests[0].messages
        assert all("\0" not in message.content for message in met.requests[0].messages)
