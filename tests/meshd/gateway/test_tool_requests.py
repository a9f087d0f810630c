"""Tools, calls and their results in bodies of the OpenAI dialect."""

import json
from typing import Any

import pytest

from meshd.gateway.errors import Refusal, meaning
from meshd.gateway.openai_request import parse_chat
from runtimes import limits
from runtimes.base import ChatMessage, GenerateRequest, Tool, ToolCall
from runtimes.limits import check_request

HI = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
LOOK = {"type": "function", "function": {"name": "look", "description": "L", "parameters": SCHEMA}}
PUT = {"type": "function", "function": {"name": "put", "strict": True}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "there", "tool_call_id": "c1", "name": "look"}
NAMED = {"type": "function", "function": {"name": "put"}}


def parse(**fields: object) -> GenerateRequest:
    """The request in a body that differs in `fields`."""
    body = {"model": "m", "messages": [HI], **fields}
    return parse_chat(json.dumps(body).encode()).requests[0]


def test_tools_arrive() -> None:
    """Names, descriptions, and schemas as JSON text; without one, an object of anything."""
    look, put = parse(tools=[LOOK, PUT]).tools
    assert (look.name, look.description, json.loads(look.parameters)) == ("look", "L", SCHEMA)
    assert put == Tool(name="put", parameters='{"type": "object", "properties": {}}')


@pytest.mark.parametrize(
    ("choice", "names", "must_call"),
    [
        (None, ["look", "put"], False),
        ("auto", ["look", "put"], False),
        ("none", [], False),
        ("required", ["look", "put"], True),
        (NAMED, ["put"], True),
    ],
)
def test_what_may_and_must_be_called(choice: object, names: list[str], must_call: bool) -> None:
    """A function that is named is the only one that the model knows of; `none`: it knows none."""
    request = parse(tools=[LOOK, PUT], tool_choice=choice)
    assert [tool.name for tool in request.tools] == names
    assert request.must_call == must_call
    check_request(request)


def test_one_call_or_several() -> None:
    """Several, unless it is said otherwise."""
    assert parse(tools=[LOOK]).parallel_calls
    assert not parse(tools=[LOOK], parallel_tool_calls=False).parallel_calls


def test_turns_with_calls_arrive() -> None:
    """Calls, results and thoughts; a call needs no content."""
    thinking = {"role": "assistant", "content": "Hm.", "reasoning_content": "So?", "name": "x"}
    request = parse(messages=[HI, CALLED, RESULT, thinking, {**HI, "reasoning_content": "?"}])
    call = ToolCall(id="c1", name="look", arguments='{"at": 1}')
    assert request.messages == (
        ChatMessage(role="user", content="Hi"),
        ChatMessage(role="assistant", content="", tool_calls=(call,)),
        ChatMessage(role="tool", content="there", tool_call_id="c1", name="look"),
        ChatMessage(role="assistant", content="Hm.", reasoning="So?"),
        ChatMessage(role="user", content="Hi"),
    )
    check_request(request)


LONG = "x" * 70_000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": "x"}, "tools[0]"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "x\n"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": LONG}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]},
            "tools[0].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": LONG}}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [LOOK, LOOK]}, "tools"),
        ({"tools": [PUT] * (limits.TOOLS_MAX + 1)}, "tools"),
        ({"tools": [LOOK], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": 5}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": ["auto"]}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": NAMED}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [LOOK], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [LOOK], "grammar": 'root ::= "a"'}, "grammar"),
        ({"messages": [HI, CALLED]}, "messages"),
        ({"messages": [{**CALLED, "role": "user"}, RESULT]}, "messages[0].tool_calls"),
        ({"messages": [{**CALLED, "tool_calls": []}, RESULT]}, "messages[0].content"),
        ({"messages": [{**CALLED, "tool_calls": [CALL] * 129}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{**RESULT, "tool_call_id": LONG}]}, "messages[0].tool_call_id"),
        ({"messages": [{**RESULT, "content": None}]}, "messages[0].content"),
        (
            {"messages": [{**CALLED, "tool_calls": [{"id": "1", "function": {"name": ""}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """A 400 that names the place."""
    with pytest.raises(Refusal) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert meaning(caught.value).status == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "assistant", "content": "x", "function_call": {"name": "f"}}]},
            "messages[0].function_call",
        ),
    ],
)
def test_other_tools_and_the_old_way_are_not_there(fields: dict[str, Any], param: str) -> None:
    """They are unsupported, by name."""
    with pytest.raises(Refusal) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert meaning(caught.value).code == "unsupported_parameter"
