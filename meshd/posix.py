"""The one place for what only POSIX has; each function has an answer on systems without it."""

import contextlib
import ctypes
import errno
import os
import pathlib
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from typing import IO

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # checked before each use
    resource = None  # type: ignore[assignment]

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


def readable_by_others(file: pathlib.Path | int) -> bool:
    """Whether group or others may read or write a file, or an open one by its descriptor; never on
    systems without such modes, nor what is no file on a disk (a pipe).
    """
    mode = os.stat(file).st_mode
    is_file = os.name == "posix" and stat.S_ISREG(mode)
    return is_file and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def readable_by_all(file: pathlib.Path) -> bool:
    """Whether every user may read or write a file; never on systems without such modes."""
    return os.name == "posix" and bool(file.stat().st_mode & stat.S_IRWXO)


def replaceable_by_all(folder: pathlib.Path) -> bool:
    """Whether every user may exchange the files in `folder`; never on systems without modes."""
    mode = folder.stat().st_mode
    return os.name == "posix" and bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def allow_open_files(count: int) -> None:
    """Let this process have `count` files and sockets open, as far as the system permits.

    Many systems begin with 1,024, for programs that use select(); nothing here does.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def fsync_directory(path: pathlib.Path) -> None:
    """Make a rename in `path` durable; a no-op where directories cannot be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect_unix(path: pathlib.Path, timeout_s: float) -> socket.socket:
    """A connection to the Unix socket `path`. Raises OSError, TimeoutError among them."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        with _short_socket_path(path) as name:
            connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def listening_unix(path: pathlib.Path, backlog: int) -> Iterator[socket.socket]:
    """A listening Unix socket, for its owner only; the file goes with it.

    A socket left there by a process that was killed is replaced, so the caller must know that
    no other lives. Raises OSError; FileExistsError when something else is in the way.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, f"{path.name} there is not a socket")
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        with _short_socket_path(path) as name:
            listening.bind(name)
        made = path.lstat()
        try:
            path.chmod(0o600)  # before it listens: until then nobody can connect
            listening.listen(backlog)
            yield listening
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(path.lstat(), made):
                    path.unlink()


@contextlib.contextmanager
def _short_socket_path(path: pathlib.Path) -> Iterator[str]:
    """A name for `path` that fits into a socket address, while inside.

    A long one is reached on Linux through a descriptor of its folder. Raises OSError
    (ENAMETOOLONG where there is no such way).
    """
    if len(os.fsencode(path)) <= UNIX_PATH_BYTES_MAX:
        yield str(path)
        return
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENAMETOOLONG, f"its name is over {UNIX_PATH_BYTES_MAX} bytes long")
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def dying_with_parent() -> Callable[[], None] | None:
    """What a child calls between fork and exec, to be killed when its parent's thread ends.

    For `subprocess.Popen(preexec_fn=...)` from a thread that lives as long as the child should.
    None where the system has no such thing: only Linux does.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # found before the fork: it takes locks
    set_parent_death_signal = 1
    parent = os.getpid()

    def ask_the_kernel() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel knew
            os._exit(1)

    return ask_the_kernel
