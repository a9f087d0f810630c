"""The one place for how a model on the Hugging Face Hub is written, ORG/REPO[:QUANT], and chosen.

Pure: knows no network. A repository mostly has one model in many formats, some of them split.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from runtimes.base import RuntimeFailure
from runtimes.llama.files.model_file import model_name, model_parts
from runtimes.llama.files.projector import fitting_projectors, is_projector_name
from runtimes.models.found_model import plain_name
from runtimes.models.gguf_files import SUFFIX
from runtimes.models.quantization import canonical, preference, quantization_of

SHOWN_MAX = 24

_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_QUANTIZATION = re.compile(r"[A-Za-z0-9_./-]{1,200}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HubReference:
    """One model on the Hub, as a person names it."""

    repository: str
    """`ORG/REPO`."""
    quantization: str = ""
    """A format such as `Q4_K_M`, or a file's name; empty: a sensible one."""

    def __str__(self) -> str:
        return self.repository + (f":{self.quantization}" if self.quantization else "")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HubModelFiles:
    """One model of a repository: its file, or all parts of its split in order."""

    name: str
    files: tuple[str, ...]
    """As the repository names them, with `/`."""
    size_bytes: int

    @property
    def quantization(self) -> str:
        """Its format by its name; empty: unknown."""
        return quantization_of(self.name)


def read_reference(text: str) -> HubReference:
    """Read ORG/REPO[:QUANT]. Raises RuntimeFailure `invalid_model`."""
    repository, _, quantization = text.partition(":")
    is_bad = _REPOSITORY.fullmatch(repository) is None or ".." in repository
    if is_bad or (":" in text and _QUANTIZATION.fullmatch(quantization) is None):
        raise RuntimeFailure(
            "invalid_model",
            f"{plain_name(text)!r} names no model on the Hugging Face Hub; write "
            "hf:ORG/REPO or hf:ORG/REPO:QUANT, such as hf:Qwen/Qwen3-0.6B-GGUF:Q8_0",
        )
    return HubReference(repository=repository, quantization=quantization)


def models_in(files: Mapping[str, int]) -> list[HubModelFiles]:
    """The models among a repository's files (name to size in bytes), without unfinished splits."""
    found = []
    for path in _gguf_files(files):
        if is_projector_name(path.name):
            continue
        try:
            parts = [part.name for part in model_parts(pathlib.Path(path.name))]
        except RuntimeFailure:  # not the first part
            continue
        names = tuple(str(path.with_name(part)) for part in parts)
        if all(name in files for name in names):
            size_bytes = sum(files[name] for name in names)
            stem = model_name(pathlib.Path(path.name))
            found.append(HubModelFiles(name=stem, files=names, size_bytes=size_bytes))
    return found


def projector_of(model: HubModelFiles, files: Mapping[str, int]) -> str | None:
    """The projector of `model` among its repository's files (name to size in bytes): the one that
    it would have in a folder; None if there is none.
    """
    first = pathlib.PurePosixPath(model.files[0])
    beside = {
        path.name: files[str(path)] for path in _gguf_files(files) if path.parent == first.parent
    }
    fitting = fitting_projectors(first.name, beside)
    return str(first.with_name(fitting[0])) if fitting else None


def _gguf_files(files: Mapping[str, int]) -> Iterator[pathlib.PurePosixPath]:
    for file in sorted(files):
        path = pathlib.PurePosixPath(file)
        is_plain = str(path) == file and _stays_inside(path)
        if is_plain and path.name.lower().endswith(SUFFIX):
            yield path


def _stays_inside(path: pathlib.PurePosixPath) -> bool:
    """Whether a file's name, which came from the network, is a plain one below a folder."""
    is_plain = str(path).isprintable() and "\\" not in str(path) and ":" not in str(path)
    return is_plain and not path.is_absolute() and ".." not in path.parts


def choose(reference: HubReference, models: Sequence[HubModelFiles]) -> HubModelFiles:
    """The one of `models` that is asked for. Raises RuntimeFailure `invalid_model`."""
    where = reference.repository
    if not models:
        raise RuntimeFailure(
            "invalid_model",
            f"{where} has no GGUF file; look for a repository whose name ends in -GGUF",
        )
    if not reference.quantization:
        return min(models, key=lambda model: preference(model.quantization, model.size_bytes))
    matching = _matching(reference.quantization, models)
    if not matching:
        offered = list(dict.fromkeys(model.quantization or model.name for model in models))
        raise RuntimeFailure(
            "invalid_model",
            f"{where} has no {reference.quantization}; it has {_listed(offered)}",
        )
    if len(matching) > 1:
        raise RuntimeFailure(
            "invalid_model",
            f"{where} has {len(matching)} models in {reference.quantization}: write one of "
            f"{_listed([model.name for model in matching])} after the colon instead",
        )
    return matching[0]


def _matching(wanted: str, models: Sequence[HubModelFiles]) -> list[HubModelFiles]:
    """By format, else by the file's name."""
    by_format = [model for model in models if model.quantization == canonical(wanted)]
    key = wanted.casefold().removesuffix(SUFFIX)
    return by_format or [
        model
        for model in models
        if key in (model.name.casefold(), model.files[0].casefold().removesuffix(SUFFIX))
    ]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_MAX
    shown = ", ".join(plain_name(name) for name in names[:SHOWN_MAX])
    return shown + (f" and {more} more" if more > 0 else "")
