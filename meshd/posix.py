"""The one place for what only POSIX has; each function has an answer on systems without it."""

import os
import pathlib
import socket
import stat
import sys
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # checked before each use

UNIX_PATH_BYTES_MAX = 100
"""sun_path is 104 bytes on macOS and 108 on Linux; some room stays for the proc detour below."""


def has_unix_sockets() -> bool:
    """Whether control sockets can be Unix sockets here."""
    return hasattr(socket, "AF_UNIX") and sys.platform != "win32"


def lock_exclusively(file: IO[bytes]) -> bool:
    """Take the advisory lock of `file` without waiting; False when another process holds it."""
    if fcntl is None:
        import msvcrt  # Windows only, hence not at the top

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # exists there
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def readable_by_others(path: pathlib.Path) -> bool:
    """Whether group or others may read or write `path`; never on systems without such modes."""
    if os.name != "posix":
        return False
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def fsync_directory(path: pathlib.Path) -> None:
    """Make a rename in `path` durable; a no-op where directories cannot be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
