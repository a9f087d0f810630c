"""The one place that reads a GGUF file without llama.cpp: header, parts of a split, content hash.

Layout of the start of a GGUF file, little-endian:

    "GGUF" | version u32 | tensors u64 | metadata pairs u64 | ...
"""

import hashlib
import pathlib
import re
import stat
import struct
from collections.abc import Callable

from runtimes.base import RuntimeFailure

HEADER = struct.Struct("<4sIQQ")
VERSIONS = (2, 3)
"""Version 1 is from before August 2023, and llama.cpp no longer reads it."""
TENSORS_MAX = 1_000_000
METADATA_PAIRS_MAX = 1_000_000
PARTS_MAX = 1_000
HASH_READ_BYTES = 1024 * 1024
HASH_CHARACTERS = 64

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL | re.IGNORECASE)


def check_model_file(path: pathlib.Path) -> None:
    """Raise RuntimeFailure `invalid_model` unless every part looks like a GGUF file. Cheap."""
    for part in model_parts(path):
        _check_part(part)


def model_parts(path: pathlib.Path) -> list[pathlib.Path]:
    """The files of the model at `path`: itself, or all parts of a split in their order.

    Raises RuntimeFailure `invalid_model` for a part that is not the first.
    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    stem, number, count = match[1], int(match[2]), int(match[3])
    if not 1 <= count <= PARTS_MAX or not 1 <= number <= count:
        return [path]
    names = [f"{stem}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1)]
    if number != 1:
        raise _invalid(path, f"is part {number} of {count}: name the first part, {names[0]}")
    return [path, *(path.with_name(name) for name in names[1:])]


def model_name(path: pathlib.Path) -> str:
    """What to call the model at `path`: the file's stem, without a part's number."""
    match = _PART.fullmatch(path.name)
    return match[1] if match else path.stem


def model_bytes(path: pathlib.Path) -> int:
    """The size of the whole model on disk. Raises OSError."""
    return sum(part.stat().st_size for part in model_parts(path))


def content_hash(path: pathlib.Path, on_progress: Callable[[float], None] | None = None) -> str:
    """BLAKE2b-256 over the model's files in their order, as 64 lower-case hex letters.

    Reads everything (about 1 GB a second from memory): call it in a thread. `on_progress` gets
    the share that is done, 0 to 1. Raises OSError.
    """
    whole_bytes = max(1, model_bytes(path))
    done_bytes = 0
    digest = hashlib.blake2b(digest_size=32)
    for part in model_parts(path):
        with part.open("rb", buffering=0) as file:
            while data := file.read(HASH_READ_BYTES):
                digest.update(data)
                done_bytes += len(data)
                if on_progress is not None:
                    on_progress(min(1.0, done_bytes / whole_bytes))
    return digest.hexdigest()


def is_content_hash(text: object) -> bool:
    """Whether `text` could be one."""
    is_long = isinstance(text, str) and len(text) == HASH_CHARACTERS
    return is_long and set(str(text)) <= set("0123456789abcdef")


def _check_part(path: pathlib.Path) -> None:
    try:
        # Checked before opening: opening a named pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise _invalid(path, "is not a regular file; name a GGUF file")
        with path.open("rb") as file:
            start = file.read(HEADER.size)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise _invalid(path, f"cannot be read ({reason}); check the name") from error
    if start[:4] != b"GGUF":
        raise _invalid(path, "is no GGUF file; download the model's GGUF version")
    if len(start) < HEADER.size:
        raise _invalid(path, "is cut off in its header; download it again")
    _, version, tensors, pairs = HEADER.unpack(start)
    if version not in VERSIONS:
        raise _invalid(path, f"has GGUF version {version}, not 2 or 3; download a newer one")
    if not 1 <= pairs <= METADATA_PAIRS_MAX or tensors > TENSORS_MAX:
        raise _invalid(path, "has a damaged header; download it again")


def _invalid(path: pathlib.Path, what: str) -> RuntimeFailure:
    return RuntimeFailure("invalid_model", f"{path} {what}")
