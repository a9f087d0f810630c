"""The one place that looks for GGUF files in folders, and gives up before it takes long.

What lies in the folders of others is not trusted: names may be hostile, folders unreadable or
endless, links may lead in circles. Nothing but names and sizes is read.
"""

import dataclasses
import os
import pathlib
import stat
import time
from collections.abc import Iterator

from runtimes.base import RuntimeFailure
from runtimes.llama.files.model_file import model_parts
from runtimes.llama.files.projector import is_projector_name

SUFFIX = ".gguf"
ENTRIES_MAX = 20_000
SCAN_S_MAX = 2.0


class ScanBudget:
    """How much may still be looked at, by all who share it."""

    def __init__(self, entries: int = ENTRIES_MAX, seconds: float = SCAN_S_MAX) -> None:
        self._entries = entries
        self._deadline = time.monotonic() + seconds

    def spend(self) -> bool:
        """Pay for one entry; False when nothing is left."""
        self._entries -= 1
        return not self.is_spent

    @property
    def is_spent(self) -> bool:
        """Whether the scan is to end, with what it has."""
        return self._entries < 0 or time.monotonic() >= self._deadline


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """The files of one model."""

    path: pathlib.Path
    """The file, or the first part of a split."""
    size_bytes: int


def gguf_models(folder: pathlib.Path, budget: ScanBudget, *, depth: int) -> list[GgufModel]:
    """The models in `folder` and `depth` levels below it; a split counts once, if it is whole."""
    found = []
    for path in files_below(folder, budget, depth=depth):
        name = path.name.lower()
        if not name.endswith(SUFFIX) or is_projector_name(name):
            continue
        try:
            size_bytes = sum(_file_bytes(part) for part in model_parts(path))
        except (OSError, ValueError, RuntimeFailure):  # a later part, or a part is missing
            continue
        found.append(GgufModel(path=path, size_bytes=size_bytes))
    return found


def files_below(folder: pathlib.Path, budget: ScanBudget, *, depth: int) -> Iterator[pathlib.Path]:
    """The regular files in `folder` and `depth` levels below it, in the order of their names.

    Links are followed, but no folder is entered twice. What cannot be read is not there.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, depth)]
    while waiting and not budget.is_spent:
        here, levels = waiting.pop()
        folders = []
        for path, status in _entries(here, seen, budget):
            if stat.S_ISREG(status.st_mode):
                yield path
            elif stat.S_ISDIR(status.st_mode) and levels > 0:
                folders.append((path, levels - 1))
        waiting += reversed(folders)


def _entries(
    folder: pathlib.Path, seen: set[tuple[int, int]], budget: ScanBudget
) -> list[tuple[pathlib.Path, os.stat_result]]:
    """What is in a folder that was not looked at yet, sorted."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return []
        seen.add((status.st_dev, status.st_ino))
        entries = []
        with os.scandir(folder) as scan:
            for entry in scan:
                if not budget.spend():
                    break
                try:
                    entries.append((folder / entry.name, entry.stat()))
                except OSError:  # a link to nothing, or one that was just deleted
                    continue
    except (OSError, ValueError):  # unreadable, gone, no folder, or a NUL byte in its name
        return []
    return sorted(entries, key=lambda entry: entry[0].name)


def _file_bytes(path: pathlib.Path) -> int:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("no regular file")
    return status.st_size
