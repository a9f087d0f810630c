"""The one place for images as they come: what a request shows, how large it says it is. Pure.

PNG and JPEG, and nothing else: whatever decodes them is only ever given bytes whose beginning and
size were looked at here. An image of a few kilobytes can claim, and can unfold to, gigabytes.
"""

import dataclasses
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

SIDE_MAX: Final = 16_384
PARTS_MAX: Final = 4_096
"""Segments of a JPEG, or chunks of a PNG."""
PASSES_MAX: Final = 14
"""How often a decoder may go over all coefficients of a JPEG: as often as libjpeg makes it do, for
four colours in scans that make them sharper bit by bit."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8"
_HEADER: Final = struct.Struct(">IIBBBBB")
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a PNG's pixel, by its colour type."""
_STRAIGHT: Final = ((0, 0, 1, 1),)
_INTERLACED: Final = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""A PNG's pixels, or its seven passes: the first column and row, and the steps from there."""
_UNFOLDED_BYTES: Final = 1024 * 1024
"""Of a PNG's pixels, looked at in pieces."""
_SLACK_BYTES: Final = 64
"""That a PNG may have beside its pixels."""
_FRAMES: Final = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive; nobody decodes the others."""
_PROGRESSIVE: Final = 0xC2
_SCAN: Final = 0xDA
_END: Final = 0xD9
_KINDS: Final = frozenset({*_FRAMES, _SCAN, 0xC4, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
"""Of segments: with tables and notes."""
_MARKER: Final = re.compile(rb"\xff++([^\xff])", re.DOTALL)
_BEHIND_SCAN: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_COEFFICIENTS: Final = 64
"""Of a block."""
_BLOCK_COST: Final = 4
"""What a scan costs for each block, beside its coefficients, in coefficients."""


class BadImage(ValueError):
    """The bytes are no image that is read here; the text goes on behind "image 1"."""


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """An image in a conversation."""

    data: bytes = dataclasses.field(repr=False)
    """A PNG or JPEG file."""
    message: int
    """In which message it is, counted from 0."""
    at: int
    """Before which character of that message's content."""

    @property
    def media_type(self) -> str:
        """By its first bytes, as HTTP and `data:` URLs name it."""
        return "image/png" if self.data.startswith(_PNG) else "image/jpeg"


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, as the file's beginning says. Raises BadImage."""
    if data.startswith(_PNG):
        width, height, *_ = _png_header(data)
    elif data.startswith(_JPEG):
        width, height = _jpeg_size(data)
    else:
        raise BadImage("is no PNG and no JPEG")
    if not (0 < width <= SIDE_MAX and 0 < height <= SIDE_MAX):
        raise BadImage(f"is {width} by {height} pixels; send one of 1 to {SIDE_MAX} each way")
    return width, height


def check_pixels(data: bytes) -> None:
    """See whether it is whole, and no more work to decode than its size says. Raises BadImage; what
    is no PNG and no JPEG passes.

    A PNG is unfolded as far as its header allows, keeping nothing, which takes as long as decoding.
    """
    if data.startswith(_PNG):
        _check_png(data)
    elif data.startswith(_JPEG):
        _check_jpeg(data)


def _check_png(data: bytes) -> None:
    header = _png_header(data)
    _, _, depth, *_, interlacing = header
    if interlacing and depth > 8:  # a decoder holds its pixels two and a half times
        raise BadImage("is interlaced, with 16 bits; save it without interlacing")
    expected = _unfolded_bytes(*header)
    inflater = zlib.decompressobj()
    unfolded = 0
    try:
        for name, content in _png_chunks(data):
            if name != b"IDAT":
                continue
            while content and not inflater.eof:
                unfolded += len(inflater.decompress(content, _UNFOLDED_BYTES))
                content = inflater.unconsumed_tail
                if unfolded > expected + _SLACK_BYTES:
                    raise BadImage("unfolds to more pixels than it says")
    except zlib.error as error:
        raise BadImage("is damaged") from error
    if unfolded < expected or not inflater.eof:
        raise BadImage("is cut off")


def _unfolded_bytes(
    width: int, height: int, depth: int, kind: int, _packing: int, _filter: int, interlacing: int
) -> int:
    """Of all rows, each with the number of its filter before it."""
    bits = _CHANNELS.get(kind, 4) * depth
    total = 0
    for left, top, across, down in _INTERLACED if interlacing else _STRAIGHT:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            total += max(0, rows) * (1 + (columns * bits + 7) // 8)
    return total


def _png_header(data: bytes) -> tuple[int, ...]:
    name, content = next(_png_chunks(data), (b"", b""))
    if name != b"IHDR" or len(content) != _HEADER.size:
        raise BadImage("has no header; it is damaged")
    return _HEADER.unpack(content)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    for _ in range(PARTS_MAX):
        if at + 12 > len(data):
            return
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size
    raise BadImage(f"has more than {PARTS_MAX} chunks")


def _check_jpeg(data: bytes) -> None:
    components = shown = 0
    is_progressive = False
    work = 0
    for kind, content in _jpeg_segments(data):
        if kind in _FRAMES:
            if components or len(content) < 6 or not content[5]:
                raise BadImage("is damaged")
            components, is_progressive = content[5], kind == _PROGRESSIVE
        elif kind == _SCAN:
            if not components or len(content) < 4:
                raise BadImage("is damaged")
            shown += content[0]
            band = content[-2] - content[-3] + 1 if is_progressive else _COEFFICIENTS
            work += content[0] * (max(1, band) + _BLOCK_COST)
            if work > PASSES_MAX * _COEFFICIENTS or (not is_progressive and shown > components):
                raise BadImage("has too many scans; save it as a baseline JPEG")
    if not shown:
        raise BadImage("is cut off")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    for kind, content in _jpeg_segments(data):
        if kind == _SCAN:
            break
        if kind in _FRAMES and len(content) >= 6:
            height, width = struct.unpack_from(">HH", content, 1)
            return width, height
    raise BadImage("is a JPEG without a size, or cut off")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Which kind each is, and what it holds; whatever a decoder takes for a scan is among them."""
    at = len(_JPEG)
    for _ in range(PARTS_MAX):
        marker = _MARKER.match(data, at)
        if marker is None:
            raise BadImage("is cut off" if data[at : at + 1] in (b"", b"\xff") else "is damaged")
        kind, at = marker[1][0], marker.end()
        if kind == _END:
            return
        size = int.from_bytes(data[at : at + 2], "big")
        if at + max(2, size) > len(data):
            raise BadImage("is cut off")
        if size < 2 or kind not in _KINDS:
            raise BadImage("is damaged")
        yield kind, data[at + 2 : at + size]
        at += size
        if kind == _SCAN:
            behind = _BEHIND_SCAN.search(data, at)
            if behind is None or behind.start() == at:
                raise BadImage("is cut off")
            at = behind.start()
    raise BadImage(f"has more than {PARTS_MAX} segments")
