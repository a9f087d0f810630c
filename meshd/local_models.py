"""The one place for the models that this very node runs: one runtime each, kept up in one task."""

from collections.abc import Callable, Sequence

import structlog
import trio

from protocol.messages import Load
from runtimes.base import ModelCard, Runtime, RuntimeFailure, Source

log = structlog.get_logger()


class LocalModels:
    """This node's runtimes, by the sources that bring them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self.is_draining = False
        """What runs may end; nothing is served besides."""

    async def serve(self, on_change: Callable[[], None]) -> None:
        """Load all models and keep them up until cancelled; a source that cannot is given up.

        `on_change` is called when `cards` may differ.
        """
        async with trio.open_nursery() as nursery:
            for source in self._sources:
                nursery.start_soon(self._serve_one, source, on_change)

    async def _serve_one(self, source: Source, on_change: Callable[[], None]) -> None:
        said: list[tuple[str, str]] = []

        def changed() -> None:
            news = [("model.ready", r.card.name) for r in source.runtimes if r.card is not None]
            if source.advice is not None:
                news.append(("model.advice", source.advice))
            for event, what in news:
                if (event, what) not in said:
                    log.info(event, what=what)
            said[:] = news
            on_change()

        try:
            await source.serve(changed)
        except RuntimeFailure as failure:
            log.error("model.given_up", code=failure.code, reason=failure.message)
            self._sources.remove(source)
            on_change()

    def _runtimes(self) -> list[Runtime]:
        return [runtime for source in self._sources for runtime in source.runtimes]

    def find(self, model: str) -> Runtime | None:
        """The runtime that serves `model` now; of several the one with the most free slots."""

        def taken(runtime: Runtime) -> int:
            load = runtime.load
            return load.queued + load.running - load.slots

        return min(self._serving(model), key=taken, default=None)

    def slots(self, model: str) -> int:
        """How many requests the runtimes that serve `model` now can run at a time."""
        return sum(runtime.load.slots for runtime in self._serving(model))

    def _serving(self, model: str) -> list[Runtime]:
        return [r for r in self._offered() if r.card is not None and r.card.name == model]

    def _offered(self) -> list[Runtime]:
        return [] if self.is_draining else self._runtimes()

    def cards(self) -> list[ModelCard]:
        """What can be served now, one card a name."""
        cards: dict[str, ModelCard] = {}
        for runtime in self._offered():
            if runtime.card is not None:
                cards.setdefault(runtime.card.name, runtime.card)
        return list(cards.values())

    @property
    def advice(self) -> list[str]:
        """Lines that would make models work better."""
        return [source.advice for source in self._sources if source.advice is not None]

    @property
    def load(self) -> Load:
        """All runtimes together."""
        loads = [runtime.load for runtime in self._runtimes()]
        return Load(
            sum(load.queued for load in loads),
            sum(load.running for load in loads),
            0 if self.is_draining else sum(load.slots for load in loads),
        )
