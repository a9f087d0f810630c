"""The one place for what is known of one model's files now: what they say, their hash, and how fast
the model was.

Files may be exchanged or written to at any time. What was computed of them holds for the identity
that they had before and still have afterwards.

Disks may hang, so no thread that touches one is waited for when its task is cancelled: who leaves
would hold up all others. What it still writes, it replaces whole.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Final

import trio

from runtimes.base import RuntimeFailure
from runtimes.llama.files.adapter import whole_hash
from runtimes.llama.files.hash_cache import HashCache, file_identity
from runtimes.llama.files.prospect import Prospect, look
from runtimes.llama.files.speed_cache import SpeedCache
from runtimes.llama.frames import Measure, Measured
from runtimes.llama.settings import LlamaSettings
from runtimes.model_memory import ModelMemory
from runtimes.standing import TokenTimes

IDENTIFY_S: Final = 5.0
"""After so long a file that changed while its hash was computed is read again."""


class KnownFile:
    """The files of one model. For trio tasks of one thread."""

    def __init__(
        self,
        settings: LlamaSettings,
        hashes: HashCache | None,
        speeds: SpeedCache | None = None,
    ) -> None:
        """`hashes`, `speeds`: where content hashes and times are remembered; None: nowhere."""
        self._settings = settings
        self._hashes = hashes
        self._speeds = speeds
        self._was_tried = False
        self._measured: Measured | None = None
        self._is_measured = trio.Event()
        self.times: TokenTimes | None = None
        """As they were measured; None: they were not."""
        self.prospect: Prospect | None = None
        self.trouble = ""
        """Why its hash cannot be computed at present."""

    async def look(self, limit_bytes: int | None) -> Prospect:
        """Read what the files say of themselves now. `limit_bytes`: see `prospect.look`.

        Raises RuntimeFailure `invalid_model`.
        """
        before = self.prospect
        try:
            found = await trio.to_thread.run_sync(
                look, self._settings, self._hashes, limit_bytes, abandon_on_cancel=True
            )
        except OSError as error:
            raise RuntimeFailure(
                "invalid_model",
                f"{error.filename or self._settings.path} cannot be read ({error.strerror})",
            ) from error
        if before is not None and before.identity == found.identity:
            # Also where the cache of hashes cannot be written.
            found = _with_hash(found, found.card.content_hash or before.card.content_hash)
        else:
            self.times, self._was_tried = None, False
        self.prospect = found
        await self._remember_times()
        return found

    async def _remember_times(self) -> None:
        """Look up what was measured of the model, as soon as it is known which one it is."""
        content_hash = self.prospect.card.content_hash if self.prospect is not None else ""
        if self._speeds is not None and self.times is None and content_hash:
            self.times = await trio.to_thread.run_sync(
                self._speeds.find, content_hash, self._settings, abandon_on_cancel=True
            )

    @property
    def is_trial_due(self) -> bool:
        """Whether it is to be tried out how fast the model is: one worker does, and no other after
        it, whatever became of it.
        """
        return self._speeds is not None and self.times is None and not self._was_tried

    async def try_out(
        self, ask: Callable[[Measure], None], memory: ModelMemory, tell: Callable[[], None]
    ) -> None:
        """Have a worker measure how fast the model is, if that is due, as soon as nothing in
        `memory` disturbs it. `ask` sends to the worker, whose answer goes to `note_measured`;
        `tell` is called when the times are known.
        """

        async def measure() -> Measured | None:
            self._was_tried = True
            self._measured, self._is_measured = None, trio.Event()
            ask(Measure())
            try:
                with trio.move_on_after(self._settings.hang_timeout_s):
                    await self._is_measured.wait()
            finally:
                ask(Measure(stop=True))
            return self._measured

        if not self.is_trial_due:
            return
        measured = await memory.undisturbed(measure)
        if measured is not None and measured.prefill_ns and measured.decode_ns:
            await self._note_times(TokenTimes(measured.prefill_ns, measured.decode_ns), tell)

    def note_measured(self, measured: Measured) -> None:
        """The worker has told this."""
        self._measured = measured
        self._is_measured.set()

    async def _note_times(self, times: TokenTimes, tell: Callable[[], None]) -> None:
        """This was measured; `tell` is called when it counts."""
        self.times = times
        tell()
        content_hash = self.prospect.card.content_hash if self.prospect is not None else ""
        if self._speeds is not None and content_hash:
            await trio.to_thread.run_sync(
                self._speeds.keep, content_hash, self._settings, times, abandon_on_cancel=True
            )

    async def identify(self, reading: trio.Lock) -> bool:
        """Compute the hash of the files, one model at a time under `reading`; whether it is known
        then. It is not when they have changed meanwhile, or cannot be read.
        """
        prospect, settings = self.prospect, self._settings
        assert prospect is not None
        async with reading:
            try:
                found = await trio.to_thread.run_sync(
                    whole_hash, *settings.files, abandon_on_cancel=True
                )
                self.trouble = ""
            except OSError as error:
                self.trouble = f"its file cannot be read ({error.strerror})"
                return False
        return await self.note_hash(prospect, found)

    async def is_current(self, prospect: Prospect | None) -> bool:
        """Whether the files are still those that were looked at."""
        settings = self._settings
        try:
            identity = await trio.to_thread.run_sync(
                file_identity, *settings.files, abandon_on_cancel=True
            )
        except OSError:
            return False
        return prospect is not None and identity == prospect.identity

    async def note_hash(self, prospect: Prospect, found: str) -> bool:
        """What was looked at as `prospect` has this hash, unless it was exchanged meanwhile;
        whether it was not.
        """
        if not await self.is_current(prospect):
            return False
        if self.prospect is not None and self.prospect.identity == prospect.identity:
            self.prospect = _with_hash(self.prospect, found)
        if self._hashes is not None and self._settings.content_hash is None:
            await trio.to_thread.run_sync(
                self._hashes.keep, prospect.identity, found, abandon_on_cancel=True
            )
        await self._remember_times()
        return True

    async def keep_identified(
        self,
        *,
        is_due: Callable[[], bool],
        next_change: Callable[[], trio.Event],
        tell: Callable[[], None],
        reading: trio.Lock,
        limit_bytes: int | None,
    ) -> None:
        """See to it that the hash is known whenever it `is_due`, until cancelled. `next_change`
        is set when that may differ; `tell` is called when something has come of it.
        """
        while True:
            change = next_change()
            if not is_due():
                await change.wait()
                continue
            if not await self.identify(reading):
                await trio.sleep(IDENTIFY_S)
                if is_due():
                    with contextlib.suppress(RuntimeFailure):  # it is being written, perhaps
                        await self.look(limit_bytes)
            tell()


def _with_hash(prospect: Prospect, content_hash: str) -> Prospect:
    card = dataclasses.replace(prospect.card, content_hash=content_hash)
    return dataclasses.replace(prospect, card=card)
