"""The one place where a model on the Hugging Face Hub becomes a `Runtime`: fetched, then served.

What the cache has is served without asking the Hub. Else attempt follows attempt, each going on
where the last one ended, until the model is there or the Hub says that there is no such thing.
"""

import contextlib
import importlib.util
import logging
import math
import pathlib
from collections.abc import AsyncGenerator, Iterator, Mapping

import trio

from runtimes.base import (
    ChangeCallback,
    GenerateEvent,
    Load,
    ModelCard,
    Request,
    Runtime,
    RuntimeFailure,
)
from runtimes.hardware import Gpu
from runtimes.llama.files.hash_cache import HashCache
from runtimes.llama.files.model_file import model_name
from runtimes.llama.files.prospect import RUNTIME_NAME
from runtimes.llama.files.speed_cache import SpeedCache
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import check_llama_cpp, check_options, read_settings
from runtimes.model_memory import ModelMemory
from runtimes.models.found_model import FoundModel, plain_name
from runtimes.models.gguf_files import ScanBudget
from runtimes.models.hub_cache import hub_cache_models
from runtimes.models.hub_fetch import fetch
from runtimes.models.hub_frames import Fetching
from runtimes.models.hub_reference import HubModelFiles, HubReference, choose
from runtimes.standing import ModelState, Standing
from runtimes.worker.restart_delay import RestartDelay

LOG_S = 10.0
"""Progress goes to the log so often."""

_log = logging.getLogger(__name__)


class HubModel(Runtime):
    """One model of the Hub, downloaded while the node is up already."""

    def __init__(
        self,
        reference: HubReference,
        options: Mapping[str, str],
        *,
        retry_delay: RestartDelay | None = None,
    ) -> None:
        """Raises RuntimeFailure `missing_dependency` when it can never be served or fetched."""
        check_llama_cpp()
        check_options(options)
        self._reference = reference
        self._options = dict(options)
        self._retry_delay = retry_delay or RestartDelay(least_s=1.0, most_s=60.0)
        self._model: LlamaRuntime | None = None
        self._memory: ModelMemory | None = None
        self._progress = FetchProgress(str(reference))
        self._trouble = ""
        if importlib.util.find_spec("huggingface_hub") is None and not cached(reference):
            raise RuntimeFailure(
                "missing_dependency",
                "huggingface_hub is not installed: pip install huggingface_hub",
            )

    @property
    def card(self) -> ModelCard | None:
        """See `Runtime.card`; None while it is fetched."""
        return None if self._model is None else self._model.card

    @property
    def standing(self) -> Standing | None:
        """See `Runtime.standing`."""
        if self._model is not None:
            return self._model.standing
        card = ModelCard(name=str(self._reference), content_hash="", runtime=RUNTIME_NAME)
        state, share, why = ModelState.FETCHING, self._progress.share, self._trouble
        return Standing(card=card, state=state, share=share, reason=why)

    @property
    def load(self) -> Load:
        """See `Runtime.load`."""
        return Load(queued=0, running=0, slots=0) if self._model is None else self._model.load

    @property
    def kept_tokens(self) -> int:
        """See `Runtime.kept_tokens`."""
        return 0 if self._model is None else self._model.kept_tokens

    @property
    def progress(self) -> float:
        """How far the model is fetched and then, from 0 again, how far it is loaded; 0 to 1."""
        return self._progress.share if self._model is None else self._model.progress

    @property
    def trouble(self) -> str:
        """Why the last attempt or worker ended, in one line; empty while all is well."""
        return self._trouble if self._model is None else self._model.trouble

    @property
    def advice(self) -> str | None:
        """See `Source.advice`."""
        return None if self._model is None else self._model.advice

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """See `Runtime.gpus`."""
        return () if self._model is None else self._model.gpus

    def use_memory(self, memory: ModelMemory) -> None:
        """See `Source.use_memory`."""
        self._memory = memory

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        """See `Runtime.wanted`."""
        with contextlib.nullcontext() if self._model is None else self._model.wanted():
            yield

    async def serve(self, on_change: ChangeCallback) -> None:
        """See `Source.serve`."""
        path = await trio.to_thread.run_sync(cached, self._reference, abandon_on_cancel=True)
        while path is None:
            path = await self._try_to_fetch()
        options = {"name": plain_name(model_name(path))} | self._options
        settings = read_settings(str(path), options)
        self._model = LlamaRuntime(settings, hashes=HashCache(), speeds=SpeedCache())
        if self._memory is not None:
            self._model.use_memory(self._memory)
        try:
            on_change()
            await self._model.serve(on_change)
        finally:
            self._model = None

    async def generate(self, request: Request) -> AsyncGenerator[GenerateEvent, None]:
        """See `Runtime.generate`."""
        if self._model is None:
            why = self._trouble or f"it is being downloaded, {self.progress:.0%} done"
            raise RuntimeFailure("unavailable", f"{self._reference} is not ready: {why}")
        async with contextlib.aclosing(self._model.generate(request)) as events:
            async for event in events:
                yield event

    async def _try_to_fetch(self) -> pathlib.Path | None:
        """One attempt; None after one that failed and the wait that has to follow it."""
        received_before = self._progress.received_bytes
        try:
            path = await fetch(
                self._reference, self._note, with_projector="mmproj" not in self._options
            )
        except RuntimeFailure as failure:
            if failure.code != "unavailable":
                raise
            if failure.message != self._trouble:
                _log.warning("%s: %s", self._reference, failure.message)
            self._trouble = failure.message
            # An attempt that brought something has earned a quick successor.
            has_come_on = self._progress.received_bytes > received_before
            await trio.sleep(self._retry_delay.after(math.inf if has_come_on else 0.0))
            return None
        _log.info("%s is downloaded", self._reference)
        self._trouble = ""
        return path

    def _note(self, report: Fetching) -> None:
        line = self._progress.note(report, trio.current_time())
        if report.received_bytes:
            self._trouble = ""
        if line:
            _log.info("%s", line)


class FetchProgress:
    """How far a download is and how fast, over all its attempts."""

    def __init__(self, title: str) -> None:
        self._title = title
        self.share = 0.0
        """0 to 1."""
        self.received_bytes = 0
        """Over the network, in all attempts."""
        self._attempt_bytes = 0
        self._logged_at = -math.inf
        self._logged_bytes = 0

    def note(self, report: Fetching, now_s: float) -> str:
        """Take a report in; a line for the log when one is due, else an empty string."""
        if report.received_bytes < self._attempt_bytes:
            self._attempt_bytes = 0  # another attempt
        self.received_bytes += report.received_bytes - self._attempt_bytes
        self._attempt_bytes = report.received_bytes
        if report.total_bytes:
            self.share = min(1.0, report.done_bytes / report.total_bytes)
        elapsed_s = now_s - self._logged_at
        if elapsed_s < LOG_S or not report.total_bytes:
            return ""
        rate = (self.received_bytes - self._logged_bytes) / elapsed_s / 1e6
        self._logged_at, self._logged_bytes = now_s, self.received_bytes
        return (
            f"downloading {self._title}: {self.share:.0%} of {report.total_bytes / 1e9:.2f} GB, "
            f"{rate:.1f} MB/s"
        )


def cached(reference: HubReference) -> pathlib.Path | None:
    """Where the Hugging Face cache has the model already, whole; None if it has not."""
    try:
        found = hub_cache_models(ScanBudget())
    except RuntimeError:  # no home folder to look in
        return None
    repository = reference.repository.casefold()
    models = {
        _as_files(model): model.path for model in found if model.repository.casefold() == repository
    }
    try:
        return models[choose(reference, list(models))]
    except RuntimeFailure:
        return None


def _as_files(model: FoundModel) -> HubModelFiles:
    return HubModelFiles(
        name=model_name(model.path), files=(model.path.name,), size_bytes=model.size_bytes
    )
