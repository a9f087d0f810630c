"""The one place where a folder full of GGUF files becomes a source of as many models."""

import logging
import pathlib
from collections.abc import Callable, Mapping

import trio

from runtimes.base import ChangeCallback, ModelCard, Runtime, RuntimeFailure, Source
from runtimes.llama.files.model_file import model_name
from runtimes.llama.files.prospect import RUNTIME_NAME
from runtimes.model_memory import ModelMemory
from runtimes.models.found_model import plain_name
from runtimes.models.gguf_files import ScanBudget, gguf_models
from runtimes.standing import ModelState, Standing

DEPTH_MAX = 4
MODELS_MAX = 32

_log = logging.getLogger(__name__)

MakeRuntime = Callable[[pathlib.Path, Mapping[str, str]], Runtime]


class ModelFolder(Source):
    """Every model in a folder, each served as if it had been named alone."""

    def __init__(self, folder: pathlib.Path, make_runtime: MakeRuntime) -> None:
        """Find the models and make their runtimes; what is no usable file is logged, not served.

        Raises RuntimeFailure `invalid_model` when nothing usable is there.
        """
        names = _names(folder)
        if len(names) > MODELS_MAX:
            raise _invalid(folder, f"has {len(names)} models, over {MODELS_MAX}; name some of them")
        self._runtimes: list[Runtime] = []
        self._given_up: list[Runtime] = []
        self._damaged: list[Standing] = []
        failure = _invalid(folder, "has no GGUF file in it; name another folder, or a file")
        for path, name in names.items():
            try:
                self._runtimes.append(make_runtime(path, {"name": name}))
            except RuntimeFailure as error:
                if error.code != "invalid_model":
                    raise
                _log.warning("left out of %s: %s", plain_name(str(folder)), error.message)
                failure = error
                card = ModelCard(name=name, content_hash="", runtime=RUNTIME_NAME)
                state, why = ModelState.UNUSABLE, error.message
                self._damaged.append(Standing(card=card, state=state, reason=why))
        if not self._runtimes:
            raise failure

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """See `Source.runtimes`."""
        return tuple(self._runtimes)

    @property
    def advice(self) -> str | None:
        """See `Source.advice`; the first there is, as all get the same."""
        return next((runtime.advice for runtime in self._runtimes if runtime.advice), None)

    @property
    def standings(self) -> tuple[Standing, ...]:
        """See `Source.standings`."""
        known = (runtime.standing for runtime in (*self._runtimes, *self._given_up))
        return (*(standing for standing in known if standing is not None), *self._damaged)

    def use_memory(self, memory: ModelMemory) -> None:
        """See `Source.use_memory`."""
        for runtime in self._runtimes:
            runtime.use_memory(memory)

    async def serve(self, on_change: ChangeCallback) -> None:
        """See `Source.serve`; one bad model does not end the others."""
        failures: list[RuntimeFailure] = []

        async def serve_one(runtime: Runtime) -> None:
            try:
                await runtime.serve(on_change)
            except RuntimeFailure as failure:
                _log.warning("given up: %s", failure.message)
                failures.append(failure)
                self._runtimes.remove(runtime)
                self._given_up.append(runtime)
                on_change()

        async with trio.open_nursery() as nursery:
            for runtime in list(self._runtimes):
                nursery.start_soon(serve_one, runtime)
        raise failures[-1]


def _names(folder: pathlib.Path) -> dict[pathlib.Path, str]:
    """Each model's file and name: the file's stem, with the folders before it if that is taken."""
    names: dict[pathlib.Path, str] = {}
    for model in gguf_models(folder, ScanBudget(), depth=DEPTH_MAX):
        stem = model_name(model.path)
        name = plain_name(stem)
        if name in names.values():
            name = plain_name("/".join((*model.path.relative_to(folder).parts[:-1], stem)))
        if name in names.values():
            continue  # names that only differ in what cannot be shown
        names[model.path] = name
    return names


def _invalid(folder: pathlib.Path, what: str) -> RuntimeFailure:
    return RuntimeFailure("invalid_model", f"{plain_name(str(folder))} {what}")
