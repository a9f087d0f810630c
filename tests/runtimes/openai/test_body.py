"""How a request is worded for an upstream."""

import json

import pytest

from runtimes.base import ChatMessage, GenerateRequest, RuntimeFailure, Tool, ToolCall
from runtimes.openai.body import body_of, path_of


def test_defaults_are_left_out() -> None:
    """A strict upstream sees only what it knows."""
    request = GenerateRequest(model="m", messages=(ChatMessage(role="user", content="é"),))
    assert path_of(request) == "/chat/completions"
    assert json.loads(body_of(request, "id/1")) == {
        "model": "id/1",
        "messages": [{"role": "user", "content": "é"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_everything_that_was_asked_is_named() -> None:
    """By the names of llama-server and vLLM."""
    request = GenerateRequest(
        model="m",
        prompt="Once",
        max_tokens=5,
        temperature=0.0,
        top_p=0.5,
        top_k=0,
        min_p=0.0,
        seed=0,
        stop=("a", "b"),
        ignore_eos=True,
    )
    assert path_of(request) == "/completions"
    assert json.loads(body_of(request, "m")) == {
        "model": "m",
        "prompt": "Once",
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 0,
        "min_p": 0.0,
        "seed": 0,
        "stop": ["a", "b"],
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_sampling_and_form_are_named() -> None:
    """Penalties and biases as OpenAI has them, a schema as its `response_format`."""
    request = GenerateRequest(
        model="m",
        prompt="p",
        presence_penalty=0.5,
        logit_bias=((5, -1.0),),
        json_schema='{"type": "object"}',
    )
    body = json.loads(body_of(request, "m"))
    assert body["presence_penalty"] == 0.5
    assert body["logit_bias"] == {"5": -1.0}
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize(
    "changes",
    [{"json_schema": "{"}, {"continued_ids": (1,)}, {"logprobs": 0}, {"stop_token_ids": (1,)}],
)
def test_what_an_upstream_cannot_be_told_is_a_bad_request(changes: dict[str, object]) -> None:
    """No schema, and tokens that would mean something else there."""
    request = GenerateRequest(model="m", prompt="p", **changes)  # type: ignore[arg-type]  # a test's shorthand
    with pytest.raises(RuntimeFailure) as failed:
        body_of(request, "m")
    assert failed.value.code == "bad_request"


def test_tools_and_turns_with_calls_are_named() -> None:
    """In OpenAI's own shape; an id and a text of arguments stay what they are."""
    call = ToolCall(id="c1", name="look", arguments='{"at": 1')
    request = GenerateRequest(
        model="m",
        messages=(
            ChatMessage(role="user", content="a"),
            ChatMessage(role="assistant", content="", reasoning="hm", tool_calls=(call,)),
            ChatMessage(role="tool", content="r", tool_call_id="c1", name="look"),
        ),
        tools=(Tool(name="look", description="L", parameters='{"type": "object"}'),),
        must_call=True,
        parallel_calls=False,
        with_markers=True,
    )
    said = json.loads(body_of(request, "m"))
    function = {"name": "look", "description": "L", "parameters": {"type": "object"}}
    assert said["tools"] == [{"type": "function", "function": function}]
    assert (said["tool_choice"], said["parallel_tool_calls"]) == ("required", False)
    assert said["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"at": 1'},
                }
            ],
        },
        {"role": "tool", "content": "r", "name": "look", "tool_call_id": "c1"},
    ]
