"""What is learned of a node from its answers, whatever it claims, and however an app reads them."""

import pathlib
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from meshd.answer import RequestOptions
from meshd.failures import RequestFailed
from protocol.speeds import UNKNOWN, Speed
from runtimes.base import Chunk, Finished, RuntimeFailure, Started
from runtimes.limits import TOKENS_MAX
from tests.meshd.forwarding_house import FOREVER, REQUEST, House
from tests.meshd.played_runtime import PlayedRuntime, Step

MS = 10**6
PROMPT = Started(tuple(range(100)))
TOKENS = [Chunk((number,), "x") for number in range(10)]
END = Finished("stop", 100, 10)


def _house(folder: pathlib.Path, *steps: Step) -> House:
    """One node, which has the model itself."""
    return House(folder, PlayedRuntime(steps), own=True)


def _run(test: Callable[[], Awaitable[None]]) -> None:
    """On a clock that leaps over every wait."""
    trio.run(test, clock=MockClock(autojump_threshold=0))


def _speed(house: House) -> Speed | None:
    return house.choosing.speed(house.id(0), "m")


def test_a_claimed_count_of_tokens_is_not_learned_from(tmp_path: pathlib.Path) -> None:
    """Ten in a second are ten, though two milliards are claimed; nor is the app told so."""
    steps = [step for token in TOKENS for step in (0.1, token)]
    house = _house(tmp_path, PROMPT, *steps, Finished("stop", TOKENS_MAX, TOKENS_MAX))

    async def test() -> None:
        _, events = await house.ask()
        assert events[-1] == Finished("stop", 100, 10)

    _run(test)
    assert _speed(house) == Speed(1 * MS, pytest.approx(100 * MS, rel=1e-6))  # type: ignore[arg-type]
    assert house.choosing.demand(REQUEST, RequestOptions(request_id="ab")).output_tokens < 1_000


def test_a_late_accept_is_no_fast_prefill(tmp_path: pathlib.Path) -> None:
    """Where a slot was free, as the node told, its time runs from the asking; else from when it
    says that the request has one.
    """
    for name, running, prefill_ns in (("free", 0, 10 * MS), ("full", 50, 1_000)):
        house = _house(tmp_path / name, 1.0, PROMPT, *TOKENS, END)
        house.load(0, running)

        async def test(house: House = house) -> None:
            await house.ask()

        _run(test)
        speed = _speed(house)
        assert speed is not None
        assert speed.prefill_ns == prefill_ns


def test_an_app_that_reads_slowly_slows_only_itself(tmp_path: pathlib.Path) -> None:
    """Ten tokens that were there at once, read one a second: that tells nothing of the node."""
    house = _house(tmp_path, PROMPT, *TOKENS, END)

    async def test() -> None:
        options = RequestOptions(request_id="ab")
        async with house.forwarder.generate(REQUEST, options) as answer:
            async for _ in answer.events:
                await trio.sleep(1)

    _run(test)
    speed = _speed(house)
    assert speed is not None
    assert speed.decode_ns == UNKNOWN.decode_ns


@pytest.mark.parametrize("steps", [(FOREVER,), (PROMPT, FOREVER)])
@pytest.mark.parametrize("ends", ["deadline", "app"])
def test_who_swallows_a_request_has_failed(
    tmp_path: pathlib.Path, steps: tuple[Step, ...], ends: str
) -> None:
    """The deadline or the app ended it after long without a token."""
    house = _house(tmp_path, *steps)

    async def test() -> None:
        with trio.move_on_after(20 if ends == "app" else 50):
            with pytest.raises(RequestFailed) as caught:
                await house.ask(deadline_s=30)
            assert caught.value.code == "timeout"

    _run(test)
    assert house.id(0) in house.choosing._failed


@pytest.mark.parametrize(
    ("steps", "leaves_s"),
    [((PROMPT, FOREVER), 0.1), ((PROMPT, 0.1, TOKENS[0], FOREVER), 5)],
)
def test_who_had_no_time_or_gave_something_has_not_failed(
    tmp_path: pathlib.Path, steps: tuple[Step, ...], leaves_s: float
) -> None:
    """An app that goes away says nothing of a node that was not late."""
    house = _house(tmp_path, *steps)

    async def test() -> None:
        with trio.move_on_after(leaves_s) as scope:
            await house.ask()
        assert scope.cancelled_caught

    _run(test)
    assert not house.choosing._failed


def test_who_says_no_has_not_swallowed_anything(tmp_path: pathlib.Path) -> None:
    """A request that can never run is at fault itself, however late that is found out."""
    house = _house(tmp_path, 20.0, RuntimeFailure("bad_request", "no"))

    async def test() -> None:
        with pytest.raises(RequestFailed, match="no"):
            await house.ask()

    _run(test)
    assert not house.choosing._failed
