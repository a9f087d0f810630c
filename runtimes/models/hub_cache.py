"""The one place that knows where huggingface_hub keeps what it has downloaded.

hub/models--ORG--REPO/snapshots/COMMIT/FILE     a link to a blob; whole files only
hub/models--ORG--REPO/refs/main                 the commit that `main` was last
"""

import os
import pathlib
from collections.abc import Iterator

from runtimes.models.found_model import FoundModel
from runtimes.models.gguf_files import ScanBudget, gguf_models
from runtimes.models.repository import repository_model

ORIGIN = "the Hugging Face cache"
REPOSITORIES_MAX = 2_000
REF_BYTES_MAX = 100

_PREFIX = "models--"
_SEPARATOR = "--"


def hub_cache_models(budget: ScanBudget) -> list[FoundModel]:
    """The GGUF files in the Hugging Face cache, of every repository the newest."""
    found: list[FoundModel] = []
    for repository, folder in _repositories(hub_cache_folder(), budget):
        found += _models_of(repository, folder, budget)
    return found


def hub_cache_folder() -> pathlib.Path:
    """Where huggingface_hub looks, by the same variables. Raises RuntimeError without a home."""
    environment = os.environ
    if folder := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return pathlib.Path(folder).expanduser()
    if home := environment.get("HF_HOME"):
        return pathlib.Path(home).expanduser() / "hub"
    caches = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(caches).expanduser() / "huggingface" / "hub"


def _repositories(cache: pathlib.Path, budget: ScanBudget) -> Iterator[tuple[str, pathlib.Path]]:
    try:
        with os.scandir(cache) as scan:
            names = [entry.name for entry in scan if budget.spend()][:REPOSITORIES_MAX]
    except (OSError, ValueError):
        return
    for name in sorted(names):
        owner, separator, repository = name.removeprefix(_PREFIX).partition(_SEPARATOR)
        if name.startswith(_PREFIX) and separator and owner and repository:
            yield f"{owner}/{repository}", cache / name


def _models_of(repository: str, folder: pathlib.Path, budget: ScanBudget) -> Iterator[FoundModel]:
    """Each file once: that of `main` if it is there, else the one of any other commit."""
    snapshots = folder / "snapshots"
    main = _main_commit(folder)
    models = gguf_models(snapshots, budget, depth=4)
    models.sort(key=lambda model: model.path.relative_to(snapshots).parts[0] != main)
    seen: set[tuple[str, ...]] = set()
    for model in models:
        place = model.path.relative_to(snapshots).parts[1:]
        if place and place not in seen:
            seen.add(place)
            yield repository_model(model, repository, ORIGIN)


def _main_commit(folder: pathlib.Path) -> str:
    ref = folder / "refs" / "main"
    try:
        if not ref.is_file():
            return ""
        with ref.open("rb") as file:
            return file.read(REF_BYTES_MAX).decode("ascii", "replace").strip()
    except (OSError, ValueError):
        return ""
