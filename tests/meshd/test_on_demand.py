"""Requests for a model that has to be loaded first: who waits, who is told, what they hold."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator

import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd import local_models
from meshd.admitting import Admitting, NotAdmitted
from meshd.local_models import LocalModels, local_row
from meshd.waits import Waits
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.outlook import NOTHING, Outlook
from protocol.requester import ANYBODY, Requester
from runtimes.base import GenerateRequest, ModelCard, RuntimeFailure
from runtimes.room import Room
from runtimes.standing import ModelState, Standing
from tests.meshd.played_runtime import PlayedRuntime

ANNA = NodeId(b"a" * 32)
LOAD_S = 20.0


class Shelved(PlayedRuntime):
    """A model that is cold until a test says otherwise, and knows who wants it."""

    def __init__(self, name: str = "m") -> None:
        super().__init__(name=name)
        self.state = ModelState.COLD
        self.reason = ""
        self.has_identity = True
        self.wishes = 0
        self.held = 0

    @property
    def card(self) -> ModelCard | None:
        is_offered = self.state is not ModelState.UNUSABLE and (
            self.has_identity or self.state is ModelState.READY
        )
        return super().card if is_offered else None

    @property
    def standing(self) -> Standing:
        ready = self.state is ModelState.READY
        card = super().card
        assert card is not None
        return Standing(
            card=card,
            state=self.state,
            share=0.25,
            ready_in_s=0.0 if ready else LOAD_S,
            need=Room(7, 8),
            reason=self.reason,
        )

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        self.wishes += 1
        self.held += 1
        if self.state is ModelState.COLD:
            self.state, self.reason = ModelState.LOADING, ""
        try:
            yield
        finally:
            self.held -= 1


def run(main: Callable[[], Awaitable[None]]) -> None:
    """To its end, which comes at once."""

    async def timed() -> None:
        with trio.fail_after(10):
            await main()

    trio.run(timed)


class House:
    """A node with one such model."""

    def __init__(self) -> None:
        self.runtime = Shelved()
        self.models = LocalModels([self.runtime])
        self.admitting = Admitting(self.models, lambda node: False)
        self.events: list[object] = []
        self.refused: list[NotAdmitted] = []

    def now(self, state: ModelState, reason: str = "") -> None:
        """From now on the model is like this."""
        self.runtime.state, self.runtime.reason = state, reason
        self.admitting.models_changed()

    async def ask(self, requester: Requester = ANYBODY, deadline_s: float = 600.0) -> None:
        """One request, to its end."""
        request = GenerateRequest(model="m", prompt="hello")
        events = self.admitting.generate(request, ANNA, requester, deadline_s)
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    self.events.append(event)
        except NotAdmitted as refused:
            self.refused.append(refused)


def test_a_request_waits_until_the_model_is_loaded_and_holds_it() -> None:
    """It counts as waiting, and is answered when the model is there."""

    async def main() -> None:
        house = House()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.ask)
            await wait_all_tasks_blocked()
            assert house.admitting.load == Load(1, 0, 0)
            assert (house.runtime.held, house.events) == (1, [])
            house.now(ModelState.READY)
        assert len(house.events) == 4
        assert house.runtime.held == 0

    run(main)


def test_who_does_not_wait_is_told_when_to_come_again_and_has_it_loaded() -> None:
    """Once; and while it loads, the same."""

    async def main() -> None:
        house = House()
        for _ in range(2):
            await house.ask(Requester(is_impatient=True))
        codes = [(refused.code, refused.retry_after_ms) for refused in house.refused]
        assert codes == [("loading", 20_000)] * 2
        assert "takes about 20 s" in house.refused[0].message
        assert (house.runtime.state, house.runtime.held) == (ModelState.LOADING, 0)
        house.now(ModelState.READY)
        await house.ask(Requester(is_impatient=True))
        assert len(house.events) == 4

    run(main)


def test_when_it_cannot_be_loaded_who_waits_is_told_why() -> None:
    """At once; the next request has another try."""

    async def main() -> None:
        house = House()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.ask)
            await wait_all_tasks_blocked()
            house.now(ModelState.COLD, "b cannot leave now")
        [refused] = house.refused
        assert refused.code == "no_room"
        assert refused.message.endswith("b cannot leave now")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.ask)
            await wait_all_tasks_blocked()
            house.now(ModelState.READY)
        assert len(house.events) == 4

    run(main)


def test_who_waited_in_vain_is_told_for_what() -> None:
    """For room, say; nothing ran and nobody else waited."""

    async def main() -> None:
        house = House()
        house.now(ModelState.LOADING, "b cannot leave now")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.ask)
            await wait_all_tasks_blocked()
            assert house.refused == []
            nursery.cancel_scope.deadline = trio.current_time() + 700
        [refused] = house.refused
        assert refused.code == "expired"
        assert refused.message == "the deadline passed before its turn: b cannot leave now"

    trio.run(main, clock=MockClock(autojump_threshold=0.01))


def test_when_it_cannot_be_had_at_all_who_asks_is_told_why() -> None:
    """Who waits, and who comes later."""

    async def main() -> None:
        house = House()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.ask)
            await wait_all_tasks_blocked()
            house.now(ModelState.UNUSABLE, "it needs 9.0 GB")
        assert house.refused[0].code == "unavailable"
        assert house.refused[0].message.endswith("not loaded any more: it needs 9.0 GB")
        with pytest.raises(RuntimeFailure, match=r"does not serve 'm' now: it needs 9\.0 GB"):
            await house.ask()

    run(main)


def test_a_deadline_sooner_than_the_load_is_refused_and_has_it_loaded() -> None:
    """Else nobody in such a hurry would ever be answered."""

    async def main() -> None:
        house = House()
        await house.ask(deadline_s=LOAD_S / 2)
        assert [refused.code for refused in house.refused] == ["wait_too_long"]
        assert (house.runtime.state, house.runtime.held) == (ModelState.LOADING, 0)
        house.now(ModelState.READY)
        await house.ask(deadline_s=LOAD_S / 2)
        assert len(house.events) == 4

    run(main)


def test_of_two_with_one_name_the_loaded_one_is_asked() -> None:
    """Whatever is free elsewhere, and nothing is loaded."""
    cold, warm = Shelved(), Shelved()
    warm.state, warm.running = ModelState.READY, 5
    models = LocalModels([cold, warm])
    assert models.find("m") is warm
    assert models.load_s("m") == 0.0
    with models.wanted("m"):
        assert (cold.wishes, warm.wishes) == (0, 1)


def test_of_two_with_one_name_the_one_that_was_not_refused_is_loaded() -> None:
    """The other one could not be loaded when somebody asked last."""
    refused, other = Shelved(), Shelved()
    refused.reason, other.running = "no room", 3
    models = LocalModels([refused, other])
    with models.wanted("m"):
        assert (refused.wishes, other.wishes) == (0, 1)


def test_what_loads_is_waited_for_before_its_identity_is_known() -> None:
    """Its file was exchanged, so there is no card until it is loaded."""

    async def main() -> None:
        house = House()
        house.runtime.has_identity = False
        house.now(ModelState.COLD)
        with pytest.raises(RuntimeFailure, match="does not serve"):
            await house.ask()
        house.now(ModelState.LOADING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.ask)
            await wait_all_tasks_blocked()
            assert (house.refused, house.runtime.held) == ([], 1)
            house.now(ModelState.READY)
        assert len(house.events) == 4

    run(main)


def test_that_a_model_is_unusable_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the figures in its reason change."""
    large = Shelved()
    changes: list[str] = []

    async def serve(on_change: Callable[[], None]) -> None:
        for free_gb in (9.0, 9.1, 9.2):
            large.state, large.reason = ModelState.UNUSABLE, f"{free_gb} GB can be had"
            on_change()
            changes.append(large.reason)
        await trio.sleep_forever()

    large.serve = serve  # type: ignore[method-assign]  # as a test may

    async def main() -> None:
        models = LocalModels([large])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(models.serve, lambda: None)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    said = structlog.testing.CapturingLogger()
    monkeypatch.setattr(local_models, "log", said)
    run(main)
    assert len(changes) == 3
    assert [(call.method_name, *call.args) for call in said.calls] == [
        ("warning", "model.unusable")
    ]


def test_a_row_says_how_a_model_is_doing() -> None:
    """Ready or not, what it takes, and why it is not there."""
    shelved = Shelved("b")
    shelved.reason = "no room"
    models = LocalModels([shelved, PlayedRuntime(name="a")])
    plain, row = (local_row(standing, "anna") for standing in models.standings())
    assert (plain["name"], plain["state"], plain["loaded"]) == ("a", "ready", ["anna"])
    assert plain["needed_bytes"] is None
    told = {key: row[key] for key in ("name", "state", "share", "ready_in_s", "reason", "loaded")}
    assert told == {
        "name": "b",
        "state": "cold",
        "share": 0.25,
        "ready_in_s": 20.0,
        "reason": "no room",
        "loaded": [],
    }
    assert (row["needed_bytes"], row["needed_vram_bytes"]) == (7, 8)


def test_what_is_given_up_is_still_shown() -> None:
    """With the reason; it is offered no more."""
    bad = Shelved()
    bad.state, bad.reason = ModelState.UNUSABLE, "it is broken"

    async def fail(on_change: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeFailure("invalid_model", "it is broken")

    bad.serve = fail  # type: ignore[method-assign]  # as a test may
    models = LocalModels([bad])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(models.serve, lambda: None)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    run(main)
    assert models.cards() == []
    assert [standing.reason for standing in models.standings()] == ["it is broken"]


def test_the_card_of_a_cold_model_is_advertised_as_such() -> None:
    """And read by others, who add it to what a request takes there."""
    from meshd import advertisement

    card = ModelCard(name="m", content_hash="ab" * 32, runtime="llama", load_ms=1_500)
    assert advertisement.decode_model(advertisement.encode_model(card)) == card


@pytest.mark.parametrize("load_ms", [-1, 2**63, "soon", 1.5])
def test_a_member_may_not_say_nonsense_of_it(load_ms: object) -> None:
    """Then its card is none."""
    from meshd import advertisement

    card = {"name": "m", "content_hash": "ab", "runtime": "llama", "load_ms": load_ms}
    assert advertisement.decode_model(advertisement.encode_map(card)) is None


def test_who_waits_for_a_load_is_told_how_far_it_is() -> None:
    """And how long still, unless others have its room: then nobody knows."""

    async def main() -> None:
        house, waits = House(), Waits()
        request = GenerateRequest(model="m", prompt="hello")

        async def ask() -> None:
            mine = house.admitting.generate(request, ANNA, ANYBODY, 600.0, waits)
            async with contextlib.aclosing(mine) as events:
                async for _ in events:
                    assert waits.now() == NOTHING

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            assert waits.now() == Outlook(place=1, percent=25, ready_in_s=20)
            house.now(ModelState.LOADING, "others have its room")
            assert waits.now() == Outlook(place=1, percent=25, ready_in_s=0)
            house.now(ModelState.READY)

    run(main)
