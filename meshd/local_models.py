"""The one place for the models that this very node runs: one runtime each, kept up in one task."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import structlog
import trio

from meshd.view import model_row
from protocol.messages import Load
from runtimes.base import ModelCard, Runtime, RuntimeFailure, Source
from runtimes.hardware import Gpu
from runtimes.model_memory import ModelMemory
from runtimes.standing import ModelState, Standing, TokenTimes

log = structlog.get_logger()


class LocalModels:
    """This node's runtimes, by the sources that bring them."""

    def __init__(self, sources: Sequence[Source], memory: ModelMemory | None = None) -> None:
        """`memory`: where those are that this machine loads; None: all that it has."""
        self._sources = list(sources)
        self._given_up: list[Source] = []
        self._memory = memory or ModelMemory()
        for source in self._sources:
            source.use_memory(self._memory)
        self.is_draining = False
        """What runs may end; nothing is served besides."""

    async def serve(self, on_change: Callable[[], None]) -> None:
        """Load all models and keep them up until cancelled; a source that cannot is given up.

        `on_change` is called when `cards` may differ.
        """
        async with trio.open_nursery() as nursery:
            for source in self._sources:
                nursery.start_soon(self._serve_one, source, on_change)
            nursery.start_soon(self._memory.run)

    async def _serve_one(self, source: Source, on_change: Callable[[], None]) -> None:
        said: list[tuple[str, str]] = []
        """Events, and of which models."""

        def changed() -> None:
            news = [news for standing in source.standings if (news := _news(standing))]
            if source.advice is not None:
                news.append(("model.advice", source.advice, source.advice))
            for event, name, what in news:
                if (event, name) not in said:
                    tell = log.warning if event == "model.unusable" else log.info
                    tell(event, what=what)
            said[:] = [(event, name) for event, name, _ in news]
            on_change()

        try:
            await source.serve(changed)
        except RuntimeFailure as failure:
            log.error("model.given_up", code=failure.code, reason=failure.message)
            self._sources.remove(source)
            self._given_up.append(source)
            on_change()

    def _runtimes(self) -> list[Runtime]:
        return [runtime for source in self._sources for runtime in source.runtimes]

    def find(self, model: str) -> Runtime | None:
        """The runtime that serves `model` now; of several the one with the most free slots, among
        those that are in memory if any is.
        """

        def how_late(runtime: Runtime) -> tuple[bool, bool, int]:
            load = runtime.load
            is_late = _load_s(runtime) > 0
            return (
                is_late,
                is_late and _is_refused(runtime),
                load.queued + load.running - load.slots,
            )

        return min(self._serving(model), key=how_late, default=None)

    @contextmanager
    def wanted(self, model: str) -> Iterator[None]:
        """Inside this a request waits for `model` or runs on it: it is loaded, and stays."""
        runtime = self.find(model)
        with nullcontext() if runtime is None else runtime.wanted():
            yield

    def load_s(self, model: str) -> float:
        """How long until it is in memory, if it is loaded now; 0: it is."""
        return min(map(_load_s, self._serving(model)), default=0.0)

    def loading(self, model: str) -> Standing | None:
        """How far its load is; None: it is in memory, or nobody loads it."""
        standings = self._standings(model)
        if any(standing.state is ModelState.READY for standing in standings):
            return None
        coming = (each for each in standings if each.state is ModelState.LOADING)
        return min(coming, key=lambda standing: standing.ready_in_s, default=None)

    def times(self, model: str) -> TokenTimes | None:
        """How fast it was when it was tried out here; None: it was not."""
        return next((each.times for each in self._standings(model) if each.times), None)

    def refusal(self, model: str) -> str:
        """Why it is neither there nor on its way; empty when there is no such thing."""
        return self.reason(model) if self.loading(model) is None else ""

    def reason(self, model: str) -> str:
        """Why it is not there, be it on its way or not; empty when there is no such thing."""
        standings = self._standings(model)
        if any(standing.state is ModelState.READY for standing in standings):
            return ""
        return next((standing.reason for standing in standings if standing.reason), "")

    def _standings(self, model: str) -> list[Standing]:
        known = (runtime.standing for runtime in self._offered())
        return [standing for standing in known if standing and standing.card.name == model]

    def slots(self, model: str) -> int:
        """How many requests the runtimes that serve `model` now can run at a time."""
        return sum(runtime.load.slots for runtime in self._serving(model))

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """This machine's, as the runtime sees them that sees most."""
        return max((runtime.gpus for runtime in self._runtimes()), key=len, default=())

    def kept_tokens(self, model: str) -> int:
        """About so many tokens of prompts that were answered stay in who answers."""
        return max((runtime.kept_tokens for runtime in self._serving(model)), default=0)

    def _serving(self, model: str) -> list[Runtime]:
        return [r for r in self._offered() if _name(r) == model]

    def _offered(self) -> list[Runtime]:
        return [] if self.is_draining else self._runtimes()

    def cards(self) -> list[ModelCard]:
        """What can be served now, one card a name."""
        cards: dict[str, ModelCard] = {}
        for runtime in self._offered():
            if runtime.card is not None:
                cards.setdefault(runtime.card.name, runtime.card)
        return list(cards.values())

    def standings(self) -> list[Standing]:
        """Of all models that were asked for, by name; what cannot be offered included."""
        sources = (*self._sources, *self._given_up)
        found = [standing for source in sources for standing in source.standings]
        return sorted(found, key=lambda standing: standing.card.name)

    @property
    def advice(self) -> list[str]:
        """Lines that would make models work better."""
        return [source.advice for source in self._sources if source.advice is not None]

    @property
    def load(self) -> Load:
        """All runtimes together."""
        loads = [runtime.load for runtime in self._runtimes()]
        # Models that are not in memory could not run beside those that are.
        warm = [runtime.load.slots for runtime in self._runtimes() if _load_s(runtime) == 0]
        return Load(
            sum(load.queued for load in loads),
            sum(load.running for load in loads),
            0 if self.is_draining else sum(warm),
        )


def local_row(standing: Standing, node: str) -> dict[str, Any]:
    """A model as `meshd models --local` shows it."""
    is_ready = standing.state is ModelState.READY
    need = standing.need
    return {
        **model_row(standing.card, [node]),
        "loaded": [node] if is_ready else [],
        "state": str(standing.state),
        "share": round(standing.share, 3),
        "ready_in_s": round(standing.ready_in_s, 1),
        "needed_bytes": need.memory_bytes if need is not None else None,
        "needed_vram_bytes": need.vram_bytes if need is not None else None,
        "reason": standing.reason,
    }


def _name(runtime: Runtime) -> str | None:
    """Of the model that it serves now; also while it loads and its identity is not known yet."""
    card, standing = runtime.card, runtime.standing
    if card is None and standing is not None and standing.state is ModelState.LOADING:
        card = standing.card
    return None if card is None else card.name


def _is_refused(runtime: Runtime) -> bool:
    """It could not be loaded when it was wanted last."""
    standing = runtime.standing
    return standing is not None and standing.state is ModelState.COLD and bool(standing.reason)


def _load_s(runtime: Runtime) -> float:
    standing = runtime.standing
    if standing is None or standing.state is ModelState.READY:
        return 0.0
    return max(0.001, standing.ready_in_s)  # what is not ready is not there at once


def _news(standing: Standing) -> tuple[str, str, str] | None:
    """What the log says of a model, once: event, model, words (whose figures may change)."""
    name = standing.card.name
    match standing.state:
        case ModelState.READY | ModelState.LOADING | ModelState.COLD:
            return f"model.{standing.state}", name, name
        case ModelState.UNUSABLE:
            return "model.unusable", name, f"{name}: {standing.reason}"
    return None
