"""What the beginnings of prompts are called, and which of them are known to lie in a model."""

from contextlib import aclosing

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshd.admitting import Admitting
from meshd.advertisement import encode_held
from meshd.local_models import LocalModels
from meshd.prefixes import (
    BLOCK_BYTES,
    BLOCK_TOKENS,
    HASHES_MAX,
    PROMPTS_MAX,
    HeldPrefixes,
    prefixes_of,
    tokens_held,
)
from protocol.identity import NodeId
from protocol.requester import ANYBODY
from runtimes.base import ChatMessage, Chunk, Finished, GenerateRequest, Started, Tool
from runtimes.embedding import EmbedRequest
from runtimes.images import Image
from tests.meshd.long_prompts import LONG, ROOM, chat, plain
from tests.meshd.played_runtime import PlayedRuntime, Step


def sizes(request: GenerateRequest) -> list[int]:
    """Of its beginnings, in tokens."""
    return [prefix.tokens for prefix in prefixes_of(request)]


def common(one: GenerateRequest, other: GenerateRequest) -> int:
    """How much of one is found where the other lies."""
    return tokens_held(prefixes_of(one), frozenset(each.hash for each in prefixes_of(other)))


# ---- their names ----


def test_a_short_prompt_has_none() -> None:
    """It is rendered anew as soon as it is sent."""
    assert sizes(plain("x" * (BLOCK_BYTES - 1))) == []
    assert sizes(plain("x" * BLOCK_BYTES)) == [BLOCK_TOKENS]
    assert prefixes_of(EmbedRequest(model="m", texts=(LONG,))) == ()


def test_there_are_few_of_a_long_one() -> None:
    """Twice as long each."""
    assert sizes(plain("x" * 9 * BLOCK_BYTES)) == [BLOCK_TOKENS * n for n in (1, 2, 4, 8)]


@given(st.text(max_size=3 * BLOCK_BYTES), st.text(max_size=50), st.text(max_size=50), st.booleans())
def test_what_begins_alike_is_called_alike(begin: str, one: str, other: str, is_chat: bool) -> None:
    """As far as whole blocks are the same, however it goes on."""
    make = chat if is_chat else plain
    first, second = make(begin + one), make(begin + other)
    alike = min(len(prefixes_of(make(begin))), len(prefixes_of(first)), len(prefixes_of(second)))
    assert prefixes_of(first)[:alike] == prefixes_of(second)[:alike]


def test_the_next_turn_begins_with_the_turns_before() -> None:
    """Whatever was answered; another conversation does not."""
    before, after = chat(LONG), chat(LONG, "So it is.", "And then?")
    assert common(after, before) == 4 * BLOCK_TOKENS
    assert common(chat("?" + LONG), before) == 0


def test_the_systems_words_come_before_the_tools() -> None:
    """As most templates write them: what is common in front counts, and nothing else."""
    tools = (Tool(name="f", description=LONG, parameters="{}"),)

    def asked(system: str, tools: tuple[Tool, ...]) -> GenerateRequest:
        turns = (ChatMessage(role="system", content=system), *(chat("Hi").messages or ()))
        return GenerateRequest(model="m", messages=turns, tools=tools)

    assert common(asked(LONG, tools), asked(LONG, ())) == 4 * BLOCK_TOKENS
    assert common(asked("Be kind.", tools), asked("Be brief.", tools)) == 0
    assert common(asked("Be kind.", tools), asked("Be kind.", tools)) == 4 * BLOCK_TOKENS


def test_all_that_is_rendered_in_front_counts() -> None:
    """Roles, tools and images are parts of a prompt."""
    tool = Tool(name="f", parameters="{}")
    image = Image(b"png", 0, 0)
    kinds = [chat(LONG), chat(LONG, tools=(tool,)), chat(LONG, images=(image,)), plain(LONG)]
    kinds.append(GenerateRequest(model="m", messages=(ChatMessage(role="system", content=LONG),)))
    assert len({prefixes_of(each) for each in kinds}) == len(kinds)
    later = chat(LONG, "a", "b", images=(Image(b"png", 2, 0),))
    assert common(later, chat(LONG)) == 4 * BLOCK_TOKENS


# ---- what lies in a model ----


def test_the_newest_that_have_room_are_told() -> None:
    """The oldest go, and one that is asked again is new again."""
    held = HeldPrefixes()
    asked = [chat(f"{number}" + LONG) for number in range(3)]
    for request in (*asked, asked[0]):
        held.note(request, 1_000, 1_000, 2_000)
    wanted = {each.hash for number in (0, 2) for each in prefixes_of(asked[number])}
    assert set(held.hashes("m")) == wanted
    assert held.models == ["m"]
    held.forget("m")
    assert (held.hashes("m"), held.models) == ((), [])


def test_what_has_no_room_is_not_told() -> None:
    """A model that keeps nothing, and a prompt that is too long for it or too short to matter."""
    held = HeldPrefixes()
    held.note(chat(LONG), 1_000, 0, 0)
    held.note(chat(LONG), 1_001, 0, 1_000)
    held.note(chat("short"), 1, 0, 1_000)
    held.note(chat(LONG), 0, 0, 1_000)
    assert held.models == []


def test_what_is_remembered_and_told_is_bounded() -> None:
    """However many prompts there are."""
    held = HeldPrefixes()
    for number in range(3 * PROMPTS_MAX):
        held.note(chat(f"{number}" + LONG), 1, 0, ROOM)
    newest = prefixes_of(chat(f"{3 * PROMPTS_MAX - 1}" + LONG))
    assert len(held.hashes("m")) == HASHES_MAX
    assert {each.hash for each in newest} <= set(held.hashes("m"))
    assert len(held._prompts["m"]) == PROMPTS_MAX
    assert len(encode_held(held.hashes("m"))) == 4 * HASHES_MAX


# ---- what is known to lie there ----


def answered(runtime: PlayedRuntime, *requests: GenerateRequest, until: int = 99) -> Admitting:
    """A node that was asked these; who asks goes away after so many events."""
    admitting = Admitting(LocalModels([runtime]), lambda node: False)

    async def test() -> None:
        for request in requests:
            events = admitting.generate(request, NodeId(b"a" * 32), ANYBODY, 10.0)
            async with aclosing(events):
                left = until
                async for _ in events:
                    left -= 1
                    if not left:
                        break

    trio.run(test)
    return admitting


def changed(admitting: Admitting) -> None:
    """It is told that its models are others than before, or may be."""

    async def test() -> None:
        admitting.models_changed()

    trio.run(test)


def test_what_was_answered_lies_there() -> None:
    """As long as the model does; not what was broken off, nor where nothing stays."""
    whole = answered(PlayedRuntime(kept_tokens=ROOM), chat(LONG))
    assert set(whole.held.hashes("m")) == {each.hash for each in prefixes_of(chat(LONG))}
    changed(whole)
    assert whole.held.hashes("m")
    whole._models._sources.clear()
    changed(whole)
    assert whole.held.models == []
    assert answered(PlayedRuntime(kept_tokens=ROOM), chat(LONG), until=2).held.models == []
    assert answered(PlayedRuntime(), chat(LONG)).held.models == []
    no_counts: list[Step] = [Started(()), Chunk((), "x"), Finished("stop", 0, 0)]
    assert answered(PlayedRuntime(no_counts), chat(LONG)).held.models == []


def test_a_model_that_is_to_be_loaded_again_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was unloaded."""
    admitting = answered(PlayedRuntime(kept_tokens=ROOM), chat(LONG))
    monkeypatch.setattr(LocalModels, "load_s", lambda self, model: 1.0)
    changed(admitting)
    assert admitting.held.models == []


def test_what_is_not_found_again_does_not_lie_there() -> None:
    """A model that had no room, or that cannot use half of what it knows: then only the newest."""
    held = HeldPrefixes()
    held.note(chat(LONG, "a", "b"), 2_000, 0, ROOM)
    held.note(chat("other" + LONG), 2_000, 0, ROOM)
    assert len(held.hashes("m")) == 6
    newest = chat(LONG, "a", "c")
    held.note(newest, 2_000, 255, ROOM)
    assert set(held.hashes("m")) == {each.hash for each in prefixes_of(newest)}


def test_a_conversation_counts_once() -> None:
    """Its earlier turns are its beginning."""
    held = HeldPrefixes()
    held.note(chat("other" + LONG), 1_000, 0, 4_000)
    for tokens, turns in ((1_000, ()), (2_000, ("a", LONG)), (2_900, ("a", LONG, "b", LONG))):
        held.note(chat(LONG, *turns), tokens, tokens, 4_000)
    assert {each.hash for each in prefixes_of(chat("other" + LONG))} <= set(held.hashes("m"))
