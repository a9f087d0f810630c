"""This node's own runtimes: kept up together, each found by its model."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meshd.local_models import LocalModels
from protocol.messages import Load
from runtimes.base import ChangeCallback, ModelCard, Runtime, RuntimeFailure, Source
from runtimes.base import Load as RuntimeLoad
from tests.meshd.played_runtime import PlayedRuntime


class Loading(PlayedRuntime):
    """A model that is there when `loaded` is set, or fails with `failure` then."""

    def __init__(self, name: str = "m", failure: Exception | None = None) -> None:
        super().__init__(name=name)
        self.loaded = trio.Event()
        self.failure = failure
        self.busy = RuntimeLoad(0, 0, 1)
        self.is_up = False

    @property
    def card(self) -> ModelCard | None:
        return super().card if self.is_up else None

    @property
    def load(self) -> RuntimeLoad:
        return self.busy

    async def serve(self, on_change: ChangeCallback) -> None:
        await self.loaded.wait()
        if self.failure is not None:
            raise self.failure
        self.is_up = True
        on_change()
        await trio.sleep_forever()


def _run(models: LocalModels, test: Callable[[list[int]], object]) -> None:
    """Serve, let `test` begin, and give it the count of changes."""

    async def main() -> None:
        changes: list[int] = []
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(models.serve, lambda: changes.append(1))
                await wait_all_tasks_blocked()
                test(changes)
                await wait_all_tasks_blocked()
                test(changes)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_of_several_the_one_with_free_slots_is_chosen() -> None:
    """And all of them count as places for the model."""
    small, large = Loading(), Loading()
    small.is_up = large.is_up = True
    small.busy, large.busy = RuntimeLoad(0, 1, 1), RuntimeLoad(0, 2, 4)
    models = LocalModels([small, large])
    assert models.find("m") is large
    assert models.slots("m") == 5
    assert models.slots("another") == 0


def test_models_appear_as_they_are_loaded() -> None:
    """Each by itself, and every appearance is told."""
    one, other = Loading("one"), Loading("other")
    models = LocalModels([one, other])
    rounds: list[list[str]] = []

    def test(changes: list[int]) -> None:
        rounds.append([card.name for card in models.cards()])
        assert len(changes) == len(rounds[-1])
        assert (models.find("one") is one) is bool(rounds[-1])
        assert models.find("other") is None
        one.loaded.set()

    _run(models, test)
    assert rounds == [[], ["one"]]


def test_a_model_that_cannot_be_is_given_up() -> None:
    """The others stay, and the change is told; nothing else of it remains."""
    bad = Loading("bad", RuntimeFailure("invalid_model", "no GGUF"))
    good = Loading("good")
    good.loaded.set()
    models = LocalModels([bad, good])

    def test(changes: list[int]) -> None:
        assert [card.name for card in models.cards()] == ["good"]
        bad.loaded.set()

    _run(models, test)
    assert models.load == Load(0, 0, 1)


def test_a_bug_in_a_runtime_is_loud() -> None:
    """It ends the daemon rather than serving half."""
    bad = Loading("bad", LookupError("a bug"))
    bad.loaded.set()
    with pytest.raises(ExceptionGroup) as caught:
        trio.run(LocalModels([bad]).serve, lambda: None)
    assert caught.group_contains(LookupError)


def test_of_two_with_one_name_the_less_busy_is_found() -> None:
    """And the model is offered once."""
    runtimes = [Loading(), Loading(), Loading()]
    for runtime, busy in zip(runtimes, (3, 1, 2), strict=True):
        runtime.is_up = True
        runtime.busy = RuntimeLoad(busy, busy, 4)
    models = LocalModels(runtimes)
    assert models.find("m") is runtimes[1]
    assert models.find("M") is None
    assert len(models.cards()) == 1
    assert models.load == Load(6, 6, 12)


def test_a_source_may_bring_several_runtimes_that_change() -> None:
    """An upstream's models come and go."""

    class Upstream(Source):
        """Whatever the test says."""

        def __init__(self) -> None:
            self.now: tuple[Runtime, ...] = ()

        @property
        def runtimes(self) -> tuple[Runtime, ...]:
            return self.now

        @property
        def advice(self) -> str | None:
            return "a GPU lies idle"

        async def serve(self, on_change: ChangeCallback) -> None:
            on_change()
            await trio.sleep_forever()

    upstream = Upstream()
    models = LocalModels([upstream])
    assert models.cards() == []
    assert models.load == Load(0, 0, 0)
    assert models.advice == ["a GPU lies idle"]
    upstream.now = (PlayedRuntime(name="a"), PlayedRuntime(name="b"))
    assert [card.name for card in models.cards()] == ["a", "b"]
    assert models.load == Load(0, 0, 2)
    upstream.now = upstream.now[1:]
    assert models.find("a") is None
    _run(models, lambda changes: None)


def test_who_drains_serves_nothing_besides_what_runs() -> None:
    """Its models are there, and neither offered nor found; what runs still counts."""
    runtime = Loading()
    runtime.is_up, runtime.busy = True, RuntimeLoad(0, 1, 2)
    models = LocalModels([runtime])
    models.is_draining = True
    assert models.cards() == []
    assert models.find("m") is None
    assert models.slots("m") == 0
    assert models.load == Load(0, 1, 0)
    models.is_draining = False
    assert models.find("m") is runtime
