"""Who tells what lies in its models, and who is asked because of it."""

import dataclasses
import pathlib
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import advertisement, advertiser
from meshd.answer import RequestOptions
from meshd.choosing import HOLDERS_MAX, UNBELIEVED_S, Choosing, Timing
from meshd.prefixes import BLOCK_BYTES, BLOCK_TOKENS, HASHES_MAX, prefixes_of
from protocol.config import SECOND
from protocol.events import OfferChanged
from protocol.identity import NodeId
from runtimes.base import GenerateRequest
from tests.meshd.forwarding_house import House, run
from tests.meshd.long_prompts import LONG, ROOM, chat
from tests.meshd.played_runtime import PlayedRuntime
from tests.meshd.test_advertiser import Offering

# ---- what is told ----


@given(st.lists(st.integers(0, 2**32 - 1), max_size=HASHES_MAX))
def test_hashes_survive_the_way(hashes: list[int]) -> None:
    """As a set."""
    assert advertisement.decode_held(advertisement.encode_held(hashes)) == frozenset(hashes)


@pytest.mark.parametrize("value", [b"", b"abc", bytes(4 * HASHES_MAX + 4)])
def test_nonsense_is_nothing(value: bytes) -> None:
    """As all that others tell."""
    assert advertisement.decode_held(value) == frozenset()


class Telling(Offering):
    """An advertiser whose node tells what lies in its models."""

    def note(self, request: GenerateRequest) -> set[int]:
        """It was answered here; its names."""
        self.advertiser._admitting.held.note(request, 9, 9, ROOM)
        return {each.hash for each in prefixes_of(request)}

    def tell(self, after_s: float) -> None:
        """So long after what it told last."""
        last = max(self.advertiser._held_told.values(), default=0.0)
        self.advertiser._tell_held(last + after_s)

    def told(self, model: str = "m") -> set[int]:
        """What others know."""
        own = self.mesh.id(0)
        return {each for _, hashes in self.view.held([own], model) for each in hashes}

    @property
    def keys(self) -> list[str]:
        """Of its offers that have anything."""
        return list(self.mesh[0].offers.of(self.mesh.id(0)))


def test_a_node_tells_what_lies_in_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, then not too often; and no more when the model is gone."""
    monkeypatch.setattr(advertiser, "LOAD_S", 0.001)
    node = Telling(PlayedRuntime(kept_tokens=ROOM))
    first = node.note(chat("1" + LONG))
    node.run(lambda: bool(node.told()))
    assert node.told() == first
    second = node.note(chat("2" + LONG))
    node.tell(1.0)
    node.advertiser.models_changed()
    assert node.told() == first
    node.tell(advertiser.HELD_S)
    assert node.told() == first | second
    node.set()
    assert node.told() == set()
    assert not [key for key in node.keys if key.startswith(advertisement.HELD_PREFIX)]


def test_in_a_large_mesh_it_is_told_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all of them hear of it."""
    node = Telling(PlayedRuntime(kept_tokens=ROOM))
    node.advertiser.models_changed()
    monkeypatch.setattr(type(node.view), "size", property(lambda view: 500))
    first = node.note(chat("1" + LONG))
    node.tell(0.0)
    node.note(chat("2" + LONG))
    node.tell(500 * advertiser.HELD_S_PER_MEMBER - 1)
    assert node.told() == first
    node.tell(500 * advertiser.HELD_S_PER_MEMBER)
    assert node.told() > first


def test_of_several_models_one_is_told_at_a_time() -> None:
    """The one of which nothing was told for the longest."""
    names = ["a", "b", "c"]
    node = Telling(*(PlayedRuntime(name=name) for name in names))
    node.advertiser.models_changed()
    for turn in range(2):
        for name in names:
            node.note(dataclasses.replace(chat(f"{turn}" + LONG), model=name))
        before = {name: node.told(name) for name in names}
        for name in names:
            node.tell(advertiser.HELD_S)
            changed = [each for each in names if node.told(each) != before[each]]
            assert changed == names[: names.index(name) + 1]


def test_models_come_before_what_lies_in_them() -> None:
    """What is told leaves room, and makes room where it is needed."""
    many = [PlayedRuntime(name=f"{number:03}" + "x" * 60) for number in range(60)]
    node = Telling()
    count = next(n for n in range(1, 60) if not _all_offered(Telling(), many[:n])) - 1
    few = many[: count // 2]
    node.set(*few)
    for runtime in few:
        for number in range(20):
            node.note(dataclasses.replace(chat(f"{number}" + LONG), model=runtime.name))
    for _ in few:
        node.tell(advertiser.HELD_S)
    assert any(key.startswith(advertisement.HELD_PREFIX) for key in node.keys)
    assert _all_offered(node, many[:count])
    node.tell(advertiser.HELD_S)
    assert not [key for key in node.keys if key.startswith(advertisement.HELD_PREFIX)]


def _all_offered(node: Telling, runtimes: list[PlayedRuntime]) -> bool:
    node.set(*runtimes)
    return len(node.models_offered) == len(runtimes)


# ---- who is asked ----


def held_by(house: House, indices: Iterable[int], request: GenerateRequest) -> None:
    """Members tell that this prompt lies in their models."""
    value = advertisement.encode_held([each.hash for each in prefixes_of(request)])
    for index in indices:
        house.mesh.give(index, OfferChanged(advertisement.held_key("m"), value))
    house.mesh.settle()
    house.mesh.advance(5 * SECOND)
    for effect in house.mesh.machines[0].log:
        house.view.note(effect)


def ranked(house: House, request: GenerateRequest) -> dict[str, int]:
    """Who may be asked, and how much of the prompt lies there."""
    options = RequestOptions(request_id="r")
    ranking = house.forwarder._means.candidates.rank(request, options)
    return {house.view.name(each.node): each.held_tokens for each in ranking.ranked}


def test_it_is_known_who_holds_how_much_of_a_prompt(tmp_path: pathlib.Path) -> None:
    """Of its beginning. Of a short prompt, and of one that begins otherwise, nobody holds any."""
    house = House(tmp_path, None, PlayedRuntime(), PlayedRuntime(), PlayedRuntime())
    held_by(house, [2], chat(LONG[: 2 * BLOCK_BYTES]))
    held_by(house, [3], chat(LONG))

    async def test() -> None:
        asked = ranked(house, chat(LONG + "?" * 50))
        assert asked == {"n3": 4 * BLOCK_TOKENS, "n2": 2 * BLOCK_TOKENS, "n1": 0}
        assert set(ranked(house, chat("short")).values()) == {0}
        assert set(ranked(house, chat("other" + LONG)).values()) == {0}

    run(house, test)


def test_all_who_hold_it_count(tmp_path: pathlib.Path) -> None:
    """Where there are more of them than are picked among thousands; this node among them."""
    runtimes = [PlayedRuntime() for _ in range(HOLDERS_MAX + 4)]
    house = House(tmp_path, *runtimes, own=True)
    held_by(house, range(len(runtimes)), chat(LONG))

    async def test() -> None:
        assert set(ranked(house, chat(LONG)).values()) == {4 * BLOCK_TOKENS}

    run(house, test)


def _choosing() -> Choosing:
    return Choosing(random.Random(1), lambda: 0.0)


def test_among_thousands_some_of_them_are_looked_at() -> None:
    """Those who hold most, and of equals not always the same; who draws lots alone would miss
    most of them.
    """
    nodes = [NodeId(number.to_bytes(32, "big")) for number in range(1_000)]
    choosing, options = _choosing(), RequestOptions(request_id="r")
    asked = choosing.look_at(chat(LONG), options)
    held = dict.fromkeys(nodes[::10], 256) | {nodes[5]: 512}
    looks = [set(choosing.considered(nodes, nodes[0], asked, held)) for _ in range(40)]
    assert all(nodes[5] in look for look in looks)
    assert all(len(look & held.keys()) >= HOLDERS_MAX for look in looks)
    assert len({node for look in looks for node in look & held.keys()}) > 60


def timing(**changes: int) -> Timing:
    """Of a prompt of 8,192 tokens, read in 8 s."""
    usual = Timing(prompt_tokens=8_192, first_s=8.192, output_tokens=9, rest_s=1.0, waited_s=1.0)
    return dataclasses.replace(usual, **changes)


def test_who_did_not_hold_it_is_not_believed_for_a_while() -> None:
    """Whatever it tells; who held a part of it is."""
    now, node = 0.0, NodeId(b"a" * 32)
    choosing = Choosing(random.Random(1), lambda: now)
    choosing.answered(node, chat(LONG), timing(held_tokens=4_096, cached_tokens=1_024))
    assert choosing.believes(node)
    choosing.answered(node, chat(LONG), timing(held_tokens=4_096, cached_tokens=1_023))
    assert not choosing.believes(node)
    now = UNBELIEVED_S
    assert choosing.believes(node)


def test_what_was_known_there_makes_no_node_fast() -> None:
    """Its speed is that of what it had to read."""
    node = NodeId(b"a" * 32)
    for cached, first_s in ((0, 8.192), (8_000, 0.192), (8_190, 0.05)):
        choosing = _choosing()
        choosing.answered(node, chat(LONG), timing())
        before = choosing.speed(node, "m")
        again = dataclasses.replace(timing(cached_tokens=cached), first_s=first_s)
        choosing.answered(node, chat(LONG), again)
        assert before is not None
        assert choosing.speed(node, "m") == before
