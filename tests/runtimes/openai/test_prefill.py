"""How an upstream is asked to go on behind what an assistant's last message has."""

import dataclasses
import json
from typing import Any

import pytest
import trio

from runtimes.base import (
    ANY,
    CHAT,
    ChatMessage,
    Finished,
    GenerateRequest,
    RuntimeFailure,
)
from runtimes.openai.body import body_of
from runtimes.openai.prefill import REPEATED_MIN, Repeated, prefill_of
from runtimes.openai.reply import Reply
from tests.runtimes.openai.upstream import (
    TIMEOUT_S,
    Upstream,
    delta_of,
    said,
    saying,
    source_served,
)
from tests.runtimes.serving import complete

USER = ChatMessage(role="user", content="Count.")
LONG = "One, two, three, four"
"""Long enough that its repetition is no chance."""
ASK = GenerateRequest(
    model="m", messages=(USER, ChatMessage(role="assistant", content=LONG)), with_markers=True
)
TOLD = {"continue_final_message": True, "add_generation_prompt": False}


def body(request: GenerateRequest, prefill: str) -> dict[str, Any]:
    """What an upstream reads."""
    return dict(json.loads(body_of(request, "m", prefill)))


def asked(owner: str, script: Any, **settings: Any) -> tuple[str, dict[str, Any], str]:  # noqa: ANN401
    """The text that came, what the upstream read, and what its card says."""
    found: list[tuple[str, dict[str, Any], str]] = []

    async def main() -> None:
        upstream = Upstream(script)
        upstream.models = [{"id": "m", "owned_by": owner}]
        with trio.fail_after(TIMEOUT_S):
            async with (
                upstream.running(),
                source_served(upstream.url, **settings) as served,
            ):
                await served.until(lambda: served.names == ["m"])
                runtime = served.source.runtimes[0]
                answer = await complete(runtime, ASK)
                assert runtime.card is not None
                found.append((answer.text, upstream.seen[0].json, runtime.card.prefill))

    trio.run(main)
    return found[0]


@pytest.mark.parametrize(
    ("software", "told", "prefill"),
    [
        ("llama-server", None, ANY),
        ("vLLM", None, ANY),
        ("Ollama", None, ""),
        ("", None, ""),
        ("Ollama", True, CHAT),
        ("", True, CHAT),
        ("llama-server", True, ANY),
        ("llama-server", False, ""),
        ("vLLM", False, ""),
    ],
)
def test_who_goes_on(software: str, told: bool | None, prefill: str) -> None:
    """What is known of the software, unless its owner knows better."""
    assert prefill_of(software, told) == prefill


def test_it_is_told_so_where_it_understands() -> None:
    """Only where something is said in the last message; others are asked as ever."""
    assert body(ASK, CHAT).items() >= TOLD.items()
    not_begun = dataclasses.replace(ASK, messages=(USER,))
    thought = ChatMessage(role="assistant", content="", reasoning="Hm")
    only_thought = dataclasses.replace(ASK, messages=(USER, thought))
    plain = GenerateRequest(model="m", prompt="x")
    for request, prefill in ((not_begun, CHAT), (only_thought, CHAT), (plain, ANY), (ASK, "")):
        assert not body(request, prefill).keys() & TOLD.keys()


def test_a_real_list_decides() -> None:
    """The owner that it names; what comes is only what is new."""
    text, read, prefill = asked("llamacpp", saying(LONG, ", five", "."))
    assert (text, prefill) == (", five.", ANY)
    assert read.items() >= TOLD.items()
    text, read, prefill = asked("somebody", saying(", five"))
    assert (text, prefill, read.keys() & TOLD.keys()) == (", five", "", set())
    assert asked("somebody", saying(", five"), continues=True)[2] == CHAT


# ---- what is said again ----


def new(begun: str, *pieces: str) -> str:
    """What is new of an answer."""
    return "".join(map(Repeated(begun).new, pieces))


@pytest.mark.parametrize("said_new", ["", "!", LONG])
def test_what_is_repeated_is_left_out(said_new: str) -> None:
    """In one piece, as llama-server does it, and once only."""
    assert new(LONG, "", LONG + said_new, LONG) == said_new + LONG


def test_what_only_looks_like_it_is_kept() -> None:
    """Every character: a model that says the same again and again, piece by piece, does so."""
    loop = "----------------"
    assert new(loop, *loop, *loop) == loop * 2
    assert new(LONG, "One, ", "two, three, four") == LONG
    assert new(LONG, ", five", LONG) == ", five" + LONG
    short = "x" * (REPEATED_MIN - 1)
    assert new(short, short, "y") == short + "y"


END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
THOUGHTS = delta_of({"reasoning_content": "again"})


def taken(begun: str, *events: object) -> tuple[str, Finished]:
    """All text of an answer that goes on, and its end."""
    reply = Reply(begun, with_markers=True)
    text = "".join(reply.take(json.dumps(event).encode()) or "" for event in events)
    return text, reply.finished()


def test_behind_content_no_thoughts_are_written() -> None:
    """They are said before all else, or not at all."""
    assert taken("One", THOUGHTS, said(", two"), END)[0] == ", two"
    assert taken("One", said(", two"), THOUGHTS, END)[0] == ", two"
    assert taken("", THOUGHTS, said("One"), END)[0] == "<think>again</think>One"


def test_an_answer_that_only_thinks_anew_does_not_go_on() -> None:
    """Whatever was meant to be said was taken for thoughts; half an answer is no whole one. One
    that has nothing to add is whole.
    """
    with pytest.raises(RuntimeFailure, match="thinks anew"):
        taken("One", THOUGHTS, THOUGHTS, END)
    assert taken("One", END) == ("", Finished("stop", 0, 0))
