"""The one place that remembers content hashes on disk, so that 40 GB are read once and not at
every start.

One JSON file in the platform's folder for caches, shared by all daemons of a user. What it says
holds for files that are still the very same: path, inode, size, and the times of their last change
of content and of inode, of every part. Whatever else is in it counts as nothing.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import threading
from typing import Final

import platformdirs

from runtimes.llama.adapter import Adapter
from runtimes.llama.model_file import HASH_CHARACTERS, is_content_hash, model_parts

ENTRIES_MAX: Final = 2_048
"""The oldest are forgotten."""
FILE_BYTES_MAX: Final = ENTRIES_MAX * (2 * HASH_CHARACTERS + 16)

_writing = threading.Lock()


def default_file() -> pathlib.Path:
    """Where the hashes of this user's models are kept."""
    return pathlib.Path(platformdirs.user_cache_dir("meshd")) / "hashes.json"


def file_identity(
    path: pathlib.Path, adapter: Adapter | None = None, projector: pathlib.Path | None = None
) -> str:
    """A name for the files of the model at `path`, and of what is added to it, as they are now.
    Raises OSError.
    """
    digest = hashlib.blake2b(digest_size=HASH_CHARACTERS // 2)
    parts = model_parts(path)
    if adapter is not None:
        digest.update(repr(float(adapter.scale)).encode() + b"\0")
        parts.append(adapter.path)
    if projector is not None:
        digest.update(b"projector\0")
        parts.append(projector)
    for part in parts:
        real = part.resolve()
        status = real.stat()
        of_file = (status.st_dev, status.st_ino, status.st_size)
        of_changes = (status.st_mtime_ns, status.st_ctime_ns)
        digest.update(os.fsencode(real) + b"\0" + repr((of_file, of_changes)).encode() + b"\0")
    return digest.hexdigest()


class HashCache:
    """Content hashes by the identity of files. Blocking, safe for threads; never raises."""

    def __init__(self, file: pathlib.Path | None = None) -> None:
        self._file = file or default_file()

    def find(self, identity: str) -> str | None:
        """The content hash of the files with this identity, if it is known."""
        return self._read().get(identity)

    def keep(self, identity: str, content_hash: str) -> None:
        """Remember it, if that can be done."""
        with _writing:
            known = self._read()
            known.pop(identity, None)
            known[identity] = content_hash
            for oldest in list(known)[:-ENTRIES_MAX]:
                del known[oldest]
            # A cache that cannot be written costs time, nothing else.
            with contextlib.suppress(OSError):
                self._write(json.dumps({"hashes": known}, indent=0).encode())

    def _read(self) -> dict[str, str]:
        try:
            with self._file.open("rb") as file:
                content = json.loads(file.read(FILE_BYTES_MAX))
            hashes = content["hashes"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}
        return {
            identity: content_hash
            for identity, content_hash in hashes
            if is_content_hash(identity) and is_content_hash(content_hash)
        }

    def _write(self, data: bytes) -> None:
        """Replace the file whole, so that nobody ever reads half of it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=".hashes")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(name, self._file)
        except OSError:
            os.unlink(name)
            raise
