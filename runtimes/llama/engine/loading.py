"""The one place where a worker's model gets ready: engine and content hash side by side."""

import os
import pathlib
import threading

from runtimes.base import RuntimeFailure
from runtimes.embedding import GENERATE
from runtimes.llama.engine.devices import gpu_devices
from runtimes.llama.engine.embedder import Embedder
from runtimes.llama.engine.engine import Engine
from runtimes.llama.engine.model import open_model
from runtimes.llama.files.adapter import Adapter, whole_hash
from runtimes.llama.files.model_file import model_bytes
from runtimes.llama.files.projector import tasks_of
from runtimes.llama.frames import Frame, Load, Loading, Ready
from runtimes.worker.pipe import Pipe

PROGRESS_STEP = 0.01


def load_engine(load: Load, pipe: Pipe[Frame]) -> tuple[Engine | Embedder, Ready]:
    """Load what `load` names, telling `pipe` how far it is.

    Raises RuntimeFailure: `invalid_model`, `missing_dependency`, or `unavailable` where another
    try later may do.
    """
    path = pathlib.Path(os.fsdecode(load.path))
    progress = Progress(pipe)
    adapter = None
    if load.lora is not None:
        adapter = Adapter(pathlib.Path(os.fsdecode(load.lora)), load.lora_scale)
    projector = None if load.projector is None else pathlib.Path(os.fsdecode(load.projector))
    hashing = Hashing(path, adapter, projector, load.content_hash, progress)
    model = open_model(load, lambda share: progress.note("load", share))
    engine = Engine(model, load) if model.pooling.task == GENERATE else Embedder(model, load)
    progress.note("load", 1.0)
    devices = gpu_devices()
    ready = Ready(
        content_hash=hashing.result(),
        architecture=model.architecture,
        parameters=model.parameters,
        quantization=model.quantization,
        size_bytes=model_bytes(path),
        context_tokens=engine.context_tokens,
        gpu_offload=model.gpu_offload,
        slots=engine.slots,
        tasks=tasks_of(model.pooling.task, projector),
        gpu_names=tuple(name for name, _, _ in devices),
        gpu_bytes=tuple(total for _, total, _ in devices),
        gpu_free_bytes=tuple(free for _, _, free in devices),
    )
    return engine, ready


class Progress:
    """Reports how far loading is: the slower of hashing and loading."""

    def __init__(self, pipe: Pipe[Frame]) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._shares = {"hash": 0.0, "load": 0.0}
        self._sent = -1.0

    def note(self, part: str, share: float) -> None:
        """One part has come so far."""
        with self._lock:
            self._shares[part] = share
            slowest = min(self._shares.values())
            if slowest < self._sent + PROGRESS_STEP:
                return
            self._sent = slowest
        self._pipe.send(Loading(progress=slowest))


class Hashing:
    """Computes the content hash in a thread, while the main thread loads the model."""

    def __init__(
        self,
        path: pathlib.Path,
        adapter: Adapter | None,
        projector: pathlib.Path | None,
        known: str | None,
        progress: Progress,
    ) -> None:
        self._files = path, adapter, projector
        self._result = known
        self._progress = progress
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="hashing")
        self._thread.start()

    def result(self) -> str:
        """Wait for the hash. Raises RuntimeFailure `invalid_model` if the file cannot be read."""
        self._thread.join()
        if self._result is None:
            raise RuntimeFailure("invalid_model", f"the model cannot be read ({self._error})")
        return self._result

    def _run(self) -> None:
        try:
            if self._result is None:
                self._result = whole_hash(
                    *self._files, lambda share: self._progress.note("hash", share)
                )
            self._progress.note("hash", 1.0)
        except OSError as error:
            self._error = error
