"""Several answers to one chat: each a request of its own, told apart by its index."""

import json
from typing import Any

import openai
import pytest
import trio
import trio.testing

from meshd.failures import RequestFailed
from meshd.gateway.limits import Limits
from runtimes.base import Chunk, Finished, Started
from tests.meshd.gateway.fake_mesh import FakeMesh, Step
from tests.meshd.gateway.official_client import with_client
from tests.meshd.gateway.raw_http import chat_bytes, gateway

FAILURE = RequestFailed("interrupted", "The node died.")


def saying(text: str, tokens: int, reason: str = "stop") -> list[Step]:
    """An answer of one chunk to a prompt of three tokens."""
    return [Started((1, 2, 3)), Chunk((1,), text), Finished(reason, 3, tokens, 2)]


def three() -> FakeMesh:
    """One that gives three different answers."""
    others = [saying("two", 20, "length"), saying("three", 30)]
    return FakeMesh(steps=saying("one", 10), others=others)


def test_choices_come_in_order_and_the_prompt_counts_once() -> None:
    """In one piece; each is asked under its own id."""

    async def main() -> None:
        mesh = three()
        async with gateway(mesh) as running:
            reply = await running.chat(n=3, seed=7)
        assert reply.status == 200
        choices = reply.json["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        texts = [choice["message"]["content"] for choice in choices]
        assert sorted(texts) == ["one", "three", "two"]
        assert texts[0] == "one"
        reasons = {choice["message"]["content"]: choice["finish_reason"] for choice in choices}
        assert reasons == {"one": "stop", "two": "length", "three": "stop"}
        usage = reply.json["usage"]
        assert usage["prompt_tokens"] == 3
        assert usage["completion_tokens"] == 60
        assert usage["total_tokens"] == 63
        ids = {options.request_id: request.seed for request, options in mesh.requests}
        first = reply.headers["x-meshd-request"]
        assert ids == {first: 7, f"{first}-1": 8, f"{first}-2": 9}

    trio.run(main)


def test_choices_are_streamed_side_by_side() -> None:
    """Each begins with its role and ends with its reason; counts and [DONE] come once, last."""

    async def main() -> None:
        async with gateway(three()) as running:
            reply = await running.chat(n=3, stream=True, stream_options={"include_usage": True})
        *events, comment, done = reply.body.decode().removesuffix("\n\n").split("\n\n")
        assert done == "data: [DONE]"
        assert comment == ": meshd nodes=bert,bert,bert continuations=0"
        *chunks, counts = [json.loads(event.removeprefix("data: ")) for event in events]
        assert (counts["choices"], counts["usage"]["completion_tokens"]) == ([], 60)
        told: dict[int, list[Any]] = {}
        for chunk in chunks:
            [choice] = chunk["choices"]
            told.setdefault(choice["index"], []).append(choice)
        assert sorted(told) == [0, 1, 2]
        for choices in told.values():
            assert choices[0]["delta"]["role"] == "assistant"
            assert choices[1]["delta"]["content"] in ("one", "two", "three")
            assert [bool(choice["finish_reason"]) for choice in choices] == [False, False, True]

    trio.run(main)


def test_the_official_client_takes_choices() -> None:
    """Whole and streamed."""
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}

    def use(client: openai.OpenAI) -> None:
        whole = client.chat.completions.create(**asked, n=2)
        assert [choice.index for choice in whole.choices] == [0, 1]
        texts = {0: "", 1: ""}
        for chunk in client.chat.completions.create(**asked, n=2, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        assert set(texts.values()) == {whole.choices[0].message.content}

    with_client(FakeMesh(), use)


@pytest.mark.parametrize("stream", [False, True])
def test_the_others_wait_for_the_firsts_prompt(stream: bool) -> None:
    """Only then is it known somewhere."""

    async def main() -> None:
        mesh = three()
        mesh.accept_after = trio.Event()
        async with gateway(mesh) as running:

            async def ask() -> None:
                assert (await running.chat(n=3, stream=stream)).status == 200

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await mesh.entered.wait()
                await trio.testing.wait_all_tasks_blocked()
                assert len(mesh.requests) == 1
                mesh.accept_after.set()
        assert len(mesh.requests) == 3

    trio.run(main)


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_fails_ends_all(stream: bool) -> None:
    """The client is told, and no other goes on."""

    async def main() -> None:
        forever: list[Step] = [Started((1,)), Chunk((1,), "x"), trio.Event()]
        failing: list[Step] = [Started((1,)), Chunk((1,), "y"), FAILURE]
        mesh = FakeMesh(steps=forever, others=[failing, forever])
        async with gateway(mesh) as running:
            reply = await running.chat(n=3, stream=stream)
            assert reply.status == (200 if stream else 502)
            assert b'"code":"interrupted"' in reply.body
            assert b"[DONE]" not in reply.body
            assert mesh.running == 0

    trio.run(main)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_all(stream: bool) -> None:
    """At once."""

    async def main() -> None:
        forever: list[Step] = [Started((1,)), Chunk((1,), "x"), trio.Event()]
        mesh = FakeMesh(steps=forever)
        async with gateway(mesh) as running:
            connection = await running.connect()
            await connection.send_all(chat_bytes(n=4, stream=stream))
            await mesh.entered.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert mesh.running == 4
            await connection.aclose()
            await mesh.left.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert mesh.running == 0

    trio.run(main)


def test_each_choice_takes_a_place() -> None:
    """Of those that a gateway has; all are given back."""

    async def main() -> None:
        async with gateway(FakeMesh(), Limits(requests_max=3)) as running:
            assert (await running.chat(n=4)).status == 503
            assert (await running.chat(n=3)).status == 200
            assert (await running.chat(n=3)).status == 200

    trio.run(main)


def test_calls_of_different_choices_have_different_ids() -> None:
    """An app gives their results back by them."""

    async def main() -> None:
        from runtimes.reply_form import ReplyForm

        call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
        steps: list[Step] = [
            Started((1,), ReplyForm("hermes")),
            Chunk((1,), call),
            Finished("stop", 1, 1),
        ]
        async with gateway(FakeMesh(steps=steps)) as running:
            reply = await running.chat(n=2, tools=[{"type": "function", "function": {"name": "f"}}])
        calls = [choice["message"]["tool_calls"][0] for choice in reply.json["choices"]]
        assert len({call["id"] for call in calls}) == 2

    trio.run(main)
