"""How fast a model is on this node: measured as it serves, told in its offer, read by others."""

from contextlib import aclosing

import pytest
import trio

from meshd import advertisement
from meshd.admitting import Admitting
from meshd.local_models import LocalModels
from protocol.requester import ANYBODY
from protocol.speeds import Speed, speed_in
from runtimes.base import Chunk, Finished, GenerateRequest, RuntimeFailure, Started
from runtimes.standing import ModelState, Standing, TokenTimes
from tests.meshd.members import until
from tests.meshd.played_runtime import PlayedRuntime, Step
from tests.meshd.test_admitting import ANNA, SLOW, Node, _all_at_once, run
from tests.meshd.test_advertiser import Offering
from tests.meshd.test_view import CARD, KEY, Seen

TOLD: tuple[Step, ...] = (
    Started(tuple(range(100))),
    2.0,
    Chunk((1,), "x"),
    *[step for n in range(10) for step in (0.5, Chunk((n,), "x"))],
    Finished("stop", 100, 11, cached_tokens=60),
)
"""Forty tokens of the prompt in two seconds, ten more of the answer in five."""


def test_the_speed_of_a_model_is_measured_from_its_turn_on() -> None:
    """Not from the asking: who waited longer was not served more slowly. What was cached is no
    work. It is news once, and none of a request that breaks off.
    """
    node = Node(*TOLD)
    assert node.admitting.speed("m") is None

    async def main() -> None:
        await _all_at_once(node, *[(name, ANNA, ANYBODY) for name in "abc"])

    run(main)
    assert node.seconds["c"] > 10

    async def look() -> None:
        assert node.admitting.has_speed_news()
        assert not node.admitting.has_speed_news()

    run(look)
    speed = node.admitting.speed("m")
    assert speed is not None
    assert speed.prefill_ns == pytest.approx(2e9 / 40, rel=1e-6)
    assert speed.decode_ns == pytest.approx(1e9 / 2, rel=1e-6)


def test_an_asker_that_reads_slowly_slows_nobody_else() -> None:
    """Measured is what comes between two events, and not how long one of them waits to be read."""
    node = Node(*TOLD)

    async def main() -> None:
        await node.ask("a")
        request = GenerateRequest(model="m", prompt="hello")
        events = node.admitting.generate(request, ANNA, ANYBODY, 600.0)
        async with aclosing(events):
            async for _ in events:
                await trio.sleep(9)
        assert node.admitting.has_speed_news()

    run(main)
    speed = node.admitting.speed("m")
    assert speed is not None
    assert speed.decode_ns == pytest.approx(1e9 / 2, rel=1e-6)


def test_a_model_that_goes_takes_its_speed_along() -> None:
    """What comes under its name next may be another one."""
    node = Node(*TOLD)

    async def main() -> None:
        await node.ask("a")
        assert node.admitting.has_speed_news()
        node.models.is_draining = True
        node.admitting.models_changed()

    run(main)
    assert node.admitting.speed("m") is None


def test_a_broken_answer_tells_no_speed() -> None:
    """Nothing is known of what it would have taken."""
    node = Node(*SLOW, RuntimeFailure("crashed", "gone"))

    async def main() -> None:
        await node.ask("a")
        assert not node.admitting.has_speed_news()

    run(main)
    assert node.admitting.speed("m") is None


def test_a_told_speed_is_that_of_the_offer_as_it_is_now() -> None:
    """It goes with the offer, and what makes no sense is no speed."""
    seen = Seen()
    one = seen.mesh.id(1)

    def told() -> Speed | None:
        return seen.view.candidates([one], CARD.name, {})[0].speed

    for speed in (Speed(1_000_000, 20_000_000), Speed(2_000_000, 30_000_000), None):
        seen.offer(1, KEY, advertisement.encode_model(CARD, speed))
        assert told() == speed
    seen.offer(1, KEY, advertisement.encode_model(CARD, Speed(1, 1)))
    assert told() is None


def test_what_was_measured_is_in_the_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as there is something to tell; the model is offered before."""
    monkeypatch.setattr("meshd.advertiser.LOAD_S", 0.01)
    runtime = PlayedRuntime((*SLOW[:1], *SLOW[2:], Finished("stop", 100, 98)))
    offering = Offering(runtime)
    admitting = offering.advertiser._admitting
    key = advertisement.model_key("m")

    def told() -> Speed | None:
        return advertisement.decode_speed(offering.mesh[0].offers.of(offering.mesh.id(0))[key])

    async def test() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(offering.advertiser.run)
                await until(lambda: offering.models_offered == ["m"])
                assert told() is None
                request = GenerateRequest(model="m", prompt="hi")
                async for _ in admitting.generate(request, ANNA, ANYBODY, 60.0):
                    pass
                await until(lambda: told() is not None)
                nursery.cancel_scope.cancel()

    trio.run(test)
    assert told() == admitting.speed("m")
    assert offering.models_offered == ["m"]


class Tried(PlayedRuntime):
    """A model that was tried out when it was loaded, as soon as a test says so."""

    times: TokenTimes | None = None

    @property
    def standing(self) -> Standing | None:
        card = self.card
        assert card is not None
        return Standing(card=card, state=ModelState.READY, times=self.times)


def test_before_the_first_answer_the_speed_is_that_of_the_trial() -> None:
    """Within what can be told; then that of real answers, which are news at once."""
    runtime = Tried(TOLD)
    node = Node(*TOLD)
    node.models = LocalModels([runtime])
    node.admitting = Admitting(node.models, lambda _: False)
    assert node.admitting.speed("m") is None
    runtime.times = TokenTimes(5, 7_000_000)
    tried = node.admitting.speed("m")
    assert tried is not None
    assert speed_in(tried.to_fields()) == tried
    assert (tried.prefill_ns, tried.decode_ns) == (1_000, 7_000_000)

    async def main() -> None:
        await node.ask("a")
        assert node.admitting.speed("m") == tried
        assert node.admitting.has_speed_news()

    run(main)
    speed = node.admitting.speed("m")
    assert speed is not None
    assert speed.decode_ns == pytest.approx(1e9 / 2, rel=1e-6)


def test_what_was_tried_out_is_in_the_offer() -> None:
    """As soon as the runtime says that something has changed, with no request."""
    runtime = Tried()
    offering = Offering(runtime)
    key = advertisement.model_key("m")
    offering.advertiser.models_changed()
    runtime.times = TokenTimes(2_000_000, 7_000_000)
    offering.advertiser.models_changed()
    offer = offering.mesh[0].offers.of(offering.mesh.id(0))[key]
    assert advertisement.decode_speed(offer) == Speed(2_000_000, 7_000_000)
