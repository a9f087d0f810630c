"""The one place that keeps an upstream's models in step with what the upstream lists.

    look: GET /models, every 5 s; 5, 10, 20, 30 s apart while it is down; at once after a failure
    listed            -> one runtime each; what is not listed any more goes
    no connection     -> all models go, running requests are cut off (`crashed`)
    no answer in time -> all models go, unless requests run: then it is busy, not dead
    any other failure -> all models go; requests that run may end

A server that takes one request at a time is not looked at while it works: the request itself shows
whether it lives.
"""

import dataclasses

import trio

from runtimes.base import ChangeCallback, Runtime, RuntimeFailure, Source
from runtimes.openai.call import Silent, Unreachable
from runtimes.openai.capabilities import ask_tasks, with_sight
from runtimes.openai.failures import one_line
from runtimes.openai.listing import ListedModel, Listing, ask_models
from runtimes.openai.occupancy import IDLE, ask_occupancy
from runtimes.openai.prefill import prefill_of
from runtimes.openai.runtime import UpstreamRuntime
from runtimes.openai.settings import SLOTS_DEFAULT, UpstreamSettings

_DOUBTFUL = ("crashed", "unavailable")
"""Failures of a request after which the upstream is looked at again."""


class UpstreamSource(Source):
    """All models of one OpenAI-compatible server."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._runtimes: dict[str, UpstreamRuntime] = {}
        self._bases: tuple[str, ...] = settings.address.bases
        self._turn: trio.Semaphore | None = None
        """Of an upstream that takes one request at a time: whose it is, looks included."""
        self._tasks: dict[str, tuple[str, ...]] = {}
        """What models are made for, of those that it has told so."""
        self._advice: str | None = None
        self._on_change: ChangeCallback | None = None
        self._doubt: trio.Event | None = None

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """One for each model that the upstream lists."""
        return tuple(self._runtimes.values())

    @property
    def advice(self) -> str | None:
        """Why there are no models, or not all of them, and what to do; None while all is well."""
        return self._advice

    async def serve(self, on_change: ChangeCallback) -> None:
        """See `Source.serve`. Never gives up: an upstream may be started at any time."""
        assert self._on_change is None, "a source is served once at a time"
        self._on_change = on_change
        look_s, pause_s = self._settings.look_s, 0.0
        try:
            while True:
                self._doubt = trio.Event()
                is_up = await self._look_in_turn()
                pause_s = look_s if is_up else self._longer(pause_s)
                await trio.sleep(self._settings.look_pause_s)
                with trio.move_on_after(pause_s - self._settings.look_pause_s):
                    await self._doubt.wait()
        finally:
            self._on_change = None
            self._remove(list(self._runtimes), "this node stops", break_off=True)
            on_change()

    @property
    def _is_busy(self) -> bool:
        return any(runtime.is_used for runtime in self._runtimes.values())

    def _longer(self, pause_s: float) -> float:
        return max(self._settings.look_s, min(self._settings.look_s_max, 2 * pause_s))

    async def _look_in_turn(self) -> bool:
        turn = self._turn
        if turn is None:
            return await self._look()
        try:
            turn.acquire_nowait()
        except trio.WouldBlock:
            return True
        try:
            return await self._look()
        finally:
            turn.release()

    async def _look(self) -> bool:
        """Ask for the models once; whether the upstream is up."""
        try:
            listing = await ask_models(
                self._settings, self._bases, within_s=self._settings.look_timeout_s
            )
            self._tasks = await ask_tasks(self._settings, listing, self._tasks)
        except Silent as failure:
            if self._is_busy:
                return True
            self._lose(failure)
        except RuntimeFailure as failure:
            self._lose(failure)
        else:
            self._keep(listing)
            await self._look_closer(listing)
            return True
        return False

    async def _look_closer(self, listing: Listing) -> None:
        """Ask how busy it is: it is listed already, and nobody waits for this."""
        occupancies = await ask_occupancy(self._settings, listing)
        before = self._shown()
        for name, runtime in self._runtimes.items():
            runtime.note(None if occupancies is None else occupancies.get(name, IDLE))
        self._tell_if_changed(before)

    def _keep(self, listing: Listing) -> None:
        before = self._shown()
        address = self._settings.address
        self._bases = (listing.base, *(base for base in address.bases if base != listing.base))
        if listing.takes_one != (self._turn is not None):  # another server is there now
            self._remove(list(self._runtimes), "")
            self._turn = trio.Semaphore(1) if listing.takes_one else None
        prefill = prefill_of(listing.software, self._settings.continues)
        models = {
            model.id: dataclasses.replace(model, tasks=self._tasks_of(model), prefill=prefill)
            for model in listing.models
        }
        self._remove([name for name in self._runtimes if name not in models], "")
        slots = self._settings.slots or (1 if listing.takes_one else SLOTS_DEFAULT)
        for name, model in models.items():
            if name in self._runtimes:
                self._runtimes[name].describe(model, listing.base)
                continue
            self._runtimes[name] = UpstreamRuntime(
                self._settings,
                model,
                base=listing.base,
                slots=slots,
                turn=self._turn,
                on_failure=self._note_failure,
            )
        self._advice = None
        if not models:
            self._advice = f"the upstream {address.url} has no model: load one there"
        elif listing.left_out:
            self._advice = (
                f"{listing.left_out} models of {address.url} are left out: at most {len(models)} "
                "of one upstream are offered, with names of at most 128 characters"
            )
        self._tell_if_changed(before)

    def _tasks_of(self, model: ListedModel) -> tuple[str, ...]:
        tasks, sees = self._tasks.get(model.id, model.tasks), self._settings.sees
        return tasks if sees is None else with_sight(tasks, sees)

    def _lose(self, failure: RuntimeFailure) -> None:
        before = self._shown()
        is_gone = isinstance(failure, Unreachable)
        why = one_line(self._settings.without_key(failure.message))
        self._remove(list(self._runtimes), why, break_off=is_gone)
        mend = "; start it, or mind the URL" if is_gone else ""
        self._advice = f"no models of {self._settings.address.url} now: {why}{mend}"
        self._tell_if_changed(before)

    def _remove(self, names: list[str], why: str, *, break_off: bool = False) -> None:
        for name in names:
            self._runtimes.pop(name).withdraw(why, break_off=break_off)

    def _note_failure(self, failure: RuntimeFailure) -> None:
        """A request failed: nobody there is certain at once, else it is worth a look."""
        if self._on_change is None:
            return
        if isinstance(failure, Unreachable):
            self._lose(failure)
        elif failure.code in _DOUBTFUL and self._doubt is not None:
            self._doubt.set()

    def _shown(self) -> list[object]:
        runtimes = self._runtimes.values()
        return [self._advice, *((runtime.card, runtime.load.slots) for runtime in runtimes)]

    def _tell_if_changed(self, before: list[object]) -> None:
        if self._on_change is not None and before != self._shown():
            self._on_change()
