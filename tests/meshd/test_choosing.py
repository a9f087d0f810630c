"""What this node learns from its requests, and who is asked next because of it."""

import dataclasses
import random

import pytest

from meshd import choosing as under_test
from meshd.answer import RequestOptions
from meshd.choosing import Choosing, Timing, prompt_estimate
from meshd.trust.api_keys import KeyPolicy, Priority
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.policies import POLICIES
from protocol.routing import Candidate
from protocol.speeds import Speed
from runtimes.base import ChatMessage, GenerateRequest, Request
from runtimes.embedding import EmbedRequest

ONE, TWO = NodeId(b"1" * 32), NodeId(b"2" * 32)
OPTIONS = RequestOptions(request_id="r")


class House:
    """A Choosing with a clock of its own, and two candidates that are alike."""

    def __init__(self, policy: str = "fastest") -> None:
        self.now = 0.0
        self.told: dict[NodeId, Speed] = {}
        self.own: dict[NodeId, int] = {}
        """How many of our requests each has."""
        self.choosing = Choosing(random.Random(1), lambda: self.now, policy)

    def first(self, request: Request, options: RequestOptions = OPTIONS) -> set[NodeId]:
        """Who comes first, over many draws."""
        candidates = [
            Candidate(
                node=node,
                is_alive=True,
                load=Load(0, 0, 4),
                round_trip_ns=1_000_000,
                speed=self.told.get(node),
                own_requests=self.own.get(node, 0),
            )
            for node in (ONE, TWO)
        ]
        asked = self.choosing.look_at(request, options)
        return {self.choosing.rank(candidates, asked)[0].node for _ in range(60)}

    def answered(self, node: NodeId, request: GenerateRequest, *, token_ms: float = 10.0) -> None:
        """It took so long for each token."""
        timing = Timing(
            prompt_tokens=100,
            first_s=token_ms / 10,
            output_tokens=100,
            rest_s=99 * token_ms / 1000,
            waited_s=99 * token_ms / 1000,
        )
        self.choosing.begun(node, request)
        self.choosing.answered(node, request, timing)


def _chat(*texts: str) -> GenerateRequest:
    roles = ("user", "assistant") * len(texts)
    turns = tuple(
        ChatMessage(role=role, content=text) for role, text in zip(roles, texts, strict=False)
    )
    return GenerateRequest(model="m", messages=turns)


def test_who_was_faster_is_asked_first() -> None:
    """Learned of each model apart."""
    house = House()
    assert house.first(_chat("hi")) == {ONE, TWO}
    house.answered(ONE, _chat("a"), token_ms=100.0)
    house.answered(TWO, _chat("b"), token_ms=10.0)
    assert house.first(_chat("hi")) == {TWO}
    assert house.first(GenerateRequest(model="another", prompt="hi")) == {ONE, TWO}


def test_what_a_node_tells_of_its_speed_counts_until_it_was_asked() -> None:
    """Then what was seen does, however it boasts."""
    house = House()
    house.told = {TWO: Speed(10**5, 10**6), ONE: Speed(10**5, 10**7)}
    assert house.first(_chat("hi")) == {TWO}
    house.answered(TWO, _chat("a"), token_ms=100.0)
    assert house.first(_chat("hi")) == {ONE}


def test_who_failed_is_asked_last_for_a_while() -> None:
    """Until it has cooled down, or has answered."""
    house = House()
    house.choosing.refused(ONE)
    assert house.first(_chat("hi")) == {TWO}
    house.now = 11.0
    assert house.first(_chat("hi")) == {ONE, TWO}
    house.choosing.refused(ONE)
    house.answered(ONE, _chat("x"))
    assert ONE in house.first(_chat("hi"))


def test_who_fails_more_often_than_another_is_asked_after_it() -> None:
    """Also when it has cooled down; a refusal for want of room is no failure, and what was long
    ago is forgotten.
    """
    house = House()
    house.choosing.failed(ONE, "m")
    house.choosing.refused(TWO)
    house.now = 11.0
    assert house.first(_chat("hi")) == {TWO}
    assert house.first(GenerateRequest(model="another", prompt="hi")) == {ONE, TWO}
    house.choosing.failed(TWO, "m")
    house.now = 22.0
    assert house.first(_chat("hi")) == {ONE, TWO}
    house.choosing.failed(ONE, "m")
    house.now = 1000.0
    assert house.first(_chat("hi")) == {ONE, TWO}


def test_who_was_not_heard_of_is_asked_after_who_failed() -> None:
    """Whichever was the last one to fail."""
    house = House()
    house.choosing.failed(ONE, "m", is_unreached=True)
    house.choosing.failed(TWO, "m")
    assert house.first(_chat("hi")) == {TWO}
    house.choosing.failed(TWO, "m", is_unreached=True)
    house.choosing.failed(ONE, "m")
    assert house.first(_chat("hi")) == {ONE}


def test_a_conversation_goes_home() -> None:
    """The next turn of a long one is asked where the one before was answered."""
    house = House()
    story = "once upon a time " * 2_000
    house.answered(TWO, _chat(story))
    house.answered(ONE, _chat("x"))
    assert house.first(_chat(story, "the answer", "and then?")) == {TWO}
    assert house.first(_chat(story + "!", "the answer", "and then?")) == {ONE, TWO}
    called = _chat(story, "calls", "of no matter")
    results = tuple(ChatMessage(role="tool", content="r", tool_call_id=i) for i in "ab")
    assert called.messages is not None
    answered = dataclasses.replace(called, messages=(*called.messages[:2], *results))
    assert house.first(answered) == {TWO}, "after calls, too, however many results there are"


def test_a_prompt_that_is_being_answered_goes_where_that_is() -> None:
    """Another answer to the same one, while the first is not done."""
    house = House()
    story = _chat("once upon a time " * 2_000)
    house.choosing.begun(TWO, story)
    assert house.first(story) == {TWO}
    assert house.first(_chat("something else " * 2_000)) == {ONE, TWO}


def test_a_request_may_name_its_policy() -> None:
    """Each by its name; else the node's own."""
    for name in POLICIES:
        options = RequestOptions(request_id="r", ranking=name)
        assert House().first(_chat("hi"), options) <= {ONE, TWO}
    house = House("least_loaded")
    house.answered(ONE, _chat("a"), token_ms=100.0)
    house.answered(TWO, _chat("b"), token_ms=10.0)
    assert house.first(_chat("hi")) == {ONE, TWO}
    fastest = RequestOptions(request_id="r", ranking="fastest")
    assert house.first(_chat("hi"), fastest) == {TWO}


def test_priority_comes_from_the_key() -> None:
    """What is not urgent leaves the fast node alone."""
    house = House("priority_first")
    house.answered(ONE, _chat("a"), token_ms=100.0)
    house.answered(TWO, _chat("b"), token_ms=10.0)
    low = KeyPolicy(name="batch", priority=Priority.LOW)
    assert house.first(_chat("hi"), RequestOptions(request_id="r", policy=low)) == {ONE}
    assert house.first(_chat("hi")) == {TWO}


def test_who_embeds_faster_is_asked_first() -> None:
    """Learned from the whole time; it changes nothing of what answers are expected to take."""
    house = House()
    request = EmbedRequest(model="m", texts=("a" * 4_000,))
    expected = house.choosing.demand(_chat("hi"), OPTIONS).output_tokens
    for node, first_s in ((ONE, 2.0), (TWO, 1.0)):
        timing = Timing(
            prompt_tokens=1_000, first_s=first_s, output_tokens=0, rest_s=0.0, waited_s=0.0
        )
        house.choosing.answered(node, request, timing)
    assert house.first(request) == {TWO}
    assert house.choosing.demand(_chat("hi"), OPTIONS).output_tokens == expected


def test_texts_are_as_large_as_all_of_them() -> None:
    """With the query beside each; token ids are counted."""
    assert prompt_estimate(EmbedRequest(model="m", texts=("a" * 40, "b" * 40))) == 21
    assert prompt_estimate(EmbedRequest(model="m", texts=("a", "b"), query="c" * 39)) == 21
    assert prompt_estimate(EmbedRequest(model="m", token_ids=((1, 2), (3,)))) == 4


def test_a_query_is_measured_once_for_all_its_texts() -> None:
    """A long one beside thousands of texts would hold up the whole node."""

    class Query(str):
        encoded = 0

        def encode(self, *how: str) -> bytes:
            type(self).encoded += 1
            return super().encode(*how)

    request = EmbedRequest(model="m", texts=("a",) * 2_048, query=Query("é" * 20))
    assert prompt_estimate(request) == 2_048 * 41 // 4 + 1
    assert Query.encoded == 1


def test_who_answers_nothing_is_not_believed_to_be_fast() -> None:
    """More of our requests than slots wait there: what it tells of its speed counts no more."""
    house = House()
    house.told = {TWO: Speed(1_000, 1_000)}
    house.answered(ONE, _chat("a"))
    assert house.first(_chat("hi")) == {TWO}
    house.own = {TWO: 4}
    assert house.first(_chat("hi")) == {TWO}, "each slot may have one"
    house.own = {TWO: 5}
    assert house.first(_chat("hi")) == {ONE}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes."""
    for table in ("FAILURES_MAX", "CONVERSATIONS_MAX", "SERVED_MAX"):
        monkeypatch.setattr(under_test, table, 2)
    house = House()
    for number in range(5):
        node = NodeId(bytes((number,)) * 32)
        house.answered(node, _chat(str(number)))
        house.choosing.failed(node, "m")
    remembered = house.choosing._failed, house.choosing._homes, house.choosing._served
    assert [len(table) for table in remembered] == [2, 2, 2]
