"""The one place that reads the audit log: whether it holds, and what it says.

It works beside a daemon that writes: the head is read first, and lines are on disk before a head
counts them, so whatever a head counts must be there. Files that are exchanged meanwhile are opened
again.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections import deque
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.audit_lines import (
    GENESIS,
    Head,
    Line,
    decode_line,
    read_head,
    rotated_files,
    texts_in,
)
from meshd.trust.audit_log import BROKEN
from meshd.trust.keys import is_protected, read_key
from meshd.trust.mesh import read_mesh
from protocol.crypto import public_key_of
from protocol.errors import Refused
from protocol.identity import NodeId, key_text
from protocol.records import Admission, decode_record

TRIES: Final = 10
"""Files are exchanged after 8 MiB, so twice in a row is a wonder already."""


class Broken(Exception):
    """The log does not hold."""

    def __init__(self, problem: str, line: int | None = None, place: str = "audit.head") -> None:
        super().__init__(f"line {line} ({place}): {problem}" if line else f"{place}: {problem}")
        self.problem = problem
        self.line = line
        """The number of the line that is wrong; None: it is the head."""
        self.place = place
        """FILE:LINE, counted in that file."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Report:
    """What a log that holds is."""

    node: NodeId
    """Who signed its head."""
    first: int
    """The number of the oldest line that is kept."""
    lines: int
    """The number of the last one."""
    signed: int
    """The head counts so many; what is behind it, nobody has signed (yet)."""
    signed_time_s: float
    first_time_s: float | None = None
    last_time_s: float | None = None
    cut_bytes: int = 0
    """Of half a line at the end: it is being written, or a crash came between."""
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many lines are there of each type."""


@dataclasses.dataclass(slots=True)
class _Placed:
    """One line and where it is."""

    text: bytes
    is_whole: bool
    place: str


def check(home: Home, node: NodeId | None) -> Report:
    """Check the whole log, whose head `node` must have signed (None: whoever it names).

    Raises Broken; UserError when there is no log, or it cannot be read.
    """
    try:
        with contextlib.ExitStack() as stack:
            head, files = _opened(home, stack)
            if head is None:
                if files:
                    raise Broken("it is not there: nobody has signed these lines")
                raise UserError(
                    f"there is no audit log in {home.path}; one begins with the next meshd up"
                )
            _check_head(head, node)
            return _walk(head, _lines_of(files))
    except OSError as error:
        raise UserError(f"cannot read the audit log: {error.strerror}: {error.filename}") from error


def signer_of(home: Home) -> NodeId | None:
    """Whose log it should be, by the node's key or, where that is under a passphrase, by its own
    admission; None when neither says it.
    """
    with contextlib.suppress(UserError):
        if not is_protected(home.node_key):
            seed = read_key(home.node_key)
            return NodeId(public_key_of(seed)) if seed is not None else None
    with contextlib.suppress(UserError, Refused, IndexError):
        mesh = read_mesh(home)
        own = decode_record(mesh.records[-1]) if mesh is not None else None
        return own.node if isinstance(own, Admission) else None
    return None


def last_lines(home: Home, count: int) -> list[Mapping[str, Any]]:
    """The last lines, the oldest first, without any check; what is no line is left out.

    Raises UserError when it cannot be read.
    """
    kept: deque[Mapping[str, Any]] = deque(maxlen=count)
    try:
        with contextlib.ExitStack() as stack:
            for placed in _lines_of(_open_files(home, stack)):
                with contextlib.suppress(ValueError):
                    kept.append(decode_line(placed.text).content)
    except OSError as error:
        raise UserError(f"cannot read the audit log: {error.strerror}: {error.filename}") from error
    return list(kept)


def _opened(home: Home, stack: contextlib.ExitStack) -> tuple[Head | None, list[IO[bytes]]]:
    """The head, and the files as they were at one moment after it. Raises Broken, OSError."""
    for _ in range(TRIES):
        head = _head(home)
        files = _open_files(home, stack)
        after = _head(home)
        if _first(head) == _first(after):
            return head, files
    raise UserError("the audit log changes all the time; try again")


def _first(head: Head | None) -> int:
    return head.first if head is not None else 0


def _head(home: Home) -> Head | None:
    try:
        return read_head(home)
    except ValueError:
        raise Broken("it is damaged") from None


def _open_files(home: Home, stack: contextlib.ExitStack) -> list[IO[bytes]]:
    for _ in range(TRIES):
        with contextlib.suppress(FileNotFoundError):
            files: list[IO[bytes]] = [stack.enter_context(path.open("rb")) for path in _paths(home)]
            opened = [os.fstat(file.fileno()) for file in files]
            present = [path.stat() for path in _paths(home)]
            if len(present) == len(opened) and all(map(os.path.samestat, opened, present)):
                return files
    raise UserError("the audit log changes all the time; try again")


def _paths(home: Home) -> list[pathlib.Path]:
    newest = [home.audit] if home.audit.exists() else []
    return [*(path for _, path in rotated_files(home)), *newest]


def _check_head(head: Head, node: NodeId | None) -> None:
    if node is not None and head.node != node:
        raise Broken(f"it is signed by {key_text(head.node)}, and not by {key_text(node)}")
    if not head.is_signed:
        raise Broken("its signature is wrong: it was changed")


def _lines_of(files: list[IO[bytes]]) -> Iterator[_Placed]:
    for file in files:
        name = pathlib.Path(file.name).name
        for index, (text, is_whole) in enumerate(texts_in(file), 1):
            yield _Placed(text, is_whole, f"{name}:{index}")


def _walk(head: Head, placed: Iterator[_Placed]) -> Report:
    """Check line by line, with the one that follows at hand to say which of two was changed."""
    report = Report(
        node=head.node,
        first=head.first,
        lines=head.first - 1,
        signed=head.lines,
        signed_time_s=head.time_ms / 1000,
    )
    previous: Line | None = None
    where = "audit.head"
    waiting = next(placed, None)
    while waiting is not None:
        current, waiting = waiting, next(placed, None)
        if waiting is None and not current.is_whole and (previous is None or _ends(previous, head)):
            report.cut_bytes = len(current.text)
            break
        line = _line(current, previous, head, waiting, where)
        _count(report, line, current)
        previous, where = line, current.place
    if report.lines < head.lines:
        raise Broken(
            f"the log ends before it: {head.lines} lines were signed, {head.lines - report.lines} "
            "of them are missing here",
            report.lines + 1,
            where,
        )
    return report


def _ends(line: Line, head: Head) -> bool:
    return line.number >= head.lines


def _line(
    placed: _Placed, previous: Line | None, head: Head, following: _Placed | None, before: str
) -> Line:
    """The next line, which must follow `previous`. Raises Broken."""
    expected = previous.number + 1 if previous is not None else None
    try:
        line = decode_line(placed.text)
        if not placed.is_whole:
            raise ValueError("cut")
    except ValueError:
        number = expected if expected is not None else head.first
        raise Broken("it is no line of this log: it was damaged", number, placed.place) from None
    if previous is None:
        _check_first(line, head, placed)
    elif line.number != expected:
        raise Broken(
            f"line {line.number} stands here: lines were removed, inserted or moved",
            expected,
            placed.place,
        )
    elif line.prev != previous.hash:
        # It names another line before it. If what follows it knows it as it is, it was not
        # touched: then the one before it was.
        is_known = _names(following, line.hash) or (line.number, line.hash) == (
            head.lines, head.hash,
        )  # fmt: skip
        number, place = (previous.number, before) if is_known else (line.number, placed.place)
        raise Broken("it was changed", number, place)
    if line.number == head.lines and line.hash != head.hash:
        raise Broken("it was changed: the signed head names another", line.number, placed.place)
    return line


def _check_first(line: Line, head: Head, placed: _Placed) -> None:
    """Older ones than the head knows may still lie there: a crash interrupted their removal."""
    if line.number > head.first:
        raise Broken(
            f"line {line.number} stands here: those from {head.first} on are missing",
            head.first,
            placed.place,
        )
    if line.number < 1 or (line.number == 1 and line.prev != GENESIS):
        raise Broken("it is no first line", max(line.number, 1), placed.place)


def _names(placed: _Placed | None, hash_before: str) -> bool:
    with contextlib.suppress(ValueError):
        return placed is not None and decode_line(placed.text).prev == hash_before
    return False


def _count(report: Report, line: Line, placed: _Placed) -> None:
    if line.content["type"] == BROKEN:
        raise Broken(
            f"it says that the log did not hold then: {line.content.get('problem')!a}",
            line.number,
            placed.place,
        )
    if report.first_time_s is None:
        report.first, report.first_time_s = line.number, line.content["time"]
    report.lines, report.last_time_s = line.number, line.content["time"]
    kind = line.content["type"]
    report.notes[kind] = report.notes.get(kind, 0) + 1
