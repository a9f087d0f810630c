"""The one place for what is known of a model before it is loaded: its card, its slots, its need."""

import dataclasses
import pathlib

from runtimes import hardware
from runtimes.base import ModelCard, RuntimeFailure
from runtimes.embedding import GENERATE
from runtimes.llama.files.context_length import CONTEXT_TOKENS_MIN
from runtimes.llama.files.fit import added_room, capacity_of, needed_room
from runtimes.llama.files.hash_cache import HashCache, file_identity
from runtimes.llama.files.metadata import Metadata, read_metadata
from runtimes.llama.files.model_file import model_bytes
from runtimes.llama.files.projector import projector_bytes, sight_key, tasks_of
from runtimes.llama.files.shape import Shape
from runtimes.llama.kv_type import BLOCK, F16, is_quantized
from runtimes.llama.libraries import library_folders
from runtimes.llama.pace import BATCH_TOKENS
from runtimes.llama.settings import LlamaSettings
from runtimes.room import Room

RUNTIME_NAME = "llama"
BYTES_MAX = 2**62
"""What is told to others must fit into 63 bits."""
ARCHITECTURE_CHARACTERS_MAX = 64
"""llama.cpp knows none with half as many."""
GPU_LIBRARIES = ("cuda", "vulkan")
"""llama.cpp's libraries for the GPUs that are looked for (NVIDIA's), by a part of their names."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """A model file as it is now."""

    card: ModelCard
    """With an empty content hash while that is not known."""
    slots: int
    shared_tokens: int
    """Room for the tokens of all sequences, where those that are only kept share it; else 0."""
    need: Room
    least: Room
    """The same without the weights, which are mapped."""
    memory_bytes: int
    """What the estimate, and so the worker, plans with; 0: unknown."""
    identity: str
    """Of the files, for the cache of hashes."""


def look(
    settings: LlamaSettings, hashes: HashCache | None, limit_bytes: int | None = None
) -> Prospect:
    """Read what the files say. `limit_bytes`: what models may take of the memory. Blocking: a
    fraction of a second. Raises RuntimeFailure `invalid_model`, and OSError.
    """
    identity = file_identity(*settings.files)
    size_bytes = model_bytes(settings.path)
    draft_bytes = 0
    added_bytes = 0 if settings.lora is None else settings.lora.path.stat().st_size
    if settings.projector is not None:
        added_bytes += projector_bytes(settings.projector)
    metadata = read_metadata(settings.path)
    shape = Shape.of(metadata)
    _check(shape, metadata, settings.path)
    _check_kv_type(shape, settings)
    gpus = len(hardware.usable_gpus()) if has_gpu_build() else 0
    available = hardware.available_memory_bytes()
    if limit_bytes is not None:
        available = min(available or limit_bytes, limit_bytes)
    try:
        capacity = capacity_of(shape, settings, available=available, gpu=gpus > 0)
        need = needed_room(shape, settings, size_bytes + added_bytes, capacity, gpus=gpus)
        if settings.draft is not None and shape.pooling.task == GENERATE:
            draft = Shape.of(read_metadata(settings.draft))
            draft_bytes = model_bytes(settings.draft)
            plain = dataclasses.replace(settings, kv_type=F16, batch_tokens=BATCH_TOKENS)
            need += added_room(draft, plain, draft_bytes, capacity, gpus=gpus)
    except ArithmeticError as error:
        raise _invalid(settings.path, f"has sizes that make no sense ({error})") from error
    if max(need.memory_bytes, need.vram_bytes) >= BYTES_MAX:
        raise _invalid(settings.path, "has sizes that make no sense")
    generates = shape.pooling.task == GENERATE
    mapped_bytes = size_bytes + draft_bytes if settings.mmap else 0
    content_hash = settings.content_hash
    if content_hash is None and hashes is not None:
        content_hash = hashes.find(identity)
    return Prospect(
        card=ModelCard(
            name=settings.name,
            content_hash=content_hash or "",
            runtime=RUNTIME_NAME,
            architecture=shape.architecture,
            parameters=shape.parameters,
            quantization=shape.quantization,
            size_bytes=size_bytes,
            context_tokens=shape.context_tokens(settings.context_tokens),
            tasks=tasks_of(shape.pooling.task, settings.projector),
        ),
        slots=capacity.slots,
        shared_tokens=capacity.kv_tokens if capacity.is_shared and generates else 0,
        need=need,
        least=Room(max(0, need.memory_bytes - mapped_bytes), need.vram_bytes),
        memory_bytes=available,
        identity=identity,
    )


def _check(shape: Shape, metadata: Metadata, path: pathlib.Path) -> None:
    """Refuse what no worker would load, and what other nodes would not read."""
    name = shape.architecture
    if name == "clip":
        raise RuntimeFailure(
            "invalid_model",
            f"{path} is a projector, with which another model sees; name that model, and give this "
            "file as its option mmproj=FILE",
        )
    if sight_key(name) in metadata.values:
        raise RuntimeFailure(
            "invalid_model",
            f"{path} has model and projector in one file, as only Ollama reads it; "
            "offer it through Ollama (--upstream http://127.0.0.1:11434), or choose a GGUF "
            "whose projector is a file of its own (mmproj)",
        )
    if len(name) > ARCHITECTURE_CHARACTERS_MAX or not name.isprintable():
        raise _invalid(path, "has no sane name of its architecture")
    if shape.pooling.task != GENERATE and shape.trained_context_tokens < CONTEXT_TOKENS_MIN:
        raise _invalid(path, "does not say how long texts may be")


def _check_kv_type(shape: Shape, settings: LlamaSettings) -> None:
    if shape.pooling.task != GENERATE:
        return  # no cache is kept
    widths = [width for width in (shape.key_width, shape.value_width) if width % BLOCK]
    if is_quantized(settings.kv_type) and widths:
        raise RuntimeFailure(
            "invalid_model",
            f"kv_type={settings.kv_type} is for heads of a multiple of {BLOCK} numbers, and those "
            f"of {settings.path} have {widths[0]}; leave it out",
        )


def _invalid(path: pathlib.Path, what: str) -> RuntimeFailure:
    return RuntimeFailure("invalid_model", f"{path} {what}; download it again or choose another")


def has_gpu_build() -> bool:
    """Whether the llama.cpp that is installed can use NVIDIA's GPUs; by its files, for only a
    worker loads it.
    """
    return any(
        kind in library.name
        for folder in library_folders()
        for library in folder.glob("*ggml-*")
        for kind in GPU_LIBRARIES
    )
