"""The one place that keeps this node's offers and load in step with what it really has."""

import math
from collections.abc import Callable, Mapping
from typing import Final

import structlog
import trio

from meshd import advertisement
from meshd.admitting import Admitting
from meshd.local_models import LocalModels
from meshd.view import View
from protocol.events import Event, LoadChanged, OfferChanged
from protocol.messages import Load
from protocol.statements import OFFER_VALUE_BYTES_MAX
from runtimes import hardware
from runtimes.functions.runner import FunctionRunner

log = structlog.get_logger()

LOAD_S: Final = 0.25
"""How often the load is looked at; it travels only when it changed."""
HARDWARE_S: Final = 30.0
HARDWARE_ON_BATTERY_S: Final = 600.0
"""How often the machine is looked at: NVML may take a second, and wakes what sleeps."""
HARDWARE_TOLD_S: Final = 60.0
HARDWARE_TOLD_S_PER_MEMBER: Final = 1.0
"""Others hear of it at most so often."""
HELD_S: Final = 20.0
"""What lies in one model is told at most so often, and the more rarely the more members there are,
for all of them hear of it:"""
HELD_S_PER_MEMBER: Final = 1.0
OFFERS_BYTES_MAX: Final = 15_000
"""Below the protocol's limit for one node, which counts signatures and keys too."""
HELD_BYTES_MAX: Final = 10_000
"""Up to here what lies in models may be told, too: the rest is for models to come."""
_OVERHEAD_BYTES: Final = 180
_OF_MODELS: Final = (advertisement.MODEL_PREFIX, advertisement.HELD_PREFIX)


class Advertiser:
    """Turns models and their speeds, functions, hardware and load into events for the node."""

    def __init__(
        self,
        give: Callable[[Event], bool],
        models: LocalModels,
        admitting: Admitting,
        functions: FunctionRunner,
        view: View,
        labels: Mapping[str, str],
    ) -> None:
        self._give = give
        self._models = models
        self._admitting = admitting
        self._functions = functions
        self._view = view
        self._labels = labels
        self._offered: dict[str, bytes] = {}
        self._may_serve = False
        self._hardware: hardware.Hardware | None = None
        """As it was seen last; None: not yet."""
        self._held_told: dict[str, float] = {}
        """When each was told last."""

    async def run(self) -> None:
        """Advertise until cancelled."""
        self._offer(advertisement.LABELS, advertisement.encode_map(self._labels))
        self.models_changed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_hardware)  # a sick driver holds up nothing else
            await self._keep_telling()

    async def _watch_hardware(self) -> None:
        """Look at the machine from time to time, and tell when it has become another."""
        told: Mapping[str, object] = {}
        told_at = -math.inf
        while True:
            self._hardware = await trio.to_thread.run_sync(
                hardware.snapshot, self._models.gpus, abandon_on_cancel=True
            )
            record, now = self._hardware.to_record(), trio.current_time()
            pause_s = max(HARDWARE_TOLD_S, HARDWARE_TOLD_S_PER_MEMBER * self._view.size)
            if now - told_at >= pause_s and hardware.differs(told, record):
                value = advertisement.encode_map(record)
                self._offer(advertisement.HARDWARE, value)
                if self._offered.get(advertisement.HARDWARE) == value:
                    told, told_at = record, now
            await trio.sleep(HARDWARE_ON_BATTERY_S if record.get("on_battery") else HARDWARE_S)

    async def _keep_telling(self) -> None:
        while True:
            self._tell_load(self.load)
            self._tell_held(trio.current_time())
            was_granted_more = self._view.may_serve() is not self._may_serve
            if self._admitting.has_speed_news() or was_granted_more:
                self.models_changed()
            await trio.sleep(LOAD_S)

    def models_changed(self) -> None:
        """Offer exactly what can be served now; a client serves no models."""
        self._may_serve = self._view.may_serve()
        cards = self._models.cards() if self._may_serve else []
        wanted = {
            advertisement.model_key(card.name): advertisement.encode_model(
                card, self._admitting.speed(card.name)
            )
            for card in cards
        }
        held = self._admitting.held
        names = (card.name for card in cards if held.hashes(card.name))
        served = {*wanted, *map(advertisement.held_key, names)}
        for key in list(self._offered):
            if key.startswith(_OF_MODELS) and key not in served:
                self._offer(key, b"")
        for key, value in wanted.items():
            self._offer(key, value)
        self._offer_functions()

    def status(self) -> Mapping[str, object] | None:
        """The machine as it was seen last, for its owner; None: not yet."""
        return None if self._hardware is None else self._hardware.to_status()

    @property
    def load(self) -> Load:
        """How busy this node is: models and functions together."""
        models, functions = self._admitting.load, self._functions.load
        return Load(
            models.queued + functions.queued,
            models.running + functions.running,
            models.slots + functions.slots,
        )

    def _tell_held(self, now: float) -> None:
        """What lies in one of the models now, if that is another and it is time: the one of which
        nothing was told for the longest. What has no room is not told.
        """
        pause_s = max(HELD_S, HELD_S_PER_MEMBER * self._view.size)
        last = max(self._held_told.values(), default=-math.inf)
        if not self._may_serve or now - last < pause_s:
            return
        held = self._admitting.held
        values = {
            advertisement.held_key(card.name): advertisement.encode_held(held.hashes(card.name))
            for card in self._models.cards()
        }
        self._held_told = {key: at for key, at in self._held_told.items() if key in values}
        for key in sorted(values, key=lambda key: self._held_told.get(key, -math.inf)):
            value = values[key] if self._has_room(key, values[key], HELD_BYTES_MAX) else b""
            if value != self._offered.get(key, b""):
                self._held_told[key] = now
                self._offer(key, value)
                return

    def _offer_functions(self) -> None:
        names = self._functions.names if not self._models.is_draining else ()
        while len(value := advertisement.encode_functions(names)) > OFFER_VALUE_BYTES_MAX:
            names = names[:-1]
        if 0 < len(names) < len(self._functions.names):
            log.warning("functions.too_many", offered=len(names), here=len(self._functions.names))
        self._offer(advertisement.FUNCTIONS, value)

    def _offer(self, key: str, value: bytes) -> None:
        if self._offered.get(key, b"") == value:
            return
        if not self._has_room(key, value):
            self._withdraw_held()
        if not self._has_room(key, value):
            log.warning("offer.too_large", key=key, value_bytes=len(value))
            return
        if self._give(OfferChanged(key, value)):
            self._offered[key] = value
            if not value:
                del self._offered[key]

    def _has_room(self, key: str, value: bytes, most: int = OFFERS_BYTES_MAX) -> bool:
        others = sum(len(v) + _OVERHEAD_BYTES for k, v in self._offered.items() if k != key)
        return len(value) <= OFFER_VALUE_BYTES_MAX and others + len(value) <= most

    def _withdraw_held(self) -> None:
        """Models come first."""
        for key in [key for key in self._offered if key.startswith(advertisement.HELD_PREFIX)]:
            if self._give(OfferChanged(key, b"")):
                del self._offered[key]

    def _tell_load(self, load: Load) -> None:
        if load != self._view.own_load and self._give(LoadChanged(load)):
            self._view.own_load = load
