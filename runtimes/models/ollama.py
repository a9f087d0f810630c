"""The one place that knows where Ollama keeps its models.

models/manifests/HOST/NAMESPACE/MODEL/TAG     JSON: the layers of NAMESPACE/MODEL:TAG
models/blobs/sha256-HEX                       a layer; one of them is the GGUF file
"""

import json
import os
import pathlib
import re

from runtimes.models.found_model import FoundModel, plain_name
from runtimes.models.gguf_files import ScanBudget, files_below

ORIGIN = "Ollama"
FOLDER_VARIABLE = "OLLAMA_MODELS"
SERVICE_FOLDER = pathlib.Path("/usr/share/ollama/.ollama/models")
"""Where Ollama's installer for Linux lets its service keep them."""
MODEL_LAYER = "application/vnd.ollama.image.model"
ADAPTER_LAYER = "application/vnd.ollama.image.adapter"
MANIFEST_BYTES_MAX = 256 * 1024

_DEFAULT_HOST = "registry.ollama.ai"
_DEFAULT_NAMESPACE = "library"
_DEFAULT_TAG = "latest"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def ollama_models(budget: ScanBudget) -> list[FoundModel]:
    """What Ollama has on this disk, by the names that Ollama uses."""
    found: dict[str, FoundModel] = {}
    for folder in _folders():
        manifests = folder / "manifests"
        for manifest in files_below(manifests, budget, depth=3):
            model = _read_manifest(folder, manifest)
            if model is not None:
                found.setdefault(model.name, model)
    return list(found.values())


def _folders() -> list[pathlib.Path]:
    if folder := os.environ.get(FOLDER_VARIABLE):
        return [pathlib.Path(folder)]
    return [pathlib.Path("~/.ollama/models").expanduser(), SERVICE_FOLDER]


def _read_manifest(folder: pathlib.Path, manifest: pathlib.Path) -> FoundModel | None:
    """The model that a manifest describes; None unless it is one GGUF file that is there."""
    place = manifest.relative_to(folder / "manifests").parts
    if len(place) != 4:
        return None
    try:
        with manifest.open("rb") as file:
            content = json.loads(file.read(MANIFEST_BYTES_MAX))
        layers = [layer for layer in content["layers"] if isinstance(layer, dict)]
        weights = [layer for layer in layers if layer.get("mediaType") == MODEL_LAYER]
        # Without its adapter a model is not the one that its name promises.
        if len(weights) != 1 or any(layer.get("mediaType") == ADAPTER_LAYER for layer in layers):
            return None
        digest = _DIGEST.fullmatch(weights[0]["digest"])
        if digest is None:
            return None
        blob = folder / "blobs" / f"sha256-{digest[1]}"
        if not blob.is_file():
            return None
        size_bytes = blob.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # a manifest is just a file
        return None
    host, namespace, model, tag = place
    family = model if namespace == _DEFAULT_NAMESPACE else f"{namespace}/{model}"
    family = family if host == _DEFAULT_HOST else f"{host}/{namespace}/{model}"
    return FoundModel(
        name=plain_name(f"{family}:{tag}"),
        path=blob,
        size_bytes=size_bytes,
        origin=ORIGIN,
        aliases=(plain_name(family),) if tag == _DEFAULT_TAG else (),
    )
