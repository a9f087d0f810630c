"""The one place for one serving node: its engine's lives, what it offers, and how it tells load.

As `meshd/advertiser.py` does it: the model is offered while it is loaded, with its speed as it was
measured; the load is looked at four times a second and given to the node when it changed. From
there on gossip carries both.
"""

from collections.abc import Callable
from typing import Final

from protocol.config import MILLISECOND
from protocol.events import LoadChanged, OfferChanged
from protocol.fields import pack
from protocol.messages import Load
from protocol.speeds import ServedSpeed, Speed
from simulations.host import Host
from simulations.inference.engine import Engine, Work
from simulations.inference.machines import Machine
from simulations.world import World

LOAD_NS: Final = 250 * MILLISECOND
"""How often the load is looked at; the daemon's value."""
MODEL_KEY: Final = "model/simulated"
MODEL: Final = {"name": "simulated", "runtime": "simulated"}
"""One model that all serve."""
SERVED: Final = 16
"""Tokens of prompt and answer by which the speed of a model that was there before was measured."""
UNAVAILABLE: Final = "unavailable"


class Server:
    """What runs on a serving host beside its node."""

    def __init__(
        self,
        world: World,
        host: Host,
        machine: Machine,
        on_told: Callable[[Host, "Server"], None],
        *,
        by_gossip: bool = True,
    ) -> None:
        """`on_told` hears of every load and speed that is told; the node hears of them, too, if
        they travel `by_gossip`, else only that the model is offered.
        """
        self._world = world
        self._host = host
        self._on_told = on_told
        self._by_gossip = by_gossip
        self.machine = machine
        self.told = Load(0, 0, 0)
        """What the node was given last."""
        self._engine: Engine | None = None
        self._speed = ServedSpeed()
        self._busy_slot_ns = 0
        """Of lives that are over."""
        self._is_looking = False
        self._began_ns = 0

    @property
    def load(self) -> Load:
        """The truth, now."""
        return self._engine.load if self._engine is not None else Load(0, 0, self.machine.slots)

    @property
    def told_speed(self) -> Speed | None:
        """What it has told of its speed."""
        return self._speed.told

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded, in a process that lives."""
        return self._engine is not None

    def busy_slot_ns(self) -> int:
        """Slots in use, added up over time until now."""
        running = self._engine.busy_until_now() if self._engine is not None else 0
        return self._busy_slot_ns + running

    # ---- its process ----

    def begin(self, load_ns: int) -> None:
        """Its process starts; the model is there `load_ns` later."""
        self.told = Load(0, 0, 0)
        self._speed = ServedSpeed()
        self._began_ns = self._world.now
        life = self._host.life
        self._world.at(load_ns, lambda: self._finish_loading(life, load_ns == 0))

    def _finish_loading(self, life: int, was_there: bool) -> None:
        if self._host.life != life:
            return
        self._engine = Engine(self.machine, at=self._world.at, now=lambda: self._world.now)
        if self._host.is_paused:
            self._engine.freeze()
        self._world.give(self._host, OfferChanged(MODEL_KEY, pack(MODEL)))
        if was_there:
            prefill_ns, decode_ns = self.machine.prefill_ns(SERVED), self.machine.decode_ns(SERVED)
            self._note_speed(SERVED, SERVED + 1, prefill_ns, decode_ns)
        self._changed()

    def end(self) -> None:
        """Its process is gone."""
        if self._engine is not None:
            self._engine.stop()
            self._busy_slot_ns += self._engine.busy_slot_ns
            self._engine = None

    def freeze(self) -> None:
        """Its process stands still."""
        if self._engine is not None:
            self._engine.freeze()

    def thaw(self) -> None:
        """The end of `freeze`."""
        if self._engine is not None:
            self._engine.thaw()
            self._changed()

    # ---- requests ----

    def ask(self, work: Work) -> str:
        """Take a request: "" if it runs or waits, else the code of the refusal."""
        if self._engine is None:
            return UNAVAILABLE
        refusal = self._engine.submit(work)
        self._changed()
        return refusal or ""

    def cancel(self, work: Work) -> None:
        """Its asker is gone, or wants it no more."""
        if self._engine is not None:
            self._engine.cancel(work)
            self._changed()

    def emitted(self, work: Work) -> int:
        """Tokens of it that have come out by now; as of its end, if the process is gone."""
        return self._engine.emitted(work) if self._engine is not None else work.emitted_tokens

    def note_done(self, work: Work) -> None:
        """One of its requests has ended."""
        self._note_speed(
            work.prompt_tokens,
            work.output_tokens,
            work.first_ns - work.started_ns,
            self._world.now - work.first_ns,
        )
        self._changed()

    def _note_speed(
        self, prompt_tokens: int, output_tokens: int, prefill_ns: int, rest_ns: int
    ) -> None:
        self._speed.note(
            prompt_tokens=prompt_tokens,
            prefill_ns=prefill_ns,
            output_tokens=output_tokens,
            rest_ns=rest_ns,
            waited_ns=rest_ns,
        )
        is_first = self._speed.told is None
        speed = self._speed.news(self._world.now)
        if speed is not None:
            self._on_told(self._host, self)
            if self._by_gossip or is_first:
                offer = pack({**MODEL, **speed.to_fields()})
                self._world.give(self._host, OfferChanged(MODEL_KEY, offer))

    # ---- load ----

    def _changed(self) -> None:
        """Look at the load when the next quarter of a second of this process is over."""
        if self._is_looking:
            return
        self._is_looking = True
        since_ns = (self._world.now - self._began_ns) % LOAD_NS
        self._world.at(LOAD_NS - since_ns, self._look)

    def _look(self) -> None:
        self._is_looking = False
        if self._engine is None or self._host.is_paused:
            return
        load = self._engine.load
        if load != self.told:
            self.told = load
            self._on_told(self._host, self)
            if self._by_gossip:
                self._world.give(self._host, LoadChanged(load))
