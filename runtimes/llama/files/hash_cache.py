"""The one place that remembers content hashes on disk, so that 40 GB are read once and not at
every start.

What it says holds for files that are still the very same: path, inode, size, and the times of their
last change of content and of inode, of every part.
"""

import hashlib
import os
import pathlib

from runtimes.llama.files.adapter import Adapter
from runtimes.llama.files.cache_file import CacheFile, cache_folder
from runtimes.llama.files.model_file import HASH_CHARACTERS, is_content_hash, model_parts


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
        path = file or cache_folder() / "hashes.json"
        self._cache = CacheFile(path, "hashes", is_content_hash)

    def find(self, identity: str) -> str | None:
        """The content hash of the files with this identity, if it is known."""
        found: str | None = self._cache.find(identity)
        return found

    def keep(self, identity: str, content_hash: str) -> None:
        """Remember it, if that can be done."""
        self._cache.keep(identity, content_hash)
