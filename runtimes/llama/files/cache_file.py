"""The one place for what is remembered of models on disk: small JSON files of one object each.

They lie in the platform's folder for caches, shared by all daemons of a user. Whatever else is in
one counts as nothing; one that cannot be written costs time, nothing else.
"""

import contextlib
import json
import os
import pathlib
import tempfile
import threading
from collections.abc import Callable
from typing import Any, Final

import platformdirs

from runtimes.llama.files.model_file import HASH_CHARACTERS, is_content_hash

ENTRIES_MAX: Final = 2_048
"""The oldest are forgotten."""
FILE_BYTES_MAX: Final = ENTRIES_MAX * (2 * HASH_CHARACTERS + 16)

_writing = threading.Lock()


def cache_folder() -> pathlib.Path:
    """Where they lie for this user."""
    return pathlib.Path(platformdirs.user_cache_dir("meshd"))


class CacheFile:
    """Values by keys that are hashes. Blocking, safe for threads; never raises."""

    def __init__(self, file: pathlib.Path, kind: str, is_value: Callable[[object], bool]) -> None:
        """`kind`: the name of the file's object; `is_value`: what it may hold, a hash's length of
        JSON at most.
        """
        self._file = file
        self._kind = kind
        self._is_value = is_value

    def find(self, key: str) -> Any:  # noqa: ANN401  # what `is_value` lets through
        """What is remembered under this key; None: nothing."""
        return self._read().get(key)

    def keep(self, key: str, value: object) -> None:
        """Remember it, if that can be done."""
        with _writing:
            known = self._read()
            known.pop(key, None)
            known[key] = value
            for oldest in list(known)[:-ENTRIES_MAX]:
                del known[oldest]
            with contextlib.suppress(OSError):
                self._write(json.dumps({self._kind: known}, indent=0).encode())

    def _read(self) -> dict[str, Any]:
        try:
            with self._file.open("rb") as file:
                content = json.loads(file.read(FILE_BYTES_MAX))
            entries = content[self._kind].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}
        return {
            key: value for key, value in entries if is_content_hash(key) and self._is_value(value)
        }

    def _write(self, data: bytes) -> None:
        """Replace the file whole, so that nobody ever reads half of it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=f".{self._kind}")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(name, self._file)
        except OSError:
            os.unlink(name)
            raise
