"""How an upstream is asked to go on behind what an assistant's last message has."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from runtimes.base import (
    CONTENT,
    THOUGHTS,
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
        ("llama-server", None, THOUGHTS),
        ("vLLM", None, CONTENT),
        ("Ollama", None, ""),
        ("", None, ""),
        ("Ollama", True, CONTENT),
        ("", True, CONTENT),
        ("llama-server", True, THOUGHTS),
        ("llama-server", False, ""),
        ("vLLM", False, ""),
    ],
)
def test_who_goes_on(software: str, told: bool | None, prefill: str) -> None:
    """What is known of the software, unless its owner knows better."""
    assert prefill_of(software, told) == prefill


def test_it_is_told_so_where_it_understands() -> None:
    """Only where a message is begun; others are asked as ever."""
    assert body(ASK, CONTENT).items() >= TOLD.items()
    not_begun = dataclasses.replace(ASK, messages=(USER,))
    plain = GenerateRequest(model="m", prompt="x")
    for request, prefill in ((not_begun, CONTENT), (plain, CONTENT), (ASK, "")):
        assert not body(request, prefill).keys() & TOLD.keys()


def test_amid_thoughts_only_some_go_on() -> None:
    """Others would answer without the rest of them."""
    begun = ChatMessage(role="assistant", content="", reasoning="Hm")
    request = dataclasses.replace(ASK, messages=(USER, begun))
    [_, last] = body(request, THOUGHTS)["messages"]
    assert (last["content"], last["reasoning_content"]) == ("", "Hm")
    with pytest.raises(RuntimeFailure, match="amid thoughts"):
        body(request, CONTENT)
    with_content = dataclasses.replace(begun, content="One")
    assert body(dataclasses.replace(ASK, messages=(USER, with_content)), CONTENT)


def test_a_real_list_decides() -> None:
    """The owner that it names; what comes is only what is new."""
    text, read, prefill = asked("llamacpp", saying(LONG, ", five", "."))
    assert (text, prefill) == (", five.", THOUGHTS)
    assert read.items() >= TOLD.items()
    text, read, prefill = asked("somebody", saying(", five"))
    assert (text, prefill, read.keys() & TOLD.keys()) == (", five", "", set())
    assert asked("somebody", saying(", five"), continues=True)[2] == CONTENT


# ---- what is said again ----


def new(begun: str, pieces: Sequence[str]) -> str:
    """What is new of an answer."""
    repeated = Repeated(begun)
    return "".join(map(repeated.new, pieces)) + repeated.end()


@pytest.mark.parametrize("said_new", ["", "!", LONG])
@pytest.mark.parametrize("sizes", [(1,), (3, 7), (len(LONG),), (len(LONG) + 1,)])
def test_what_is_repeated_is_left_out(said_new: str, sizes: tuple[int, ...]) -> None:
    """Wherever the pieces are cut, and once only."""
    whole, pieces = LONG + said_new, list[str]()
    for size in itertools.cycle(sizes):
        pieces, whole = [*pieces, whole[:size]], whole[size:]
        if not whole:
            break
    assert new(LONG, pieces) == said_new


def test_what_only_begins_like_it_is_kept() -> None:
    """Every character, also when the answer ends there."""
    assert new(LONG, ["One, ", "two or ", "three"]) == "One, two or three"
    assert new(LONG, ["One, ", "two"]) == "One, two"
    assert new(LONG, [", five", LONG]) == ", five" + LONG


def test_what_is_short_may_be_new() -> None:
    """A model may well say the same word twice."""
    short = "x" * (REPEATED_MIN - 1)
    assert new(short, [short, "y"]) == short + "y"


def taken(begun: ChatMessage, *events: object) -> tuple[str, Finished]:
    """All text of an answer that goes on, and its end."""
    reply = Reply(begun, with_markers=True)
    text = "".join(reply.take(json.dumps(event).encode()) or "" for event in events)
    return text, reply.finished()


END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def test_thoughts_go_on_as_thoughts() -> None:
    """They were opened before, and end here; what is repeated of them is no token."""
    begun = ChatMessage(role="assistant", content="", reasoning=LONG)
    repeated = delta_of({"reasoning_content": LONG})
    more = delta_of({"reasoning_content": " more"})
    wanted = (" more</think>Five", Finished("stop", 0, 2))
    assert taken(begun, repeated, more, said("Five"), END) == wanted
    assert taken(begun, more, said("Five"), END) == wanted


def test_behind_content_no_thoughts_are_written() -> None:
    """They are said before all else, or not at all."""
    begun = ChatMessage(role="assistant", content="One", reasoning="Hm")
    thoughts = delta_of({"reasoning_content": "again"})
    assert taken(begun, thoughts, said(", two"), END)[0] == ", two"


def test_an_answer_that_ends_amid_a_seeming_repetition_is_whole() -> None:
    """What was held comes with the end."""
    begun = ChatMessage(role="assistant", content=LONG)
    assert taken(begun, said("One, "), said("two"), END) == ("One, two", Finished("stop", 0, 1))
