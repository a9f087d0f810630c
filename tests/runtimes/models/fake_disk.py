"""The one place that lays out models as other programs do, for the tests here."""

import hashlib
import json
import pathlib
import struct
from collections.abc import Sequence

from runtimes.llama.settings import DEMO_FILE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLLAMA_KIND = "application/vnd.ollama.image"


def gguf(size: int = 100, architecture: str = "llama") -> bytes:
    """The start of a GGUF file with one metadata pair, padded to `size` bytes; no real model."""
    key, value = b"general.architecture", architecture.encode()
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    return (struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + pair).ljust(size, b"\0")


def write(path: pathlib.Path, data: bytes) -> pathlib.Path:
    """A file with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def real_model(path: pathlib.Path) -> pathlib.Path:
    """A copy of the demo model, which llama.cpp can load."""
    return write(path, DEMO_FILE.read_bytes())


class FakeDisk:
    """A home folder with models of other programs in it."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        self.ollama_folder = home / ".ollama" / "models"
        self.lm_studio_folder = home / ".lmstudio" / "models"
        self.llama_cpp_folder = home / ".cache" / "llama.cpp"
        self.hub_folder = home / ".cache" / "huggingface" / "hub"

    def ollama(
        self,
        name: str,
        data: bytes,
        *,
        host: str = "registry.ollama.ai",
        folder: pathlib.Path | None = None,
        more_layers: Sequence[tuple[str, bytes]] = (),
    ) -> pathlib.Path:
        """A model as `ollama pull NAMESPACE/MODEL:TAG` leaves it; its blob. `more_layers` are kinds
        and what is in them.
        """
        top = folder or self.ollama_folder
        layers = [{"mediaType": f"{OLLAMA_KIND}.license", "digest": "sha256:00"}]
        blobs = []
        for kind, content in (("model", data), *more_layers):
            digest = hashlib.sha256(content).hexdigest()
            layers.append({"mediaType": f"{OLLAMA_KIND}.{kind}", "digest": f"sha256:{digest}"})
            blobs.append(write(top / "blobs" / f"sha256-{digest}", content))
        family, _, tag = name.partition(":")
        place = family if "/" in family else f"library/{family}"
        manifest = json.dumps({"schemaVersion": 2, "layers": layers}).encode()
        write(top / "manifests" / host / place / tag, manifest)
        return blobs[0]

    def lm_studio(self, place: str, data: bytes) -> pathlib.Path:
        """A model at PUBLISHER/REPO/FILE."""
        return write(self.lm_studio_folder / place, data)

    def llama_cpp(self, repository: str, file: str, data: bytes) -> pathlib.Path:
        """A file as llama.cpp's `-hf` left it."""
        org, _, repo = repository.partition("/")
        write(self.llama_cpp_folder / f"manifest={org}={repo}=latest.json", b"{}")
        return write(self.llama_cpp_folder / f"{org}_{repo}_{file}", data)

    def hub(self, repository: str, file: str, data: bytes, commit: str = COMMIT) -> pathlib.Path:
        """A file as huggingface_hub leaves it: a link to a blob."""
        folder = self.hub_folder / ("models--" + repository.replace("/", "--"))
        blob = write(folder / "blobs" / hashlib.sha256(data).hexdigest(), data)
        link = folder / "snapshots" / commit / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
        write(folder / "refs" / "main", COMMIT.encode())
        return link
