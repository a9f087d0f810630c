"""The one place for images as they come: what a request shows, how large it says it is. Pure.

PNG and JPEG, and nothing else: whatever decodes them is only ever given bytes whose beginning and
size were looked at here. An image of a few kilobytes can claim, and can unfold to, gigabytes.
"""

import dataclasses
import struct
import zlib
from collections.abc import Iterator
from typing import Final

SIDE_MAX: Final = 16_384
SCANS_MAX: Final = 64
"""Of a JPEG; each goes over all of the image, and a real one has ten or so."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8"
_SCAN: Final = b"\xff\xda"
_HEADER: Final = struct.Struct(">IIBBBBB")
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a PNG's pixel, by its colour type."""
_UNFOLDED_BYTES: Final = 1024 * 1024
"""Of a PNG's pixels, looked at in pieces."""
_FRAMES: Final = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive; nobody decodes the others."""


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
    """Unfold a PNG as far as its header allows, keeping nothing: a decoder would go on. Takes as
    long as decoding it. Raises BadImage; what is no PNG passes.
    """
    if not data.startswith(_PNG):
        return
    width, height, depth, kind, *_ = _png_header(data)
    row_bytes = (width * _CHANNELS.get(kind, 4) * depth + 7) // 8
    most = 2 * height * (row_bytes + 1) + 64  # interlaced ones have more and shorter rows
    inflater = zlib.decompressobj()
    unfolded = 0
    try:
        for name, content in _png_chunks(data):
            if name != b"IDAT":
                continue
            while content and not inflater.eof:
                unfolded += len(inflater.decompress(content, _UNFOLDED_BYTES))
                content = inflater.unconsumed_tail
                if unfolded > most:
                    raise BadImage("unfolds to more pixels than it says")
    except zlib.error as error:
        raise BadImage("is damaged") from error
    if not inflater.eof:
        raise BadImage("is cut off")


def _png_header(data: bytes) -> tuple[int, ...]:
    name, content = next(_png_chunks(data), (b"", b""))
    if name != b"IHDR" or len(content) != _HEADER.size:
        raise BadImage("has no header; it is damaged")
    return _HEADER.unpack(content)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def _jpeg_size(data: bytes) -> tuple[int, int]:
    if data.count(_SCAN) > SCANS_MAX:
        raise BadImage(f"has more than {SCANS_MAX} scans")
    at = len(_JPEG)
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:  # filling
            at += 1
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if kind in _FRAMES and size >= 8 and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if size < 2 or kind == _SCAN[1] or 0xD0 <= kind <= 0xD9:
            break
        at += 2 + size
    raise BadImage("is a JPEG without a size, or cut off")
