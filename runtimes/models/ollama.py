"""The one place that knows where Ollama keeps its models.

models/manifests/HOST/NAMESPACE/MODEL/TAG     JSON: the layers of NAMESPACE/MODEL:TAG
models/blobs/sha256-HEX                       a layer; one of them is the GGUF file,
                                              perhaps another one its projector
"""

import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from runtimes.models.found_model import FoundModel, plain_name
from runtimes.models.gguf_files import ScanBudget, files_below

ORIGIN = "Ollama"
FOLDER_VARIABLE = "OLLAMA_MODELS"
SERVICE_FOLDER = pathlib.Path("/usr/share/ollama/.ollama/models")
"""Where Ollama's installer for Linux lets its service keep them."""
MODEL_LAYER = "application/vnd.ollama.image.model"
PROJECTOR_LAYER = "application/vnd.ollama.image.projector"
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
        # Without its adapter a model is not the one that its name promises.
        if any(layer.get("mediaType") == ADAPTER_LAYER for layer in layers):
            return None
        blob = _only_blob(folder, layers, MODEL_LAYER)
        if blob is None:
            return None
        size_bytes = blob.stat().st_size
        projector = _only_blob(folder, layers, PROJECTOR_LAYER)
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
        projector=projector,
    )


def _only_blob(
    folder: pathlib.Path, layers: Iterable[dict[str, Any]], kind: str
) -> pathlib.Path | None:
    """The file of the only layer of a kind; None unless there is one such layer, and the file."""
    digests = [layer.get("digest") for layer in layers if layer.get("mediaType") == kind]
    if len(digests) != 1 or not isinstance(digests[0], str):
        return None
    digest = _DIGEST.fullmatch(digests[0])
    blob = folder / "blobs" / f"sha256-{digest[1]}" if digest else None
    return blob if blob is not None and blob.is_file() else None
