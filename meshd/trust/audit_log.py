"""The one place that writes the audit log: lines, then now and then a head over them.

Lines are on disk before a head counts them, so a crash leaves a log that holds up to its head, and
some lines behind it that nobody signed. The next writer goes on from there and says so; half a
line that a crash left is kept as evidence in the line that says that. What contradicts the signed
head is said too, in a line that `meshd audit verify` takes for a failure: to sign a new head must
not hide that the old one did not hold.

Whoever writes holds the home's lock.
"""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, Final

from meshd import posix
from meshd.home import Home
from meshd.trust.audit_lines import (
    FILE_BYTES_MAX,
    FILES_MAX,
    GENESIS,
    Entry,
    Head,
    decode_line,
    encode_head,
    encode_line,
    hash_of,
    read_head,
    rotated_files,
    rotated_path,
    texts_in,
)
from protocol.crypto import Crypto
from protocol.identity import NodeId, key_text

BROKEN: Final = "audit.broken"
"""A line of this type says that the log was found not to hold."""
CUT_SHOWN_BYTES_MAX: Final = 512


@dataclasses.dataclass(slots=True)
class _Tail:
    """What the end of the log is, as the next writer finds it."""

    number: int = 0
    hash: str = GENESIS
    unsigned: int = 0
    """Whole lines behind the head."""
    file_first: int = 1
    """The number of the first line of the newest file."""
    offset: int = 0
    """Where the newest file's last whole line ends."""
    cut: bytes = b""
    """Half a line behind it."""
    problem: str | None = None


class AuditLog:
    """The log, open for writing. Any OSError leaves what was there before; make it anew then."""

    def __init__(self, home: Home, crypto: Crypto, wall_s: Callable[[], float] = time.time) -> None:
        """Open it, or begin one. Raises OSError."""
        self._home = home
        self._crypto = crypto
        self._wall_s = wall_s
        head, problem = _head_or_problem(home)
        if head is None and problem is None:
            if home.audit.exists() or rotated_files(home):
                problem = "its signed head is gone"
            else:
                head = self._write_head(1, 0, GENESIS)
        self._first = head.first if head is not None else _first_kept(home)
        for number, path in rotated_files(home):
            if head is not None and number < head.first:
                path.unlink()  # a crash interrupted that
        tail = _examine(home, head)
        self._number, self._hash, self._file_first = tail.number, tail.hash, tail.file_first
        is_ours = head is not None and head.node == crypto.node_id
        self._is_signed = is_ours and not tail.unsigned
        self._file = _open_for_owner(home)
        try:
            self._size = tail.offset
            self._begin(head, tail, problem or tail.problem)
        except BaseException:
            self._file.close()
            raise

    @property
    def lines(self) -> int:
        """The number of the last line."""
        return self._number

    def append(self, entries: Sequence[Entry]) -> None:
        """Write lines: all or none of them. Raises OSError."""
        number, previous, data = self._number, self._hash, bytearray()
        for entry in entries:
            number += 1
            text = encode_line(number, entry, previous)
            previous = hash_of(text)
            data += text + b"\n"
        try:
            _write_at(self._file, self._size, data)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(data)
        self._number, self._hash, self._is_signed = number, previous, not data and self._is_signed

    def sign(self) -> None:
        """Sign a head over all lines, if there are new ones. Raises OSError."""
        if self._is_signed:
            return
        os.fsync(self._file.fileno())
        self._write_head(self._first, self._number, self._hash)
        self._is_signed = True
        if self._size > FILE_BYTES_MAX:
            self._rotate()

    def close(self) -> None:
        """Let go of the file; what was not signed stays so."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _begin(self, head: Head | None, tail: _Tail, problem: str | None) -> None:
        """Say how the log was found, if that is worth a line."""
        found: list[tuple[str, dict[str, Any]]] = []
        signed = head.lines if head is not None else 0
        if problem is not None:
            known = {} if head is None else {"lines": head.lines, "hash": head.hash}
            found.append((BROKEN, {"problem": problem, **known}))
        if tail.cut:
            shown = tail.cut[:CUT_SHOWN_BYTES_MAX].decode("ascii", "backslashreplace")
            found.append(("audit.mended", {"cut_bytes": len(tail.cut), "cut": shown}))
        if tail.unsigned or tail.cut:
            found.append(("audit.resumed", {"signed_to": signed, "unsigned": tail.unsigned}))
        if head is not None and head.node != self._crypto.node_id:
            found.append(("audit.signer_changed", {"before": key_text(head.node)}))
        if found:
            self.append([Entry(self._wall_s(), kind, fields) for kind, fields in found])
            os.ftruncate(self._file.fileno(), self._size)  # what the cut line had more
            self.sign()

    def _write_head(self, first: int, lines: int, last: str) -> Head:
        time_ms = round(self._wall_s() * 1000)
        node = NodeId(self._crypto.node_id)
        head = Head(first=first, lines=lines, hash=last, time_ms=time_ms, node=node)
        signature = self._crypto.sign(head.signed_text)
        head = dataclasses.replace(head, signature=signature)
        self._home.write(self._home.audit_head, encode_head(head), secret=True)
        return head

    def _rotate(self) -> None:
        """Begin a new file; of too many the oldest go, which the log and its head state."""
        self._file.close()
        self._home.audit.rename(rotated_path(self._home, self._file_first))
        posix.fsync_directory(self._home.path)
        self._file = _open_for_owner(self._home)
        self._size, self._file_first = 0, self._number + 1
        files = rotated_files(self._home)
        kept = files[1 - FILES_MAX :]
        if len(kept) == len(files):
            return
        self._first = kept[0][0]
        self.append([Entry(self._wall_s(), "audit.dropped", {"to": self._first - 1})])
        self.sign()
        for _, path in files[: -len(kept)]:
            path.unlink()


def _head_or_problem(home: Home) -> tuple[Head | None, str | None]:
    """The head, and what is wrong with it. Raises OSError."""
    try:
        head = read_head(home)
    except ValueError:
        return None, "its signed head is damaged"
    if head is not None and not head.is_signed:
        return None, "the signature of its head is wrong"
    return head, None


def _first_kept(home: Home) -> int:
    """Without a head: the number of the first line that is there."""
    rotated = rotated_files(home)
    return rotated[0][0] if rotated else 1


def _open_for_owner(home: Home) -> IO[bytes]:
    descriptor = os.open(home.audit, os.O_RDWR | os.O_CREAT, 0o600)
    if os.name == "posix":
        os.fchmod(descriptor, 0o600)
    posix.fsync_directory(home.path)
    return os.fdopen(descriptor, "r+b", buffering=0)


def _write_at(file: IO[bytes], offset: int, data: bytes | bytearray) -> None:
    file.seek(offset)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _examine(home: Home, head: Head | None) -> _Tail:
    """Find the end of the log, and whether it has the line that the head names. Raises OSError.

    What lies before that line is `meshd audit verify`'s affair: a break in it stays one.
    """
    signed = head.lines if head is not None else 0
    tail = _Tail(number=0, unsigned=-1) if signed else _Tail()
    for number, path in _files_from(home, signed):
        if tail.cut:
            tail.problem = f"line {tail.number + 1} is cut"
        tail.file_first, tail.offset, tail.cut = number or tail.number + 1, 0, b""
        if not path.exists():  # a crash came between two files
            continue
        with path.open("rb") as file:
            for text, is_whole in texts_in(file):
                if not is_whole:
                    tail.cut += text
                    continue
                if tail.cut:  # in the middle: no crash of ours leaves that
                    tail.offset += len(tail.cut)
                    tail.cut = b""
                _take(tail, text, head)
                tail.offset += len(text) + 1
    if tail.unsigned < 0:
        tail.unsigned = 0
        tail.problem = f"its head counts {signed} lines, and it ends with line {tail.number}"
    return tail


def _files_from(home: Home, signed: int) -> list[tuple[int, pathlib.Path]]:
    """The files from the one with line `signed` on, each with the number of its first line; 0 is
    for the newest when that has no line that says its number.
    """
    first = 0
    with (
        contextlib.suppress(ValueError, StopIteration, FileNotFoundError),
        home.audit.open("rb") as file,
    ):
        first = decode_line(next(texts_in(file))[0]).number
    files = [*rotated_files(home), (first, home.audit)]
    while len(files) > 1 and 0 < files[1][0] <= signed:
        del files[0]
    return files


def _take(tail: _Tail, text: bytes, head: Head | None) -> None:
    """One whole line: count it, and compare it with the head."""
    previous, tail.hash = tail.hash, hash_of(text)
    tail.number = tail.file_first if not tail.offset else tail.number + 1
    signed = head.lines if head is not None else 0
    if tail.number < signed:
        return
    if tail.number == signed:
        tail.unsigned = 0
        if head is not None and tail.hash != head.hash:
            tail.problem = f"line {signed} is not the one that its head names"
        return
    if tail.unsigned < 0:
        tail.unsigned = 0
        tail.problem = f"lines {signed} to {tail.number - 1} are missing"
    tail.unsigned += 1
    try:
        line = decode_line(text)
    except ValueError:
        tail.problem = tail.problem or f"line {tail.number} is damaged"
        return
    if line.number != tail.number or line.prev != previous:
        tail.problem = tail.problem or f"line {tail.number} does not follow the one before"
