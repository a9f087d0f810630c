"""The one place for exchanging several files of a folder at once: after a crash at any instant all
of them are the old ones, or all become the new ones.

    prepare   FOLDER/identity.new is filled by the caller, however long that takes. Nothing else
              changes, and what a killed caller left there is still there for the next one.
    commit    the old files are copied into one archive in it; then it is renamed to identity.next:
              from that instant on the new files count.
    finish    old files away, archive out of it under a free number, new files in, folder away.
              Each step can be repeated: whoever locks the folder next finishes what was begun.

Whoever calls holds the folder's lock.
"""

import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import IO, Final

from meshd import posix

PREPARED: Final = "identity.new"
_COMMITTED: Final = "identity.next"
_ARCHIVE: Final = "old-identity.tar"


def commit(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Make what is in `PREPARED` count, and keep the old files of these names in an archive.

    Raises OSError (a full disk, for one); the old files then still count.
    """
    prepared = folder / PREPARED
    archive = prepared / _ARCHIVE
    archive.unlink(missing_ok=True)  # of a caller that was killed; the old files may have changed
    old = [folder / name for name in names if (folder / name).exists()]
    if old:
        descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            _pack(old, file)
            file.flush()
            os.fsync(file.fileno())
    posix.fsync_directory(prepared)
    prepared.rename(folder / _COMMITTED)
    posix.fsync_directory(folder)


def finish(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path | None:
    """Carry out what was committed; gives the archive of old files, if this call brought it out.

    Raises OSError; the next call goes on from there.
    """
    committed = folder / _COMMITTED
    if not committed.is_dir():
        return None
    kept: pathlib.Path | None = None
    archive = committed / _ARCHIVE
    if archive.exists():  # so none of the new files is in place yet
        for name in names:
            (folder / name).unlink(missing_ok=True)
        posix.fsync_directory(folder)
        kept = _free_name(folder)
        archive.rename(kept)
        posix.fsync_directory(folder)
    for name in names:
        if (committed / name).exists():
            (committed / name).replace(folder / name)
    posix.fsync_directory(folder)
    shutil.rmtree(committed)
    return kept


def discard(folder: pathlib.Path) -> None:
    """Forget what is in `PREPARED`; fine if there is nothing."""
    shutil.rmtree(folder / PREPARED, ignore_errors=True)


def _free_name(folder: pathlib.Path) -> pathlib.Path:
    number = 1
    while os.path.lexists(path := folder / f"old-identity-{number}.tar"):
        number += 1
    return path


def _pack(paths: Sequence[pathlib.Path], file: IO[bytes]) -> None:
    import tarfile  # once in a home's life

    def private(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mode = 0o600
        return entry

    with tarfile.open(fileobj=file, mode="w") as archive:
        for path in paths:
            archive.add(path, arcname=path.name, recursive=False, filter=private)
