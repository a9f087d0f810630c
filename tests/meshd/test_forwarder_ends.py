"""What ends a request: failures amid the answer, deaths, deadlines, and apps that go away."""

import gc
import pathlib
from collections.abc import Iterator, Sequence

import pytest
import trio

from meshd import asking
from meshd.answer import RequestOptions
from meshd.failures import RequestFailed
from runtimes.base import Chunk, Finished, GenerateEvent, GenerateRequest, RuntimeFailure, Started
from tests.meshd.forwarding_house import FOREVER, REQUEST, House, failing, run
from tests.meshd.members import until
from tests.meshd.played_runtime import HELLO, PlayedRuntime


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


# ---- what ends it ----


@pytest.mark.parametrize(
    "steps",
    [
        (*HELLO[:2], RuntimeFailure("crashed", "gone")),
        HELLO[:2],
        (*HELLO[:2], RuntimeFailure("bad_request", "x")),
    ],
)
@pytest.mark.parametrize("where", ["here", "there"])
def test_after_the_first_token_it_is_interrupted(
    tmp_path: pathlib.Path, steps: Sequence[GenerateEvent | Exception], where: str
) -> None:
    """What the app has seen stays; the rest is a typed failure that names the node."""
    serving = [PlayedRuntime(steps)] if where == "here" else [None, PlayedRuntime(steps)]
    house = House(tmp_path, *serving, own=where == "here")
    seen: list[GenerateEvent] = []

    async def test() -> None:
        with pytest.raises(RequestFailed, match="broke off on node n") as caught:
            await house.watch(seen.append)
        assert caught.value.code == "interrupted"

    run(house, test)
    assert seen == list(HELLO[:2])


def test_what_happens_after_the_end_does_not_matter(tmp_path: pathlib.Path) -> None:
    """The answer was whole: the node may die, the line break, and the time run out."""
    house = House(tmp_path, PlayedRuntime(clean_up_s=FOREVER), own=True)

    async def test() -> None:
        assert await house.ask(deadline_s=1.0) == ("n0", list(HELLO))

    run(house, test)
    house = House(tmp_path / "2", PlayedRuntime([*HELLO, RuntimeFailure("crashed", "")]), own=True)

    async def again() -> None:
        assert await house.ask() == ("n0", list(HELLO))

    run(house, again)


def test_a_node_that_dies_before_its_first_token_is_left(tmp_path: pathlib.Path) -> None:
    """As soon as the mesh says so, not when the deadline comes."""
    hanging = PlayedRuntime([Started((1,)), FOREVER])
    house = House(tmp_path, None, hanging, PlayedRuntime())

    async def test() -> None:
        async with trio.open_nursery() as nursery:

            async def die() -> None:
                await until(lambda: hanging.running > 0)
                house.die(1)

            nursery.start_soon(die)
            assert await house.ask() == ("n2", list(HELLO))
        await until(lambda: not hanging.running)

    run(house, test)


def test_a_node_that_dies_amid_its_answer_ends_it(tmp_path: pathlib.Path) -> None:
    """Without waiting for the line to break."""
    house = House(tmp_path, None, PlayedRuntime([*HELLO[:2], FOREVER]))

    def die(event: GenerateEvent) -> None:
        if isinstance(event, Chunk):
            house.die(1)

    async def test() -> None:
        with pytest.raises(RequestFailed, match="n1: it is gone") as caught:
            await house.watch(die)
        assert caught.value.code == "interrupted"

    run(house, test)


def test_what_a_node_sent_before_its_goodbye_is_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The goodbye comes by another way, and may be the faster."""
    monkeypatch.setattr(asking, "LAST_FRAMES_S", 5.0)
    has_left = trio.Event()
    runtime = PlayedRuntime([*HELLO[:2], has_left, *HELLO[2:]])
    house = House(tmp_path, None, runtime)
    seen: list[GenerateEvent] = []

    def leave(event: GenerateEvent) -> None:
        seen.append(event)
        if isinstance(event, Started):
            house.leave(1)
            has_left.set()

    async def test() -> None:
        await house.watch(leave)

    run(house, test)
    assert seen == list(HELLO)


@pytest.mark.parametrize("before", [1, 2])
def test_a_node_that_says_goodbye_amid_its_answer_ends_it(
    tmp_path: pathlib.Path, before: int
) -> None:
    """When nothing more comes of it, without waiting for the line to break."""
    house = House(tmp_path, None, PlayedRuntime([*HELLO[:before], FOREVER]))

    async def test() -> None:
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                await until(lambda: house.asking.running[house.id(1)] > 0)
                house.leave(1)

            nursery.start_soon(leave)
            with pytest.raises(RequestFailed, match="n1: it is gone"):
                await house.ask()

    run(house, test)


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("where", ["here", "there"])
def test_the_deadline_ends_everything(tmp_path: pathlib.Path, before: int, where: str) -> None:
    """In the queue, before and after the first token: `timeout`, and nobody else is tried."""
    hanging, second = PlayedRuntime([*HELLO[:before], FOREVER]), PlayedRuntime()
    serving = (hanging, second) if where == "here" else (None, hanging, second)
    house = House(tmp_path, *serving, own=where == "here")
    failing(house, "timeout", "time is over", deadline_s=0.2)
    assert not second.requests
    assert not hanging.running or where == "there"


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_leaving_cancels_at_the_far_end(tmp_path: pathlib.Path, taken: int) -> None:
    """The app went away: the generation over there ends, at whatever point."""
    runtime = PlayedRuntime([*HELLO[:2], FOREVER])
    house = House(tmp_path, None, runtime)

    async def test() -> None:
        options = RequestOptions(request_id="ab")
        async with house.forwarder.generate(REQUEST, options) as answer:
            for _ in range(taken):
                await anext(answer.events)
            assert runtime.running == 1
        await until(lambda: not runtime.running)

    run(house, test)


def test_being_cancelled_cancels_at_the_far_end(tmp_path: pathlib.Path) -> None:
    """While the first token is still awaited too."""
    runtime = PlayedRuntime([FOREVER])
    house = House(tmp_path, None, runtime)

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.ask)
            await until(lambda: runtime.running > 0)
            nursery.cancel_scope.cancel()
        await until(lambda: not runtime.running)

    run(house, test)


def test_an_app_that_does_not_read_holds_up_only_its_own_request(tmp_path: pathlib.Path) -> None:
    """Nothing is piled up for it, and others are served meanwhile."""
    chunks = [Chunk((1,), "x" * 100_000)] * 2_000
    endless = PlayedRuntime([Started(()), *chunks, Finished("stop", 0, 0)])
    house = House(tmp_path, None, endless, PlayedRuntime(name="other"))

    async def test() -> None:
        options = RequestOptions(request_id="ab")
        async with house.forwarder.generate(REQUEST, options) as answer:
            await anext(answer.events)
            given = -1
            while given != endless.given:
                given = endless.given
                other = GenerateRequest(model="other", prompt="x")
                assert (await house.ask(other))[1] == list(HELLO)
            assert given < 500, "no more than the system's buffers hold"

    run(house, test)
