"""The one place for a model's projector on this disk: which file it is, and what it needs.

A projector (`mmproj`) is the half of a vision model that turns images into what the model reads.
It lies in a GGUF file of its own, mostly beside the model.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Mapping
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
DECODED_BYTES: Final = 17
"""For each pixel, while an image is decoded: a PNG with transparency and 16 bits has 16."""
PATCHES_MAX: Final = {
    "qwen2vl_merger": 4 * 4_096,
    "qwen2.5vl_merger": 4 * 4_096,
    "qwen3vl_merger": 4 * 4_096,
    "ling3vl": 4 * 4_096,
    "glm4v": 4 * 4_096,
    "kimik25": 4 * 4_096,
    "muse-glimmer": 4 * 4_096,
    "hunyuanvl": 4 * 16_384,
    "youtuvl": 4 * 62_500,
    "gemma4v": 9 * 1_120,
    "pixtral": 4 * 1_024,
    "lightonocr": 4 * 1_024,
    "kimivl": 4 * 1_024,
    "minimax_m3": 4 * 576,
    "lfm2": 4 * 256,
}
"""Of one image, in kinds that make more of a larger one. They are mtmd's own bounds, which no file
states: in tokens, of 2 by 2 or 3 by 3 patches each."""

_WORD: Final = re.compile(r"mxfp\d_moe|[^\W_]{2,}")
_ANY: Final = re.compile(
    r"mmproj|model|gguf|[it]?q\d\w*|b?f\d\d|fp\d\d|mxfp\d(_moe)?|ud|nl|xs|xxs|xl|imat(rix)?|i1"
)
"""Words of a name that say nothing of which model it is: of formats, mostly."""


def is_projector_name(name: str) -> bool:
    """Whether a file of that name is a projector, which alone answers nothing."""
    return "mmproj" in name.lower()


def sight_key(architecture: str) -> str:
    """What a model's own file says that has its projector in it, as Ollama makes some; llama.cpp
    does not load those.
    """
    return f"{architecture}.vision.block_count"


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


def fitting_projectors(model: str, sizes: Mapping[str, int]) -> list[str]:
    """Of the GGUF files in one folder (name to size in bytes) those that are projectors of the file
    `model` by their names: they name it, or no model at all where all files are of this one. The
    most telling name comes first, then the smallest file. Pure.
    """
    own = _words(model_name(pathlib.Path(model)))
    others = [name for name in sizes if not is_projector_name(name)]
    is_of_one = all(_words(model_name(pathlib.Path(name))) == own for name in others)
    fitting = []
    for name, size_bytes in sizes.items():
        words = _words(name)
        fits = words <= own if words else is_of_one
        if fits and is_projector_name(name) and name != model:
            fitting.append((-len(words), size_bytes, name))
    return [name for _, _, name in sorted(fitting)]


def is_projector(path: pathlib.Path) -> bool:
    """Whether the file at `path` is a projector for images, by its header. Blocking."""
    try:
        check_model_file(path)
        return _sees(read_metadata(path))
    except (RuntimeFailure, OSError):
        return False


def projector_bytes(path: pathlib.Path) -> int:
    """The memory that it takes: its weights, the buffers of one image, and what decoding one needs.
    Blocking. Raises RuntimeFailure `invalid_model`, and OSError.
    """
    values = read_metadata(path).values
    kind = values.get("clip.projector_type") or values.get("clip.vision.projector_type")

    def number(key: str) -> int:
        value = values.get(f"clip.vision.{key}")
        return value if type(value) is int and 0 <= value < 2**24 else 0

    patch = max(1, number("patch_size"))
    pixels = max(number("image_size") ** 2, number("image_max_pixels"))
    # Images are made smaller, hardly larger.
    patches = max(pixels, min(PATCHES_MAX.get(str(kind), 0) * patch**2, PIXELS_MAX)) // patch**2
    wide = 4 * (2 * number("feed_forward_length") + 6 * number("embedding_length"))
    return path.stat().st_size + patches * wide + DECODED_BYTES * PIXELS_MAX


def tasks_of(task: str, projector: pathlib.Path | None) -> tuple[str, ...]:
    """What a model that is made for `task` can do with a projector: only who generates sees."""
    return (GENERATE, SEE) if task == GENERATE and projector is not None else (task,)


def _beside(model: pathlib.Path) -> pathlib.Path | None:
    fitting = fitting_projectors(model.name, _sizes(model.parent))
    return next(filter(is_projector, map(model.with_name, fitting)), None)


def _sizes(folder: pathlib.Path) -> dict[str, int]:
    """The GGUF files of a folder, and their bytes."""
    sizes = {}
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(ENTRIES_MAX), entries, strict=False):
                if entry.name.lower().endswith(".gguf"):
                    with contextlib.suppress(OSError):  # a link to nothing, or just deleted
                        sizes[entry.name] = entry.stat().st_size
    except OSError:
        return {}
    return sizes


def _words(name: str) -> frozenset[str]:
    words = _WORD.findall(name.lower())
    return frozenset(word for word in words if not _ANY.fullmatch(word))


def _sees(metadata: Metadata) -> bool:
    return (
        metadata.values.get("general.architecture") == "clip"
        and metadata.values.get("clip.has_vision_encoder") is True
    )
