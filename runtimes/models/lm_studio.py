"""The one place that knows where LM Studio keeps its models: PUBLISHER/REPO/FILE.gguf."""

import pathlib

from runtimes.models.found_model import FoundModel
from runtimes.models.gguf_files import ScanBudget, gguf_models
from runtimes.models.repository import repository_model

ORIGIN = "LM Studio"
FOLDERS = ("~/.lmstudio/models", "~/.cache/lm-studio/models")
"""Of today's versions and of those before 2025."""


def lm_studio_models(budget: ScanBudget) -> list[FoundModel]:
    """What LM Studio has on this disk."""
    found: list[FoundModel] = []
    for name in FOLDERS:
        folder = pathlib.Path(name).expanduser()
        for model in gguf_models(folder, budget, depth=4):
            place = model.path.relative_to(folder).parts
            repository = "/".join(place[:2]) if len(place) >= 3 else ""
            found.append(repository_model(model, repository, ORIGIN))
    return found
