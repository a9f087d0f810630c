"""The one place for a LoRA adapter: what is added to a model's weights, and how much of it."""

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Callable
from typing import Final

from runtimes.base import RuntimeFailure
from runtimes.llama.files.model_file import check_model_file, content_hash

SCALE_MAX: Final = 100.0


@dataclasses.dataclass(frozen=True, slots=True)
class Adapter:
    """A GGUF file with an adapter in it."""

    path: pathlib.Path
    scale: float = 1.0

    @classmethod
    def of(cls, text: str) -> "Adapter":
        """What FILE or FILE@SCALE names. Raises RuntimeFailure: `bad_request` for a scale that is
        none, `invalid_model` for a file that is no GGUF.
        """
        name, at, written = text.rpartition("@")
        if not at or not name or os.path.exists(os.path.expanduser(text)):
            name, written = text, "1"
        try:
            scale = float(written)
        except ValueError:
            scale = math.nan
        if not -SCALE_MAX <= scale <= SCALE_MAX:  # NaN is in no range
            raise RuntimeFailure(
                "bad_request",
                f"lora is FILE or FILE@SCALE, the scale from -{SCALE_MAX:g} to {SCALE_MAX:g}",
            )
        try:
            path = pathlib.Path(name).expanduser().absolute()
        except RuntimeError as error:  # `~somebody` who does not exist
            raise RuntimeFailure("invalid_model", f"{name} cannot be found ({error})") from error
        check_model_file(path)
        return cls(path, scale)


def whole_hash(
    path: pathlib.Path,
    adapter: Adapter | None,
    projector: pathlib.Path | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> str:
    """The content hash of the model at `path` with what is added to it; see `content_hash`."""
    whole = content_hash(path, on_progress)
    if adapter is not None:
        whole = _hash_of(f"{whole} + {float(adapter.scale)!r} * {content_hash(adapter.path)}")
    if projector is not None:
        whole = _hash_of(f"{whole} sees by {content_hash(projector)}")
    return whole


def _hash_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
