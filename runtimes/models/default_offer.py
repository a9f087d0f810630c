"""The one place that decides what a node offers when nobody says: the best on disk, or `demo`.

The best is the largest that fits comfortably: every offered model is loaded at once and stays.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import psutil

from runtimes.base import RuntimeFailure
from runtimes.llama.files.model_file import check_model_file
from runtimes.llama.files.projector import projector_bytes, sight_key
from runtimes.models.found_model import FoundModel
from runtimes.models.on_disk import models_on_disk

DEMO = "demo"
MEMORY_FACTOR = 1.2
"""Weights and what grows with them: the context's memory, the buffers of a step."""
MEMORY_SPARE_BYTES = 2**30
NAMES_SHOWN_MAX = 4
START_BYTES = 16 * 1024
"""Of a file, in which it says what it is, before its vocabulary."""
ARCHITECTURE_KEY = b"general.architecture"
"""By convention the first pair of the file; a string: type u32 = 8, length u64, bytes."""
NO_TEXT_GENERATORS = frozenset(
    (
        "bert", "clip", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3",
        "llama-embed", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "t5", "t5encoder",
        "wavtokenizer-dec",
    )
)  # fmt: skip
"""Embeddings, encoders and speech: good models, but they do not answer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DefaultOffer:
    """What to give to `make_source`, and what to tell the person about it."""

    spec: str = DEMO
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notice: str | None = None
    """One line: what was found and how to choose."""


def default_offer() -> DefaultOffer:
    """Look at the disk and at the free memory. Blocks for two seconds at most, normally less."""
    return choose_offer(models_on_disk(), psutil.virtual_memory().available)


def choose_offer(models: Sequence[FoundModel], memory_bytes: int) -> DefaultOffer:
    """The largest of `models` that fits into `memory_bytes` and can answer, else the demo model."""
    ranked = sorted(models, key=lambda model: (-model.size_bytes, model.name))
    ranked = [model for model in ranked if model.size_bytes > 0]
    for model in ranked:
        if needed_bytes(model) <= memory_bytes and _can_answer(model.path):
            return DefaultOffer(
                spec=f"llama:{model.path}",
                options=model.options(),
                notice=f"offering {model.name} ({_size(model.size_bytes)}, found in "
                f"{model.origin}){_others(ranked, model)}",
            )
    if not ranked:
        return DefaultOffer()
    return DefaultOffer(
        notice=f"offering the demo model: of the {len(ranked)} found on this disk "
        f"({_names(ranked)}) none fits into {_size(memory_bytes)} of free memory and "
        "answers; choose one with --model NAME"
    )


def needed_bytes(model: FoundModel) -> int:
    """The memory in which a model is comfortable, with what it sees with. Blocking."""
    sight = 0
    if model.projector is not None:
        with contextlib.suppress(RuntimeFailure, OSError):  # then it is served without
            sight = projector_bytes(model.projector)
    return int(model.size_bytes * MEMORY_FACTOR) + MEMORY_SPARE_BYTES + sight


def architecture(path: pathlib.Path) -> str:
    """What sort of model a GGUF file says it is; empty when it does not say so at its start."""
    return _architecture_in(_start(path))


def _start(path: pathlib.Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(START_BYTES)
    except OSError:
        return b""


def _architecture_in(start: bytes) -> str:
    _, found, rest = start.partition(ARCHITECTURE_KEY)
    if not found or int.from_bytes(rest[:4], "little") != 8:
        return ""
    length = int.from_bytes(rest[4:12], "little")
    return rest[12 : 12 + length].decode("ascii", "replace") if length <= 64 else ""


def _can_answer(path: pathlib.Path) -> bool:
    try:
        check_model_file(path)
    except RuntimeFailure:
        return False
    start = _start(path)
    name = _architecture_in(start)
    return name not in NO_TEXT_GENERATORS and sight_key(name).encode() not in start


def _others(ranked: Sequence[FoundModel], chosen: FoundModel) -> str:
    others = [model for model in ranked if model is not chosen]
    if not others:
        return "; --model NAME chooses another"
    return f"; also found: {_names(others)}; choose with --model NAME"


def _names(models: Sequence[FoundModel]) -> str:
    names = list(dict.fromkeys(model.name for model in models))
    more = len(names) - NAMES_SHOWN_MAX
    return ", ".join(names[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
