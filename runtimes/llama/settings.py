"""The one place for what a llama runtime was asked to be: file, name, sizes, patience."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from runtimes import hardware
from runtimes.base import RuntimeFailure
from runtimes.llama.files.adapter import Adapter
from runtimes.llama.files.model_file import (
    HASH_CHARACTERS,
    check_model_file,
    is_content_hash,
    model_name,
)
from runtimes.llama.files.projector import find_projector
from runtimes.llama.kv_type import F16, KV_TYPES, is_quantized
from runtimes.llama.pace import BATCH_TOKENS
from runtimes.llama.split import OPTIONS as SPLIT_OPTIONS
from runtimes.llama.split import Split
from runtimes.source_options import check_names, integer_option

DEMO_SOURCE = "demo"
DEMO_FILE = pathlib.Path(__file__).with_name("demo") / "demo.gguf"
NAME_CHARACTERS_MAX = 128
SLOTS_MAX = 64
INTEGERS = {
    "context_tokens": (16, 2**24),
    "threads": (1, 1024),
    "gpu_layers": (-1, 100_000),
    "slots": (1, SLOTS_MAX),
    "kv_tokens": (16, 2**28),
    "reproducible": (0, 1),
    "flash_attention": (0, 1),
    "draft_tokens": (1, 64),
    "keep_alive": (0, 2**31),
    "pin": (0, 1),
    "mmap": (0, 1),
    "batch_tokens": (BATCH_TOKENS, 8_192),
}
"""Options that are numbers, and the least and the most of each."""
KEEP_ALIVE_S = 300
SWITCHES = ("reproducible", "flash_attention", "pin", "mmap")
TEXTS = ("name", "content_hash")
OPTIONS = (*INTEGERS, *TEXTS, *SPLIT_OPTIONS, "lora", "mmproj", "draft", "kv_type")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LlamaSettings:
    """One model file and how to run it."""

    path: pathlib.Path
    name: str
    """The model's name on the mesh."""
    cores: int = dataclasses.field(default_factory=hardware.usable_cores)
    """Physical cores that may be used."""
    threads: int | None = None
    """None: as many as there are cores, fewer for a small model."""
    context_tokens: int | None = None
    """None: what the model was trained for, 4,096 at most."""
    gpu_layers: int = -1
    """Layers that a GPU build puts on the GPU; -1: all."""
    split: Split = dataclasses.field(default_factory=Split)
    """Of those layers over several GPUs."""
    content_hash: str | None = None
    """None: the worker computes it while it loads."""
    lora: Adapter | None = None
    """Added to the weights."""
    projector: pathlib.Path | None = None
    """What it sees images with."""
    draft: pathlib.Path | None = None
    """A small model's file: it proposes what this one may say."""
    draft_tokens: int = 8
    """Proposed tokens that one step tries, of all requests together."""
    slots: int | None = None
    """Requests that run at a time; None: by the model's size and the memory."""
    kv_tokens: int | None = None
    """Tokens of all running requests together; None: by the slots and the memory."""
    reproducible: bool = False
    """Decode each request in batches of its own, so that no other one changes its rounding."""
    flash_attention: bool | None = None
    """None: as llama.cpp sees fit, which is wherever it can."""
    kv_type: str = F16
    """The KV cache's numbers, one of KV_TYPES."""
    batch_tokens: int = BATCH_TOKENS
    """Tokens in one decode, at most."""
    mmap: bool = True
    """Map the weights from the file; else they are read into memory of their own."""
    keep_alive: int | None = None
    """Seconds without a request after which it leaves the memory; None: a model that was loaded at
    the start stays, one that was loaded because somebody asked leaves after KEEP_ALIVE_S."""
    pin: bool = False
    """Load it at the start, whether it seems to fit or not, and keep it in memory."""
    queue_max: int = 32
    """Requests that may wait; more are refused."""
    hang_timeout_s: float = 120.0
    """Silence of a worker that owes something before it is killed; one batch of 512 prompt tokens
    on a slow machine takes a good part of a minute."""
    load_timeout_s: float = 600.0
    """Silence while loading; GPU kernels may be compiled then."""
    encode_timeout_s: float = 600.0
    """Silence while an image is encoded, and how long a cancel may wait for that: it is one step,
    of some thousand tokens in a large projector."""
    cancel_timeout_s: float = 30.0
    """How long a worker may take to confirm a cancel: it answers between two decodes."""

    @property
    def files(self) -> tuple[pathlib.Path, Adapter | None, pathlib.Path | None]:
        """What the content hash is of: the model, and what is added to it."""
        return self.path, self.lora, self.projector


def read_settings(source: str, options: Mapping[str, str]) -> LlamaSettings:
    """Turn a source and options into settings, after cheap checks of all of them.

    Raises RuntimeFailure: `invalid_model` (the file), `missing_dependency` (no llama.cpp) or
    `bad_request` (an option), with one line that says the mend.
    """
    check_options(options)
    if not source:
        raise RuntimeFailure("invalid_model", "no model file is named; give a GGUF file or 'demo'")
    path = _file(source)
    check_model_file(path)
    check_llama_cpp()
    name = DEMO_SOURCE if source == DEMO_SOURCE else model_name(path)
    values = {"name": name, "projector": find_projector(path, options.get("mmproj"))}
    settings = LlamaSettings(path=path, **(values | _values(options)))
    if not 1 <= len(settings.name) <= NAME_CHARACTERS_MAX or not settings.name.isprintable():
        raise _bad(f"a model's name has 1 to {NAME_CHARACTERS_MAX} printable characters")
    return settings


def _file(source: str) -> pathlib.Path:
    """Where the model that `source` names is. Raises RuntimeFailure `invalid_model`."""
    if source == DEMO_SOURCE:
        return DEMO_FILE
    try:
        return pathlib.Path(source).expanduser().absolute()
    except RuntimeError as error:  # `~somebody` who does not exist
        raise RuntimeFailure("invalid_model", f"{source} cannot be found ({error})") from error


def check_options(options: Mapping[str, str]) -> None:
    """Raise RuntimeFailure `bad_request` for an option that no model could have."""
    check_names(options, OPTIONS)
    _values(options)


def _values(options: Mapping[str, str]) -> dict[str, Any]:
    """The settings that `options` give, under their own names."""
    values: dict[str, Any] = {
        option: integer_option(options, option, least, most)
        for option, (least, most) in INTEGERS.items()
        if option in options
    }
    values |= {option: values[option] == 1 for option in SWITCHES if option in values}
    content_hash = options.get("content_hash")
    if content_hash is not None and not is_content_hash(content_hash):
        raise _bad(f"content_hash must be {HASH_CHARACTERS} lower-case hex letters")
    if "kv_type" in options:
        values["kv_type"] = _kv_type(options["kv_type"], values.get("flash_attention"))
    values["split"] = Split.of(options)
    if "lora" in options:
        values["lora"] = Adapter.of(options["lora"])
    if "draft" in options:
        if values.get("reproducible"):
            raise _bad(
                "a draft makes batches of other shapes, so reproducible cannot be had with it; "
                "leave out one of the two"
            )
        values["draft"] = _file(options["draft"])
        check_model_file(values["draft"])
    return values | {option: options[option] for option in TEXTS if option in options}


def _kv_type(name: str, flash_attention: object) -> str:
    if name not in KV_TYPES:
        raise _bad(f"kv_type must be one of {', '.join(KV_TYPES)}")
    if is_quantized(name) and flash_attention is False:
        raise _bad(f"kv_type={name} is had with flash attention only; leave out flash_attention=0")
    return name


def check_llama_cpp() -> None:
    """Raise RuntimeFailure `missing_dependency` unless llama-cpp-python is installed.

    Only looks for it: importing it is the worker's business.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise RuntimeFailure(
            "missing_dependency", "llama.cpp is not installed: pip install llama-cpp-python"
        )


def _bad(message: str) -> RuntimeFailure:
    return RuntimeFailure("bad_request", message)
