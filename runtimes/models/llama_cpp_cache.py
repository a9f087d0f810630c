"""The one place that knows where llama.cpp keeps what it has downloaded: one folder for all.

    ORG_REPO_FILE.gguf                 a model, or a part of one
    manifest=ORG=REPO=TAG.json         says which of those underscores are none

Newer versions use the Hugging Face cache (`hub_cache.py`).
"""

import os
import pathlib
import sys
from collections.abc import Iterator

from runtimes.models.found_model import FoundModel
from runtimes.models.gguf_files import ScanBudget, files_below, gguf_models
from runtimes.models.repository import repository_model

ORIGIN = "llama.cpp's cache"
_MANIFEST = "manifest="


def llama_cpp_models(budget: ScanBudget) -> list[FoundModel]:
    """What llama.cpp has downloaded."""
    folder = _folder()
    prefixes = dict(_prefixes(folder, budget))
    found: list[FoundModel] = []
    for model in gguf_models(folder, budget, depth=0):
        prefix = max((p for p in prefixes if model.path.name.startswith(p)), key=len, default="")
        named = repository_model(model, prefixes.get(prefix, ""), ORIGIN, prefix=prefix)
        found.append(named)
    return found


def _folder() -> pathlib.Path:
    if told := os.environ.get("LLAMA_CACHE"):
        return pathlib.Path(told)
    if sys.platform == "darwin":
        caches = pathlib.Path("~/Library/Caches").expanduser()
    elif sys.platform == "win32":
        caches = pathlib.Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser()
    else:
        caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "llama.cpp"


def _prefixes(folder: pathlib.Path, budget: ScanBudget) -> Iterator[tuple[str, str]]:
    """Of files of a repository, and the repository."""
    for path in files_below(folder, budget, depth=0):
        if path.name.startswith(_MANIFEST):
            parts = path.name.removeprefix(_MANIFEST).split("=")
            if len(parts) == 3 and all(parts):
                yield f"{parts[0]}_{parts[1]}_", f"{parts[0]}/{parts[1]}"
