"""Calls and thoughts in answers, streamed and whole, as the official client reads them."""

import json
from collections.abc import Sequence
from typing import Any

import openai
import pytest
import trio

from meshd.gateway.openai import call_id
from runtimes.base import Chunk, Finished, Logprob, Started
from runtimes.reply_form import ReplyForm
from tests.meshd.gateway.fake_mesh import FakeMesh, Step
from tests.meshd.gateway.official_client import with_client
from tests.meshd.gateway.raw_http import gateway

TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("look", "put")
]
TEXT = (
    "<think>\nWhere?\n</think>\n\nLet me see.\n"
    '<tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "put", "arguments": {}}\n</tool_call>'
)
EAT = '<tool_call>{"name": "eat"}'


def steps(text: str, reason: str = "stop", size: int = 3) -> Sequence[Step]:
    """An answer in pieces of so many characters."""
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    return (
        Started((1,), ReplyForm("hermes", "may")),
        *(Chunk((index,), piece) for index, piece in enumerate(pieces)),
        Finished(reason, 1, len(pieces)),
    )


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_streamed_answer_with_thoughts_content_and_calls(size: int) -> None:
    """The client puts together what the model has written; ids differ."""

    def use(client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], tools=TOOLS, stream=True
        )
        content = thoughts = ""
        calls: list[dict[str, str]] = []
        reasons = []
        for chunk in stream:
            [choice] = chunk.choices
            content += choice.delta.content or ""
            thoughts += getattr(choice.delta, "reasoning_content", "")
            for piece in choice.delta.tool_calls or []:
                assert piece.function is not None
                if piece.index == len(calls):
                    assert (piece.type, piece.function.arguments) == ("function", "")
                    calls.append({"id": piece.id or "", "name": piece.function.name or ""})
                    calls[-1]["arguments"] = ""
                calls[piece.index]["arguments"] += piece.function.arguments or ""
            reasons.append(choice.finish_reason)
        assert (thoughts, content) == ("Where?", "Let me see.")
        assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
            ("look", {"at": "é"}),
            ("put", {}),
        ]
        assert len({call["id"] for call in calls} - {""}) == 2
        assert reasons[-1] == "tool_calls"
        assert set(reasons[:-1]) == {None}

    mesh = FakeMesh(steps(TEXT, size=size))
    with_client(mesh, use)
    [(request, _)] = mesh.requests
    assert [tool.name for tool in request.tools] == ["look", "put"]
    assert request.with_markers


def test_a_whole_answer_with_thoughts_content_and_calls() -> None:
    """The same, in one piece."""

    def use(client: openai.OpenAI) -> None:
        completion = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], tools=TOOLS
        )
        [choice] = completion.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me see."
        assert choice.message.model_extra == {"reasoning_content": "Where?"}
        assert choice.message.tool_calls is not None
        found = []
        for call in choice.message.tool_calls:
            assert call.type == "function"
            found.append((call.function.name, json.loads(call.function.arguments)))
        assert found == [("look", {"at": "é"}), ("put", {})]

    with_client(FakeMesh(steps(TEXT)), use)


def test_values_without_types_get_those_of_the_functions_schema() -> None:
    """Where a model writes them as bare text."""
    schema = {"properties": {"at": {"type": "string"}, "times": {"type": "integer"}}}
    tools: list[Any] = [{"type": "function", "function": {"name": "look", "parameters": schema}}]
    values = "<parameter=at>\n5\n</parameter>\n<parameter=times>\n5\n</parameter>\n"
    text = f"<tool_call>\n<function=look>\n{values}</function>\n</tool_call>"
    started = Started((1,), ReplyForm("qwen_coder"))

    def use(client: openai.OpenAI) -> None:
        completion = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], tools=tools
        )
        [call] = completion.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"at": "5", "times": 5}

    with_client(FakeMesh((started, Chunk((2,), text), Finished("stop", 1, 1))), use)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "reason", "fields", "content", "calls", "told"),
    [
        (TEXT, "length", {"tools": TOOLS}, "Let me see.", 2, "length"),
        ('<tool_call>{"name": "look"}', "stop", {"tools": TOOLS}, None, 1, "tool_calls"),
        (EAT, "stop", {"tools": TOOLS}, EAT, 0, "stop"),
        ('<tool_call>{"name": "look"}', "stop", {}, '<tool_call>{"name": "look"}', 0, "stop"),
        (
            '<tool_call>{"name": "look"}</tool_call><tool_call>{"name": "put"}',
            "stop",
            {"tools": TOOLS, "parallel_tool_calls": False},
            '<tool_call>{"name": "put"}',
            1,
            "tool_calls",
        ),
    ],
)  # fmt: skip
def test_reasons_and_what_is_no_call(
    stream: bool,
    text: str,
    reason: str,
    fields: dict[str, object],
    content: str | None,
    calls: int,
    told: str,
) -> None:
    """A cut stays a cut; what was not offered, or is one too many, is content."""

    async def main() -> None:
        async with gateway(FakeMesh(steps(text, reason))) as running:
            reply = await running.chat(stream=stream, **fields)
            if not stream:
                [choice] = reply.json["choices"]
                message = choice["message"]
                assert message["content"] == content
                assert len(message.get("tool_calls", [])) == calls
                assert choice["finish_reason"] == told
                return
            lines = reply.body.decode().split("\n\n")
            choices = [json.loads(x[6:])["choices"][0] for x in lines if x.startswith("data: {")]
            deltas = [choice["delta"] for choice in choices]
            assert "".join(delta.get("content", "") for delta in deltas) == (content or "")
            pieces = [piece for delta in deltas for piece in delta.get("tool_calls", [])]
            assert len([piece for piece in pieces if "id" in piece]) == calls
            assert choices[-1]["finish_reason"] == told

    trio.run(main)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_each_token_has_its_logprob_once_whatever_it_became(stream: bool, size: int) -> None:
    """Thoughts, content, calls and markers: in order, also where the text waits to be decided."""
    started, *chunks, finished = steps(TEXT, size=size)
    told: list[Step] = []
    for number, chunk in enumerate(chunks):
        assert isinstance(chunk, Chunk)
        likely = Logprob(number, chunk.text.encode(), -0.5)
        told.append(Chunk(chunk.token_ids, chunk.text, ((likely,),)))

    async def main() -> None:
        async with gateway(FakeMesh((started, *told, finished))) as running:
            reply = await running.chat(stream=stream, tools=TOOLS, logprobs=True)
            lines = (
                reply.body.decode().split("\n\n") if stream else [f"data: {reply.body.decode()}"]
            )
            choices = [json.loads(x[6:])["choices"][0] for x in lines if x.startswith("data: {")]
            found = [choice["logprobs"]["content"] for choice in choices if choice["logprobs"]]
            tokens = [bytes(each["bytes"]).decode() for content in found for each in content]
            assert tokens == [chunk.text for chunk in chunks if isinstance(chunk, Chunk)]
            assert choices[-1]["finish_reason"] == "tool_calls"

    trio.run(main)


def test_ids_are_stable_and_of_one_answer() -> None:
    """The same call has the same id; nine letters and digits, as some templates demand."""
    ids = {call_id(request, index) for request in ("ab", "ab1", "b") for index in range(20)}
    assert len(ids) == 60
    assert call_id("ab", 1) == call_id("ab", 1)
    assert all(len(each) == 9 and each.isalnum() and each.isascii() for each in ids)
