"""The one place that remembers on disk how fast models were when they were tried out."""

import dataclasses
import hashlib
import importlib.metadata
import pathlib
import platform
from typing import Final

from runtimes.llama.cache_file import CacheFile, cache_folder
from runtimes.llama.model_file import HASH_CHARACTERS
from runtimes.llama.settings import LlamaSettings
from runtimes.standing import TokenTimes

NS_MAX: Final = 60_000_000_000
_COUNTS: Final = ("cores", "threads", "gpu_layers", "split", "reproducible", "flash_attention")
"""Settings that change how long a token takes."""


class SpeedCache:
    """Times by content hash, this machine, and how the model is run. Blocking, safe for threads;
    never raises.
    """

    def __init__(self, file: pathlib.Path | None = None) -> None:
        path = file or cache_folder() / "speeds.json"
        self._cache = CacheFile(path, "speeds", _is_times)

    def find(self, content_hash: str, settings: LlamaSettings) -> TokenTimes | None:
        """What was measured, if anything was."""
        found = self._cache.find(_key(content_hash, settings))
        return TokenTimes(*found) if found is not None else None

    def keep(self, content_hash: str, settings: LlamaSettings, times: TokenTimes) -> None:
        """Remember it, if that can be done."""
        self._cache.keep(_key(content_hash, settings), dataclasses.astuple(times))


def _key(content_hash: str, settings: LlamaSettings) -> str:
    run = [getattr(settings, name) for name in _COUNTS]
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    told = repr((content_hash, platform.node(), version, run)).encode("utf-8", "replace")
    return hashlib.blake2b(told, digest_size=HASH_CHARACTERS // 2).hexdigest()


def _is_times(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(ns) is int and 1 <= ns <= NS_MAX for ns in value)
    )
