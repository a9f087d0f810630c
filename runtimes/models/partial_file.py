"""The one place for a file that is only partly downloaded: it grows at its end, across processes.

Its name in the Hub's cache says what it must hash to, so also the part that a former process left
is checked before anybody believes it.
"""

import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from types import TracebackType

from runtimes.base import RuntimeFailure

READ_BYTES = 1024 * 1024
SPARE_BYTES = 64 * 1024 * 1024
"""Disk that is left free: a full disk hurts others."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PartialFile:
    """A file of `size_bytes` on its way to `path`; a context manager that closes it."""

    def __init__(
        self, path: pathlib.Path, *, size_bytes: int, etag: str, on_change: Callable[[int], None]
    ) -> None:
        """Open it, or what an interruption left of it. `on_change` gets the bytes that are there.

        Raises OSError, or RuntimeFailure `unavailable` when the disk has no room for the rest.
        """
        self._path = path
        self._partial = path.with_name(f"{path.name}.incomplete")
        self._size_bytes = size_bytes
        # What lies in the Hub's large file store has its SHA-256 for an etag; the rest is small.
        self._expected = etag if _SHA256.fullmatch(etag) else ""
        self._on_change = on_change
        self._digest = hashlib.sha256()
        self.done_bytes = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._partial, "a+b", buffering=0)  # noqa: SIM115  # closed by __exit__
        try:
            self._read_what_is_there()
            self._check_room()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.done_bytes == self._size_bytes

    def append(self, data: bytes) -> None:
        """Add the next bytes. Raises RuntimeFailure `unavailable` for more than belong to it."""
        if self.done_bytes + len(data) > self._size_bytes:
            self.start_over()
            raise RuntimeFailure("unavailable", "the Hub sent more than the file's size")
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._digest.update(data)
        self.done_bytes += len(data)
        self._on_change(self.done_bytes)

    def start_over(self) -> None:
        """Forget all that is there."""
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.done_bytes = 0
        self._on_change(0)

    def finish(self) -> None:
        """Check the whole and give it its name.

        Raises RuntimeFailure `unavailable`, and nothing is kept, when it is not what the Hub says.
        """
        assert self.is_whole
        if self._expected and self._digest.hexdigest() != self._expected:
            self.start_over()
            raise RuntimeFailure(
                "unavailable", "what was downloaded is damaged; it is downloaded again"
            )
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self._path)

    def _read_what_is_there(self) -> None:
        self._file.seek(0)
        while data := self._file.read(READ_BYTES):
            self._digest.update(data)
            self.done_bytes += len(data)
            self._on_change(self.done_bytes)
            if self.done_bytes > self._size_bytes:
                self.start_over()
                return

    def _check_room(self) -> None:
        missing_bytes = self._size_bytes - self.done_bytes
        free_bytes = shutil.disk_usage(self._path.parent).free
        if missing_bytes and missing_bytes + SPARE_BYTES > free_bytes:
            raise RuntimeFailure(
                "unavailable",
                f"no space for {missing_bytes / 1e9:.1f} GB more in {self._path.parent} "
                f"({free_bytes / 1e9:.1f} GB free): free some, or set HF_HUB_CACHE to another disk",
            )
