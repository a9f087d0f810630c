"""Chats with images go to nodes whose model sees, whole, and are answered or refused."""

import dataclasses
import pathlib

from meshd.answer import RequestOptions
from meshd.choosing import TEMPLATE_TOKENS_MAX
from meshd.continuing import Progress
from runtimes.base import ChatMessage, Chunk, Finished, GenerateRequest, RuntimeFailure, Started
from runtimes.embedding import GENERATE, SEE
from runtimes.images import Image
from runtimes.limits import IMAGE_TOKENS_MAX
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


def test_who_calls_images_too_long_is_believed_up_to_what_they_can_have(
    tmp_path: pathlib.Path,
) -> None:
    """Nobody knows how many tokens another's projector makes of them; but they are bounded. That
    the blind have more context makes no difference.
    """
    too_long = RuntimeFailure("context_too_long", "too long for me")
    for context, is_believed in ((2 * IMAGE_TOKENS_MAX, True), (3 * IMAGE_TOKENS_MAX, False)):
        says_so = PlayedRuntime([too_long], context_tokens=context, tasks=SEES)
        blind = PlayedRuntime(context_tokens=2**40)
        house = House(tmp_path / str(context), None, says_so, blind)
        failing(
            house,
            "context_too_long" if is_believed else "unavailable",
            "too long for me",
            request=SHOWING,
        )
        assert blind.requests == []


def test_tokens_that_images_cannot_have_are_not_counted() -> None:
    """Where no ids tell how many there are."""
    for images in ((), SHOWING.images[:1], SHOWING.images):
        progress = Progress(dataclasses.replace(SHOWING, images=images))
        progress.take(Started(()))
        progress.take(Chunk((), "Hello"))
        progress.take(Finished("stop", 2**31, 1))
        assert progress.finished is not None
        counted = progress.finished.prompt_tokens - len(images) * IMAGE_TOKENS_MAX
        assert 0 < counted < 2 * TEMPLATE_TOKENS_MAX
