"""The one place for a model's projector on this disk: which file it is, and what it needs.

A projector (`mmproj`) is the half of a vision model that turns images into what the model reads.
It lies in a GGUF file of its own, mostly beside the model.
"""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Final

from runtimes.base import RuntimeFailure
from runtimes.embedding import GENERATE, SEE
from runtimes.limits import PIXELS_MAX
from runtimes.llama.files.metadata import Metadata, read_metadata
from runtimes.llama.files.model_file import check_model_file, model_name

NONE: Final = "none"
"""The option's value for a model that shall not see."""
ENTRIES_MAX: Final = 4_096
"""Of the model's folder, that are looked at."""
DECODED_BYTES: Final = 12
"""For each pixel, while an image is decoded; about."""

_WORD: Final = re.compile(r"[^\W_]{2,}")
_ANY: Final = re.compile(r"mmproj|model|gguf|i?q\d\w*|b?f\d\d|fp\d\d|ud|xs|xxs|xl|imat|i1")
"""Words of a name that say nothing of which model it is: of formats, mostly."""


def is_projector_name(name: str) -> bool:
    """Whether a file of that name is a projector, which alone answers nothing."""
    return "mmproj" in name.lower()


def find_projector(model: pathlib.Path, option: str | None) -> pathlib.Path | None:
    """The projector of the model at `model`: the file that `option` names, or else one beside it
    whose name names no other model. None if there is none, or none is wanted.

    Raises RuntimeFailure `invalid_model` for a named file that is no projector for images.
    """
    if option == NONE:
        return None
    if option is None:
        return _beside(model)
    try:
        path = pathlib.Path(option).expanduser().absolute()
    except RuntimeError as error:  # `~somebody` who does not exist
        raise RuntimeFailure("invalid_model", f"{option} cannot be found ({error})") from error
    check_model_file(path)
    if not _sees(read_metadata(path)):
        raise RuntimeFailure(
            "invalid_model", f"{path} is no projector for images; name one, or mmproj={NONE}"
        )
    return path


def projector_bytes(path: pathlib.Path) -> int:
    """The memory that it takes: its weights, the buffers of one image, and what decoding one needs.
    Blocking. Raises RuntimeFailure `invalid_model`, and OSError.
    """
    values = read_metadata(path).values

    def number(key: str) -> int:
        value = values.get(f"clip.vision.{key}")
        return value if type(value) is int and 0 <= value < 2**24 else 0

    patch = max(1, number("patch_size"))
    pixels = max(number("image_size") ** 2, number("image_max_pixels"))
    wide = 4 * (2 * number("feed_forward_length") + 6 * number("embedding_length"))
    return path.stat().st_size + pixels // patch**2 * wide + DECODED_BYTES * PIXELS_MAX


def tasks_of(task: str, projector: pathlib.Path | None) -> tuple[str, ...]:
    """What a model that is made for `task` can do with a projector: only who generates sees."""
    return (GENERATE, SEE) if task == GENERATE and projector is not None else (task,)


def _beside(model: pathlib.Path) -> pathlib.Path | None:
    own = _words(model_name(model))
    names = list(_names(model.parent))
    others = [name for name in names if not is_projector_name(name)]
    is_of_one = all(_words(model_name(pathlib.Path(name))) == own for name in others)
    fitting = []
    for name in names:
        words = _words(name)
        if is_projector_name(name) and (words <= own if words else is_of_one):
            size_bytes = _projector_size(model.with_name(name))
            if name != model.name and size_bytes is not None:
                fitting.append((-len(words), size_bytes, name))
    return model.with_name(min(fitting)[-1]) if fitting else None


def _names(folder: pathlib.Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(ENTRIES_MAX), entries, strict=False):
                if entry.name.lower().endswith(".gguf"):
                    yield entry.name
    except OSError:
        return


def _words(name: str) -> frozenset[str]:
    words = _WORD.findall(name.lower())
    return frozenset(word for word in words if not _ANY.fullmatch(word))


def _projector_size(path: pathlib.Path) -> int | None:
    """In bytes, on disk; None for a file that is no projector for images."""
    try:
        check_model_file(path)
        return path.stat().st_size if _sees(read_metadata(path)) else None
    except (RuntimeFailure, OSError):
        return None


def _sees(metadata: Metadata) -> bool:
    return (
        metadata.values.get("general.architecture") == "clip"
        and metadata.values.get("clip.has_vision_encoder") is True
    )
