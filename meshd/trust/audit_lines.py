"""The one place for the form of the audit log: lines, each of which names the hash of the one
before, in a few files, and a head that the node signs.

    HOME/audit.jsonl                the newest lines
    HOME/audit-NNNNNNNNNNNN.jsonl   older ones; the name is the number of the first of them
    HOME/audit.head                 how many lines there are, the hash of the last, a signature

A line is a JSON object: `n` (its number, from 1), `time` (Unix, s), `type`, what there is to say,
and `prev`, the hash of the line before. The hash of a line is BLAKE2b-256 of its bytes without the
line's end. Writing is in `audit_log.py`, checking in `audit_check.py`.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final

import nacl.bindings
import nacl.exceptions

from meshd.home import Home
from protocol.identity import NODE_ID_BYTES, SIGNATURE_BYTES, NodeId, key_from_text, key_text

GENESIS: Final = "0" * 64
"""What the first line names as the hash before it."""
FILE_BYTES_MAX: Final = 8 * 2**20
FILES_MAX: Final = 8
LINE_BYTES_MAX: Final = 16_384
"""More than any line that is written: `Audit` bounds what there is to say."""
HEAD_BYTES_MAX: Final = 4_096

_DOMAIN: Final = b"meshd audit 1   "
_ROTATED: Final = re.compile(r"audit-([0-9]{12})\.jsonl")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened, before it has its place in the log."""

    time_s: float
    kind: str
    fields: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line of the log, as far as it alone can tell."""

    number: int
    prev: str
    hash: str
    content: Mapping[str, Any]


def hash_of(text: bytes) -> str:
    """The hash of a line without its end."""
    return hashlib.blake2b(text, digest_size=32, person=b"meshd audit line").hexdigest()


def encode_line(number: int, entry: Entry, prev: str) -> bytes:
    """A line without its end."""
    own = {"n": number, "time": round(entry.time_s, 3), "type": entry.kind}
    content = {**own, **entry.fields, **own, "prev": prev}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def decode_line(text: bytes) -> Line:
    """Read a line. Raises ValueError for what is none."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("no object")
    number, prev, time = content.get("n"), content.get("prev"), content.get("time")
    if type(number) is not int or type(time) not in (int, float):
        raise ValueError("no number or time")
    if not isinstance(prev, str) or _HASH.fullmatch(prev) is None:
        raise ValueError("no hash")
    if not isinstance(content.get("type"), str):
        raise ValueError("no type")
    return Line(number, prev, hash_of(text), content)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the node signed: so many lines, of which the last has this hash."""

    first: int
    """The number of the oldest line that is kept."""
    lines: int
    hash: str
    time_ms: int
    """When (Unix, ms)."""
    node: NodeId
    """By whom."""
    signature: bytes = b""

    @property
    def signed_text(self) -> bytes:
        """The bytes under the signature: domain, three numbers of 8 bytes (big-endian), hash."""
        numbers = b"".join(n.to_bytes(8, "big") for n in (self.first, self.lines, self.time_ms))
        return _DOMAIN + numbers + bytes.fromhex(self.hash)

    @property
    def is_signed(self) -> bool:
        """Whether the signature is that of `node`."""
        try:
            nacl.bindings.crypto_sign_open(self.signature + self.signed_text, self.node)
        except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError):
            return False
        return True


def encode_head(head: Head) -> bytes:
    """The content of `audit.head`."""
    content = {
        "first": head.first,
        "lines": head.lines,
        "hash": head.hash,
        "time": head.time_ms / 1000,
        "node": key_text(head.node),
        "signature": head.signature.hex(),
    }
    return json.dumps(content).encode() + b"\n"


def read_head(home: Home) -> Head | None:
    """The head as it is on disk, whether its signature holds or not; None when there is none.

    Raises ValueError when it is none, OSError.
    """
    try:
        with home.audit_head.open("rb") as file:
            data = file.read(HEAD_BYTES_MAX)
    except FileNotFoundError:
        return None
    try:
        content = json.loads(data)
        first, lines, time_s = content["first"], content["lines"], content["time"]
        node, signature = key_from_text(content["node"]), bytes.fromhex(content["signature"])
        head = Head(
            first=first,
            lines=lines,
            hash=content["hash"],
            time_ms=round(time_s * 1000),
            node=NodeId(node),
            signature=signature,
        )
        are_numbers = type(first) is int and type(lines) is int and 0 < first < 2**53
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ValueError("damaged") from None
    is_well = are_numbers and 0 <= lines < 2**53 and 0 <= head.time_ms < 2**53
    lengths = (len(node), len(signature))
    if not is_well or not isinstance(head.hash, str) or _HASH.fullmatch(head.hash) is None:
        raise ValueError("damaged")
    if lengths != (NODE_ID_BYTES, SIGNATURE_BYTES):
        raise ValueError("damaged")
    return head


def rotated_files(home: Home) -> list[tuple[int, pathlib.Path]]:
    """The files of older lines, each with the number of its first; the oldest of them first."""
    found = ((_ROTATED.fullmatch(path.name), path) for path in home.path.glob("audit-*.jsonl"))
    return sorted((int(match[1]), path) for match, path in found if match is not None)


def rotated_path(home: Home, first: int) -> pathlib.Path:
    """Where the lines from number `first` lie, once newer ones are in another file."""
    return home.path / f"audit-{first:012d}.jsonl"


def texts_in(file: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The lines of an open file without their ends, and whether each has one.

    One that is longer than any line of ours comes in pieces, none of which is a line. Half a line
    is the last: what is written behind it meanwhile is not read.
    """
    while text := file.readline(LINE_BYTES_MAX):
        is_whole = text.endswith(b"\n")
        yield text.removesuffix(b"\n"), is_whole
        if not is_whole and len(text) < LINE_BYTES_MAX:
            return
