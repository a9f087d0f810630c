"""Chats with images go to nodes whose model sees, whole, and are answered or refused."""

import dataclasses
import pathlib

from meshd.answer import RequestOptions
from runtimes.base import ChatMessage, Chunk, Finished, GenerateRequest, RuntimeFailure, Started
from runtimes.embedding import GENERATE, SEE
from runtimes.images import Image
from tests.helpers.projectors import jpeg, png
from tests.meshd.forwarding_house import House, failing, run
from tests.meshd.played_runtime import HELLO, PlayedRuntime, Step

SHOWING = GenerateRequest(
    model="m",
    messages=(ChatMessage(role="user", content="a b"), ChatMessage(role="user", content="c")),
    images=(Image(png(), 0, 2), Image(jpeg(), 1, 1)),
)
SEES = (GENERATE, SEE)


def test_only_who_sees_is_asked(tmp_path: pathlib.Path) -> None:
    """However idle the others are; and the images arrive as they were."""
    blind, sighted = PlayedRuntime(), PlayedRuntime(tasks=SEES)
    house = House(tmp_path, None, blind, sighted)

    async def test() -> None:
        node, events = await house.ask(SHOWING)
        assert (node, events) == ("n2", list(HELLO))

    run(house, test)
    assert blind.requests == []
    assert sighted.requests == [dataclasses.replace(SHOWING, seed=sighted.requests[0].seed)]


def test_where_nobody_sees_one_line_says_so(tmp_path: pathlib.Path) -> None:
    """Nobody is asked, and text is answered as ever."""
    blind = PlayedRuntime()
    house = House(tmp_path, None, blind)
    failed = failing(house, "bad_request", "cannot see images", request=SHOWING)
    assert failed.message == (
        "The model 'm' is made to generate and cannot see images; the mesh has no model for that "
        "now."
    )
    assert blind.requests == []


def test_a_broken_answer_goes_on_with_its_images(tmp_path: pathlib.Path) -> None:
    """Who goes on is shown them again, behind what was emitted."""
    begun: tuple[Step, ...] = (Started((1, 0, 0)), Chunk((10,), "Hel"))
    broken = PlayedRuntime((*begun, RuntimeFailure("crashed", "gone")), tasks=SEES)
    other = PlayedRuntime(
        (Started((1, 0, 0)), Chunk((11,), "lo"), Finished("stop", 3, 1)), tasks=SEES
    )
    house = House(tmp_path, None, broken, other)

    async def test() -> None:
        async with house.forwarder.generate(SHOWING, RequestOptions(request_id="ab")) as answer:
            events = [event async for event in answer.events]
        assert [event.text for event in events if isinstance(event, Chunk)] == ["Hel", "lo"]
        assert events[-1] == Finished("stop", 3, 2)

    run(house, test)
    [again] = other.requests
    assert (again.images, again.continued_ids) == (SHOWING.images, (10,))
