"""Asking a second node when the first one is late: who answers, and what becomes of the other."""

import dataclasses
import pathlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd.answer import RequestOptions
from meshd.hedging import LATE_FACTOR, LATE_S_MIN, Run, first_to_begin, late_s
from meshd.story import Try
from protocol.config import SECOND
from protocol.exchange import Ask, Refuse, encode_frame
from protocol.expectation import Demand
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.routing import Candidate
from protocol.speeds import Speed
from runtimes.base import Chunk, GenerateEvent, Request, RuntimeFailure, Started
from tests.meshd.forwarding_house import (
    CHUNK,
    END,
    FOREVER,
    REQUEST,
    STARTED,
    House,
    answering,
    failing,
    run,
)
from tests.meshd.members import until
from tests.meshd.played_runtime import HELLO, PIECES, PlayedRuntime, Step, TellingRuntime

CANDIDATE = Candidate(node=NodeId(b"a" * 32), is_alive=True, load=Load(0, 0, 4))
IDLE = dataclasses.replace(CANDIDATE, node=NodeId(b"b" * 32))


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything is late, where there is a second."""
    late_s = 0.05
    monkeypatch.setattr(
        "meshd.forwarding.late_s", lambda ranked, demand: late_s if len(ranked) > 1 else None
    )


def _attempts(house: House) -> list[Any]:
    story = house.forwarder.stories.find("ab")
    assert story is not None
    return list(story.told(trio.current_time())["attempts"])


def test_the_second_answers_when_the_first_is_late(tmp_path: pathlib.Path) -> None:
    """Every event once, by the second; the first one's run is ended over there."""
    slow = PlayedRuntime([Started((7,)), FOREVER])
    house = House(tmp_path, None, slow, PlayedRuntime())

    async def test() -> None:
        assert await house.ask(hedge=True) == ("n2", list(HELLO))
        await until(lambda: not slow.running)
        late, fast = _attempts(house)
        assert (late["node"], late["failure"]["code"], late["tokens"]) == ("n1", "overtaken", 0)
        assert (fast["node"], fast["failure"]) == ("n2", None)
        assert late["ended_s"] is not None

    run(house, test)


def test_who_is_in_time_answers_alone(tmp_path: pathlib.Path) -> None:
    """And so does the first one that is late, but still before the second."""
    asked: list[Ask] = []
    late = answering(0.2, STARTED, CHUNK, END)
    for name, first, others in (
        ("brisk", answering(STARTED, CHUNK, END), 0),
        ("late", late, 1),
    ):
        asked.clear()
        house = House(tmp_path / name, None, first, answering(FOREVER, asked=asked))

        async def test(house: House = house, others: int = others) -> None:
            node, events = await house.ask(hedge=True)
            assert (node, len(events), len(asked)) == ("n1", 3, others)

        run(house, test)


def test_only_who_asks_for_it_is_hedged(tmp_path: pathlib.Path) -> None:
    """Without the header a late node is waited for."""
    asked: list[Ask] = []
    house = House(
        tmp_path, None, answering(0.2, STARTED, CHUNK, END), answering(FOREVER, asked=asked)
    )

    async def test() -> None:
        assert (await house.ask())[0] == "n1"
        assert not asked

    run(house, test)


def test_one_that_fails_leaves_it_to_the_other(tmp_path: pathlib.Path) -> None:
    """The first or the second, with whatever it says."""
    refused = encode_frame(Refuse("bad_request", "no", 0, Load(0, 0, 1)))
    slow, late_refusal = answering(0.3, STARTED, CHUNK, END), answering(0.15, refused)
    for name, handlers, node in (
        ("first", (late_refusal, slow), "n2"),
        ("second", (slow, answering(refused)), "n1"),
    ):
        house = House(tmp_path / name, None, *handlers)

        async def test(house: House = house, node: str = node) -> None:
            assert (await house.ask(hedge=True))[0] == node
            failures = {each["node"]: each["failure"] for each in _attempts(house)}
            assert failures.pop(node) is None
            assert [failure["code"] for failure in failures.values()] == ["bad_request"]

        run(house, test)


def test_when_both_fail_the_next_is_asked(tmp_path: pathlib.Path) -> None:
    """Both are named, and neither is asked again."""
    full = RuntimeFailure("queue_full", "full up")
    late = PlayedRuntime([0.2, full])
    third = House(tmp_path / "third", None, late, PlayedRuntime([full]), PlayedRuntime())

    async def test() -> None:
        assert (await third.ask(hedge=True))[0] == "n3"
        assert len(_attempts(third)) == 3

    run(third, test)
    nobody = House(tmp_path / "nobody", None, late, PlayedRuntime([full]))
    failure = failing(nobody, "queue_full", "n2: .*full up; n1: .*full up", hedge=True)
    assert failure.retry_after_s is not None


def test_an_app_that_goes_away_ends_both(tmp_path: pathlib.Path) -> None:
    """Amid the race, nothing is left running."""
    runtimes = [PlayedRuntime([FOREVER]), PlayedRuntime([FOREVER])]
    house = House(tmp_path, None, *runtimes)

    async def test() -> None:
        with trio.move_on_after(30) as scope:
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    options = RequestOptions(request_id="ab", may_hedge=True)
                    async with house.forwarder.generate(REQUEST, options):
                        raise AssertionError

                nursery.start_soon(ask)
                await until(lambda: all(runtime.running for runtime in runtimes))
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        await until(lambda: not any(runtime.running for runtime in runtimes))

    run(house, test)


def test_who_begins_when_the_app_goes_is_ended_too() -> None:
    """In one turn of the scheduler: nobody takes the answer, so nobody else would close it."""
    closed: list[str] = []
    scope = trio.CancelScope()

    async def events(name: str, *given: GenerateEvent) -> AsyncGenerator[GenerateEvent, None]:
        try:
            await trio.sleep(0.1)
            for event in given:
                scope.cancel()
                yield event
            await trio.sleep_forever()
        finally:
            closed.append(name)

    def begin(name: str, *given: GenerateEvent) -> Run:
        node = CANDIDATE.node
        tried = Try(node=node, name=name, asked_at=0.0, tokens_before=0)
        return Run(candidate=CANDIDATE, card=None, tried=tried, events=events(name, *given))

    async def main() -> None:
        first = begin("first", Chunk((1,), "x"))
        with scope:
            await first_to_begin(first, lambda: begin("second"), 0.05)
        assert sorted(closed) == ["first", "second"]

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_who_was_late_or_failed_is_tried_last(tmp_path: pathlib.Path) -> None:
    """Though another one answered, and the app knows nothing of it."""
    fails = PlayedRuntime([Started((1,)), 0.15, RuntimeFailure("crashed", "gone")])
    for name, first in (("fails", fails), ("swallows", PlayedRuntime([FOREVER]))):
        house = House(tmp_path / name, None, first, PlayedRuntime([0.6, *HELLO]))

        async def test(house: House = house) -> None:
            assert (await house.ask(hedge=True))[0] == "n2"
            assert house.id(1) in house.choosing._failed
            assert house.id(2) not in house.choosing._failed

        run(house, test)


def test_a_winner_that_has_withdrawn_its_offer_can_be_continued(tmp_path: pathlib.Path) -> None:
    """What it offered when it was asked counts."""

    class Withdrawn(TellingRuntime):
        def steps_for(self, request: Request) -> Sequence[Step]:
            house.withdraw(2)
            assert house.view.card(house.id(2), "m") is None
            return super().steps_for(request)

    winner = Withdrawn((3, RuntimeFailure("unavailable", "it stops")))
    house = House(tmp_path, None, TellingRuntime((0, FOREVER)), winner, patience_s=1.0)

    async def test() -> None:
        _, events = await house.ask(hedge=True)
        text = "".join(event.text for event in events if isinstance(event, Chunk))
        assert text == b"".join(PIECES).decode()
        assert [each["node"] for each in _attempts(house)] == ["n1", "n2", "n1"]

    run(house, test)


def test_each_has_the_time_that_its_own_way_takes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second may be farther away than the first."""
    house = House(tmp_path, None, PlayedRuntime([FOREVER]), PlayedRuntime())
    ways_ns = {house.id(1): 1_000, house.id(2): 90_000_000}
    asked_ns: list[int] = []
    rank = house.choosing.rank

    def ranked(candidates: Sequence[Candidate], *more: Any) -> list[Candidate]:  # noqa: ANN401
        return [
            dataclasses.replace(each, round_trip_ns=ways_ns[each.node])
            for each in rank(candidates, *more)
        ]

    def contact_s(distance_ns: int, *, is_only_chance: bool) -> float:
        assert not is_only_chance
        asked_ns.append(distance_ns)
        return 3.0

    monkeypatch.setattr(house.choosing, "rank", ranked)
    monkeypatch.setattr("meshd.forwarding.contact_s", contact_s)

    async def test() -> None:
        assert (await house.ask(hedge=True))[0] == "n2"

    run(house, test)
    assert asked_ns == [*ways_ns.values()]


def test_late_is_three_times_the_expected_prefill() -> None:
    """By the learned speed and what waits there; half a second at least."""
    speed = Speed(prefill_ns=SECOND // 100, decode_ns=SECOND)
    demand = Demand(prompt_tokens=100, output_tokens=10)
    known = dataclasses.replace(CANDIDATE, speed=speed)
    assert late_s([known, IDLE], demand) == pytest.approx(LATE_FACTOR * 1.0, rel=0.1)
    assert late_s([known, IDLE], dataclasses.replace(demand, prompt_tokens=1)) == LATE_S_MIN


@pytest.mark.parametrize("load", [None, Load(0, 4, 4), Load(1, 3, 4), Load(0, 0, 0)])
def test_nobody_is_hedged_to_who_is_busy(load: Load | None) -> None:
    """A mesh with much to do gets no more by it; nor is anybody asked who is alone."""
    busy = dataclasses.replace(IDLE, load=load)
    assert late_s([CANDIDATE, busy], Demand()) is None
    assert late_s([CANDIDATE], Demand()) is None
