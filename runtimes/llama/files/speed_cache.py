"""The one place that remembers on disk how fast models were when they were tried out."""

import dataclasses
import hashlib
import importlib.metadata
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Final

from runtimes import hardware
from runtimes.llama.files.cache_file import CacheFile, cache_folder
from runtimes.llama.files.model_file import HASH_CHARACTERS
from runtimes.llama.files.prospect import has_gpu_build
from runtimes.llama.settings import LlamaSettings
from runtimes.standing import TokenTimes

NS_MAX: Final = 60_000_000_000
KEEP_S: Final = 7 * 86_400
"""Then it is measured again: a machine that was disturbed then, or has changed, is not known by it
for ever.
"""
_COUNTS: Final = (
    *("cores", "threads", "gpu_layers", "split", "reproducible", "flash_attention"),
    *("kv_type", "batch_tokens"),
)
"""Settings that change how long a token takes."""


class SpeedCache:
    """Times by content hash, this machine and its GPUs, and how the model is run. Blocking (NVML
    may take a second), safe for threads; never raises.
    """

    def __init__(
        self, file: pathlib.Path | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """`now`: the time of day in seconds since 1970."""
        self._now = now
        path = file or cache_folder() / "speeds.json"
        self._cache = CacheFile(path, "speeds", _is_times)

    def find(self, content_hash: str, settings: LlamaSettings) -> TokenTimes | None:
        """What was measured lately, if anything was."""
        found = self._cache.find(_key(content_hash, settings))
        if found is None:
            return None
        prefill_ns, decode_ns, measured_at = found
        is_recent = 0 <= self._now() - measured_at < KEEP_S
        return TokenTimes(prefill_ns, decode_ns) if is_recent else None

    def keep(self, content_hash: str, settings: LlamaSettings, times: TokenTimes) -> None:
        """Remember it, if that can be done."""
        value = [*dataclasses.astuple(times), int(self._now())]
        self._cache.keep(_key(content_hash, settings), value)


def _key(content_hash: str, settings: LlamaSettings) -> str:
    run = [getattr(settings, name) for name in _COUNTS]
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    gpus = [gpu.name for gpu in hardware.usable_gpus()] if has_gpu_build() else None
    told = repr((content_hash, platform.node(), version, gpus, run)).encode("utf-8", "replace")
    return hashlib.blake2b(told, digest_size=HASH_CHARACTERS // 2).hexdigest()


def _is_times(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(ns) is int and 1 <= ns <= NS_MAX for ns in value[:2])
        and type(value[2]) is int
    )
