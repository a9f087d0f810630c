"""The one place that makes JPEGs of a few hundred bytes that are much work to decode."""

import struct
from collections.abc import Iterable, Sequence

Scan = tuple[Sequence[int], int, int]
"""Components, counted from 0, and its first and last coefficient."""
_EVERY_CODE = bytes([1] + [0] * 15)
"""One code, of one bit: what is behind the end of a file is read as such codes."""


def hard_jpeg(
    width: int,
    height: int,
    *,
    components: int = 3,
    scans: Iterable[Scan] | None = None,
    is_progressive: bool = False,
) -> bytes:
    """A JPEG each of whose coefficients is to be read, of no data; by default with one scan."""
    if scans is None:
        scans = [(range(components), 0, 63)]
    frame = struct.pack(">BHHB", 8, height, width, components)
    frame += b"".join(bytes([number, 0x11, 0]) for number in range(components))
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\x01" * 64),
            segment(0xC2 if is_progressive else 0xC0, frame),
            segment(0xC4, b"\x00" + _EVERY_CODE + b"\x00" + b"\x10" + _EVERY_CODE + b"\x0a"),
            *(_scan(*scan) for scan in scans),
            b"\xff\xd9",
        )
    )


def segment(kind: int, content: bytes) -> bytes:
    """One piece of a JPEG."""
    return struct.pack(">BBH", 0xFF, kind, 2 + len(content)) + content


def _scan(components: Sequence[int], first: int, last: int) -> bytes:
    of_each = b"".join(bytes([number, 0]) for number in components)
    return segment(0xDA, bytes([len(components)]) + of_each + bytes([first, last, 0])) + b"\0"
