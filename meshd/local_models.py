"""The one place for the models that this very node runs: one runtime each, kept up in one task."""

from collections.abc import Callable, Sequence

import structlog
import trio

from protocol.messages import Load
from runtimes.base import ModelCard, Runtime, RuntimeFailure

log = structlog.get_logger()


class LocalModels:
    """This node's runtimes."""

    def __init__(self, runtimes: Sequence[Runtime]) -> None:
        self._runtimes = list(runtimes)

    async def serve(self, on_change: Callable[[], None]) -> None:
        """Load all models and keep them up until cancelled; one that cannot be is given up.

        `on_change` is called when `cards` may differ.
        """
        async with trio.open_nursery() as nursery:
            for runtime in self._runtimes:
                nursery.start_soon(self._serve_one, runtime, on_change)

    async def _serve_one(self, runtime: Runtime, on_change: Callable[[], None]) -> None:
        advised: set[str] = set()

        def changed() -> None:
            card, advice = runtime.card, runtime.advice
            if card is not None:
                log.info("model.ready", name=card.name, context_tokens=card.context_tokens)
            if advice is not None and advice not in advised:
                advised.add(advice)
                log.warning("model.advice", advice=advice)
            on_change()

        try:
            await runtime.serve(changed)
        except RuntimeFailure as failure:
            log.error("model.given_up", code=failure.code, reason=failure.message)
            self._runtimes.remove(runtime)
            on_change()

    def find(self, model: str) -> Runtime | None:
        """The runtime that serves `model` now; of several the least busy."""
        serving = [r for r in self._runtimes if r.card is not None and r.card.name == model]
        return min(serving, key=lambda r: r.load.queued + r.load.running, default=None)

    def cards(self) -> list[ModelCard]:
        """What can be served now, one card a name."""
        cards: dict[str, ModelCard] = {}
        for runtime in self._runtimes:
            if runtime.card is not None:
                cards.setdefault(runtime.card.name, runtime.card)
        return list(cards.values())

    @property
    def is_loading(self) -> bool:
        """Whether a model is still to come (or to come back)."""
        return any(runtime.card is None for runtime in self._runtimes)

    @property
    def load(self) -> Load:
        """All runtimes together."""
        loads = [runtime.load for runtime in self._runtimes]
        return Load(
            sum(load.queued for load in loads),
            sum(load.running for load in loads),
            sum(load.slots for load in loads),
        )
