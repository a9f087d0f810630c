"""What this node offers is what it has, and never more than the protocol takes."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from meshd import advertisement
from meshd.admitting import Admitting
from meshd.advertiser import Advertiser
from meshd.local_models import LocalModels
from meshd.view import View
from protocol.events import Event, LoadChanged, OfferChanged
from protocol.messages import Load
from runtimes import hardware
from runtimes.functions.runner import FunctionRunner
from tests.helpers.nodes import Mesh
from tests.meshd.members import until
from tests.meshd.played_runtime import PlayedRuntime


class Offering:
    """An advertiser over a real node."""

    def __init__(
        self, *runtimes: PlayedRuntime, names: tuple[str, ...] = (), **labels: str
    ) -> None:
        self.mesh = Mesh(1).start_all()
        self.view = View(self.mesh[0])
        self.models = LocalModels(runtimes)
        self.functions = SimpleNamespace(names=names, load=Load(0, 0, 2))
        self.events: list[Event] = []
        self.is_full = False
        self.advertiser = Advertiser(
            self._give,
            self.models,
            Admitting(self.models, self.view.is_owners),
            cast("FunctionRunner", self.functions),
            self.view,
            labels,
        )

    def _give(self, event: Event) -> bool:
        if self.is_full:
            return False
        self.events.append(event)
        for effect in self.mesh.give(0, event):
            self.view.note(effect)
        return True

    def set(self, *runtimes: PlayedRuntime) -> None:
        """The models are these from now on."""
        self.models._sources[:] = runtimes
        self.advertiser.models_changed()

    @property
    def models_offered(self) -> list[str]:
        """Names, as a member would read them."""
        offers = self.mesh[0].offers.of(self.mesh.id(0))
        cards = (
            advertisement.decode_model(value)
            for key, value in offers.items()
            if key.startswith(advertisement.MODEL_PREFIX)
        )
        return sorted(card.name for card in cards if card is not None)

    def run(self, is_done: Callable[[], bool]) -> None:
        """Advertise until that has come about."""

        async def main() -> None:
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.advertiser.run)
                    await until(is_done)
                    nursery.cancel_scope.cancel()

        trio.run(main)


def test_a_machine_that_becomes_another_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once again, and not for a little more or less; its owner sees it as it is."""
    looks: list[int] = []

    def look(gpus: object) -> SimpleNamespace:
        looks.append(1)
        record = {"tier": 2, "cores": 4, "memory_available_bytes": 1_000 + len(looks) % 100}
        record["on_battery"] = len(looks) > 10
        return SimpleNamespace(to_record=lambda: record, to_status=lambda: {"look": len(looks)})

    monkeypatch.setattr(hardware, "snapshot", look)
    for name in ("HARDWARE_S", "HARDWARE_ON_BATTERY_S", "LOAD_S"):
        monkeypatch.setattr(f"meshd.advertiser.{name}", 0.001)
    for name in ("HARDWARE_TOLD_S", "HARDWARE_TOLD_S_PER_MEMBER"):
        monkeypatch.setattr(f"meshd.advertiser.{name}", 0.0)
    offering = Offering()
    assert offering.advertiser.status() is None
    offering.run(lambda: len(looks) > 30)
    told = [e for e in offering.events if isinstance(e, OfferChanged) and e.key == "hardware"]
    assert [advertisement.decode_map(e.value)["on_battery"] for e in told] == [False, True]
    assert offering.advertiser.status() == {"look": len(looks)}


def test_what_was_not_taken_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node was too busy to hear of its own machine."""
    looks: list[int] = []

    def look(gpus: object) -> SimpleNamespace:
        looks.append(1)
        offering.is_full = len(looks) < 5
        return SimpleNamespace(to_record=lambda: {"tier": 2})

    monkeypatch.setattr(hardware, "snapshot", look)
    monkeypatch.setattr("meshd.advertiser.HARDWARE_S", 0.001)
    offering = Offering()
    offering.run(lambda: len(looks) > 10)
    assert offering.view.tier(offering.mesh.id(0)) == 2


def test_a_driver_that_hangs_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load and models are told."""
    end = threading.Event()
    monkeypatch.setattr(hardware, "snapshot", lambda gpus: end.wait(20))
    monkeypatch.setattr("meshd.advertiser.LOAD_S", 0.001)
    offering = Offering(PlayedRuntime())
    offering.run(lambda: any(isinstance(event, LoadChanged) for event in offering.events))
    assert offering.models_offered == ["m"]
    assert offering.advertiser.status() is None
    end.set()


def test_a_machine_is_told_of_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it becomes another."""
    looks: list[int] = []

    def look(gpus: object) -> SimpleNamespace:
        looks.append(1)
        return SimpleNamespace(to_record=lambda: {"tier": 1 + len(looks) % 2})

    monkeypatch.setattr(hardware, "snapshot", look)
    monkeypatch.setattr("meshd.advertiser.HARDWARE_S", 0.001)
    offering = Offering()
    offering.run(lambda: len(looks) > 30)
    told = [e for e in offering.events if isinstance(e, OfferChanged) and e.key == "hardware"]
    assert len(told) == 1


def test_everything_is_offered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels, models, functions, hardware, load; and nothing again while nothing changes."""
    snapshot = SimpleNamespace(to_record=lambda: {"tier": 2, "cores": 4})
    monkeypatch.setattr(hardware, "snapshot", lambda gpus: snapshot)
    monkeypatch.setattr("meshd.advertiser.LOAD_S", 0.01)
    runtime = PlayedRuntime()
    offering = Offering(runtime, names=("app:f",), zone="attic")
    passes: list[int] = []

    def is_done() -> bool:
        passes.append(1)
        return len(passes) > 20 and any(isinstance(e, LoadChanged) for e in offering.events)

    offering.run(is_done)
    row = offering.view.row(offering.mesh.id(0))
    assert row["labels"] == {"zone": "attic"}
    assert (row["tier"], row["hardware"]) == (2, {"cores": 4})
    assert row["load"] == {"queued": 0, "running": 0, "slots": 3}
    assert offering.models_offered == ["m"]
    keys = [event.key for event in offering.events if isinstance(event, OfferChanged)]
    assert sorted(keys) == sorted({*keys}), "each once"
    assert [e for e in offering.events if isinstance(e, LoadChanged)] == [
        LoadChanged(Load(0, 0, 3))
    ]


def test_load_travels_only_when_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when the inbox was full."""
    offering = Offering(PlayedRuntime())
    tell = offering.advertiser._tell_load
    offering.is_full = True
    tell(Load(1, 1, 1))
    assert offering.view.own_load == Load(0, 0, 0)
    offering.is_full = False
    for load in (Load(1, 1, 1), Load(1, 1, 1), Load(0, 0, 1)):
        tell(load)
    assert offering.events == [LoadChanged(Load(1, 1, 1)), LoadChanged(Load(0, 0, 1))]


def test_models_come_and_go() -> None:
    """Exactly those that can be served are offered."""
    one, other = PlayedRuntime(name="one"), PlayedRuntime(name="other")
    offering = Offering()
    for now in ((one,), (one, other), (other,), (), (one,)):
        offering.set(*now)
        assert offering.models_offered == sorted(runtime.name for runtime in now)


def test_a_full_inbox_loses_no_model() -> None:
    """What could not be said is said with the next change."""
    offering = Offering()
    offering.is_full = True
    offering.set(PlayedRuntime(name="one"))
    offering.is_full = False
    offering.set(PlayedRuntime(name="one"))
    assert offering.models_offered == ["one"]


def test_too_many_models_are_cut_and_never_refused() -> None:
    """An upstream with hundreds of models: as many as a node may offer, the others are said."""
    offering = Offering()
    offering.set(*(PlayedRuntime(name=f"organisation/model-{n}") for n in range(300)))
    assert 20 < len(offering.models_offered) < 64


def test_models_that_change_for_ever_stay_within_the_limits() -> None:
    """Withdrawn offers make room: as many are offered in the end as at the beginning."""
    for width in (1, 40, 100):
        offering, counts = Offering(), list[int]()
        for start in range(0, 400, 40):
            names = [str(n).rjust(width, "x") for n in range(start, start + 40)]
            offering.set(*(PlayedRuntime(name=name) for name in names))
            assert set(offering.models_offered) <= set(names)
            counts.append(len(offering.models_offered))
        assert min(counts) >= counts[0] - 1, "a number more or less has another length"


def test_a_model_with_an_endless_name_is_said_and_passed_over() -> None:
    """The others are offered."""
    offering = Offering()
    offering.set(PlayedRuntime(name="x" * 800), PlayedRuntime(name="small"))
    assert offering.models_offered == ["small"]


def test_too_many_functions_are_cut() -> None:
    """As many as fit into one offer."""
    names = tuple(f"application.module.function_{n}" for n in range(100))
    offering = Offering(names=names)
    offering.advertiser._offer_functions()
    value = offering.mesh[0].offers.of(offering.mesh.id(0))[advertisement.FUNCTIONS]
    found = advertisement.decode_functions(value)
    assert 5 < len(found) < 100
    assert found == names[: len(found)]


def test_a_client_offers_no_model_until_it_may_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its offers would only be refused, again and again; a grant makes it serve."""
    monkeypatch.setattr("meshd.advertiser.LOAD_S", 0.01)
    roles = [False]
    monkeypatch.setattr(View, "may_serve", lambda view: roles[-1])
    offering = Offering(PlayedRuntime(name="a"), kind="x")

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(offering.advertiser.run)
            await until(lambda: any(isinstance(e, LoadChanged) for e in offering.events))
            assert offering.models_offered == []
            roles.append(True)
            await until(lambda: offering.models_offered == ["a"])
            nursery.cancel_scope.cancel()

    trio.run(test)
