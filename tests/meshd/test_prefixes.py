"""What the beginnings of prompts are called, who tells of them, and who is asked because of it."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import advertisement, advertiser
from meshd.answer import RequestOptions
from meshd.prefixes import (
    BLOCK_BYTES,
    BLOCK_TOKENS,
    HASHES_MAX,
    PROMPTS_MAX,
    HeldPrefixes,
    prefixes_of,
    tokens_held,
)
from protocol.config import SECOND
from protocol.events import OfferChanged
from runtimes.base import ChatMessage, GenerateRequest, Tool
from runtimes.embedding import EmbedRequest
from runtimes.images import Image
from tests.meshd.forwarding_house import House, run
from tests.meshd.played_runtime import PlayedRuntime
from tests.meshd.test_advertiser import Offering

LONG = "0123456789abcdef" * 256
"""Four blocks."""
ROOM = 100_000


def plain(text: str) -> GenerateRequest:
    """A plain prompt."""
    return GenerateRequest(model="m", prompt=text)


def chat(
    *said: str, tools: tuple[Tool, ...] = (), images: tuple[Image, ...] = ()
) -> GenerateRequest:
    """A conversation, whose turns alternate."""
    roles = ("user", "assistant")
    turns = (ChatMessage(role=roles[n % 2], content=text) for n, text in enumerate(said))
    return GenerateRequest(model="m", messages=tuple(turns), tools=tools, images=images)


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
        held.note(request, 1_000, 2_000)
    wanted = {each.hash for number in (0, 2) for each in prefixes_of(asked[number])}
    assert set(held.hashes("m")) == wanted
    assert held.models == ["m"]
    held.forget("m")
    assert (held.hashes("m"), held.models) == ((), [])


def test_what_has_no_room_is_not_told() -> None:
    """A model that keeps nothing, and a prompt that is too long for it or too short to matter."""
    held = HeldPrefixes()
    held.note(chat(LONG), 1_000, 0)
    held.note(chat(LONG), 1_001, 1_000)
    held.note(chat("short"), 1, 1_000)
    assert held.models == []


def test_what_is_remembered_and_told_is_bounded() -> None:
    """However many prompts there are."""
    held = HeldPrefixes()
    for number in range(3 * PROMPTS_MAX):
        held.note(chat(f"{number}" + LONG), 1, ROOM)
    newest = prefixes_of(chat(f"{3 * PROMPTS_MAX - 1}" + LONG))
    assert len(held.hashes("m")) == HASHES_MAX
    assert {each.hash for each in newest} <= set(held.hashes("m"))
    assert len(held._prompts["m"]) == PROMPTS_MAX
    assert len(advertisement.encode_held(held.hashes("m"))) == 4 * HASHES_MAX


# ---- what is told ----


@given(st.lists(st.integers(0, 2**32 - 1), max_size=HASHES_MAX))
def test_hashes_survive_the_way(hashes: list[int]) -> None:
    """As a set."""
    assert advertisement.decode_held(advertisement.encode_held(hashes)) == frozenset(hashes)


@pytest.mark.parametrize("value", [b"", b"abc", bytes(4 * HASHES_MAX + 4)])
def test_nonsense_is_nothing(value: bytes) -> None:
    """As all that others tell."""
    assert advertisement.decode_held(value) == frozenset()


def test_a_node_tells_what_lies_in_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, then not too often; and no more when the model is gone."""
    monkeypatch.setattr(advertiser, "LOAD_S", 0.001)
    runtime = PlayedRuntime(kept_tokens=ROOM)
    offering = Offering(runtime)
    own, held = offering.mesh.id(0), offering.advertiser._admitting.held
    first, second = chat("1" + LONG), chat("2" + LONG)
    names = {each.hash for each in prefixes_of(first)}
    held.note(first, 9, ROOM)
    offering.run(lambda: bool(offering.view.held(own, "m")))
    assert offering.view.held(own, "m") == names
    held.note(second, 9, ROOM)
    offering.advertiser._tell_held(offering.advertiser._held_told_at + 1)
    assert offering.view.held(own, "m") == names
    offering.advertiser._tell_held(offering.advertiser._held_told_at + advertiser.HELD_S)
    assert offering.view.held(own, "m") == names | {each.hash for each in prefixes_of(second)}
    offering.set()
    assert offering.view.held(own, "m") == frozenset()
    assert not [key for key in offering.mesh[0].offers.of(own) if key.startswith("held/")]


# ---- who is asked ----


def held_by(house: House, index: int, request: GenerateRequest) -> None:
    """A member tells that this prompt lies in its model."""
    value = advertisement.encode_held([each.hash for each in prefixes_of(request)])
    house.mesh.give(index, OfferChanged(advertisement.held_key("m"), value))
    house.mesh.settle()
    house.mesh.advance(5 * SECOND)
    for effect in house.mesh.machines[0].log:
        house.view.note(effect)


def test_it_is_known_who_holds_how_much_of_a_prompt(tmp_path: pathlib.Path) -> None:
    """Of its beginning. Of a short prompt, and of one that begins otherwise, nobody holds any."""
    house = House(tmp_path, None, PlayedRuntime(), PlayedRuntime(), PlayedRuntime())
    held_by(house, 2, chat(LONG[: 2 * BLOCK_BYTES]))
    held_by(house, 3, chat(LONG))
    options = RequestOptions(request_id="r")

    def ranked(request: GenerateRequest) -> dict[str, int]:
        ranking = house.forwarder._means.candidates.rank(request, options)
        return {house.view.name(each.node): each.held_tokens for each in ranking.ranked}

    async def test() -> None:
        asked = ranked(chat(LONG + "?" * 50))
        assert asked == {"n3": 4 * BLOCK_TOKENS, "n2": 2 * BLOCK_TOKENS, "n1": 0}
        assert set(ranked(chat("short")).values()) == {0}
        assert set(ranked(chat("other" + LONG)).values()) == {0}

    run(house, test)
