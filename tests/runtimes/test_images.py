"""Images as they come: what is read of them before anybody decodes them, and what is refused."""

import contextlib
import dataclasses
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes import limits
from runtimes.base import ChatMessage, GenerateRequest, ModelCard, RuntimeFailure
from runtimes.images import PARTS_MAX, SIDE_MAX, BadImage, Image, check_pixels, image_size

pytest.importorskip("gguf", reason="the [dev] extra is not installed")

from tests.helpers.jpegs import Scan, hard_jpeg, segment
from tests.helpers.projectors import jpeg, png, png_of

MESSAGES = (ChatMessage(role="user", content="What is this?"),)


def asking(*images: Image) -> GenerateRequest:
    """A request that shows these."""
    return GenerateRequest(model="m", messages=MESSAGES, images=images)


def refusal(*images: Image) -> str:
    """Why such a request is refused."""
    with pytest.raises(RuntimeFailure) as failed:
        limits.check_request(asking(*images))
    assert failed.value.code == "bad_request"
    return failed.value.message


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (17, 300)])
def test_the_size_is_what_the_header_says(size: tuple[int, int]) -> None:
    """Of both kinds; in a JPEG whatever comes before it."""
    assert image_size(png(*size)) == size
    assert image_size(jpeg(*size)) == size
    note = b"\xff\xff\xfe\x00\x10" + b"\xff\xda" + bytes(12)
    assert image_size(jpeg(*size).replace(b"\xff\xdb", note + b"\xff\xdb", 1)) == size
    check_pixels(png(*size))
    check_pixels(jpeg(*size))


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (SIDE_MAX + 1, 1)])
def test_sides_are_bounded(width: int, height: int) -> None:
    """From one pixel on."""
    said, meant = struct.pack(">HH", 8, 16), struct.pack(">HH", height, width)
    for data in (png_of(width, height, b""), jpeg(16, 8).replace(said, meant, 1)):
        with pytest.raises(BadImage, match=f"is {width} by {height} pixels"):
            image_size(data)


def test_a_png_is_unfolded_no_further_than_it_says() -> None:
    """A few kilobytes of it may be gigabytes of pixels."""
    rows = bytes(31 * 30)
    check_pixels(png_of(10, 30, zlib.compress(rows)))
    bomb = png_of(10, 30, zlib.compress(bytes(100_000_000)))
    assert len(bomb) < 200_000
    with pytest.raises(BadImage, match="more pixels than it says"):
        check_pixels(bomb)
    with pytest.raises(BadImage, match="cut off"):
        check_pixels(png_of(10, 30, zlib.compress(rows)[:-1]))
    with pytest.raises(BadImage, match="cut off"):
        check_pixels(png_of(10, 30, zlib.compress(rows[:-1])))
    with pytest.raises(BadImage, match="damaged"):
        check_pixels(png_of(10, 30, b"no pixels"))
    slack = zlib.compress(rows + bytes(64))
    check_pixels(png_of(10, 30, slack))
    with pytest.raises(BadImage, match="more pixels than it says"):
        check_pixels(png_of(10, 30, zlib.compress(rows + bytes(65))))


@pytest.mark.parametrize(
    ("width", "height", "bytes_of_rows"),
    [(1, 1, 4), (8, 8, 15 + 3 * 64), (3, 2, 3 * 4 + 10), (1, 5, 5 * 4)],
)
def test_an_interlaced_png_has_its_rows(width: int, height: int, bytes_of_rows: int) -> None:
    """Of seven passes, as many as there are for its size."""

    def image(size: int, depth: int = 8) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 1)
        data = png_of(width, height, zlib.compress(bytes(size)))
        return data[:16] + header + data[16 + len(header) :]

    check_pixels(image(bytes_of_rows))
    check_pixels(image(bytes_of_rows + 64))
    with pytest.raises(BadImage, match="cut off"):
        check_pixels(image(bytes_of_rows - 1))
    with pytest.raises(BadImage, match="more pixels than it says"):
        check_pixels(image(bytes_of_rows + 65))
    with pytest.raises(BadImage, match="interlaced, with 16 bits"):
        check_pixels(image(bytes_of_rows * 2, depth=16))


def test_pixels_may_lie_in_several_chunks() -> None:
    """As most programs write them."""
    whole = png(50, 50)
    size = int.from_bytes(whole[33:37], "big")
    packed = whole[41 : 41 + size]
    pieces = b"".join(
        struct.pack(">I", len(piece)) + b"IDAT" + piece + bytes(4)
        for piece in (packed[:1], packed[1:1000], packed[1000:])
    )
    check_pixels(whole[:33] + pieces + whole[-12:])


COLOUR = range(3)
PROGRESSIVE: list[Scan] = [
    (COLOUR, 0, 0),
    *(([0], 1, 5), ([2], 1, 63), ([1], 1, 63), ([0], 6, 63), ([0], 1, 63)),
    (COLOUR, 0, 0),
    *(([2], 1, 63), ([1], 1, 63), ([0], 1, 63)),
]
"""As libjpeg writes them."""


@pytest.mark.parametrize(
    ("scans", "is_progressive", "fits"),
    [
        ([(COLOUR, 0, 63)], False, True),
        ([([number], 0, 63) for number in COLOUR], False, True),
        ([(COLOUR, 0, 63), ([0], 0, 63)], False, False),
        ([([0], 0, 63)] * 4, False, False),
        (PROGRESSIVE, True, True),
        (PROGRESSIVE * 2, True, False),
        ([([0], 1, 63)] * 13, True, True),
        ([([0], 1, 63)] * 14, True, False),
        ([(COLOUR, 0, 0)] * 59, True, True),
        ([(COLOUR, 0, 0)] * 60, True, False),
        ([([0], 63, 0)] * 200, True, False),
    ],
)
def test_a_jpeg_is_gone_over_few_times(scans: list[Scan], is_progressive: bool, fits: bool) -> None:
    """A kilobyte of it may be a minute's work: each scan goes over all of the image again."""
    data = hard_jpeg(16, 16, scans=scans, is_progressive=is_progressive)
    assert image_size(data) == (16, 16)
    if fits:
        check_pixels(data)
    else:
        with pytest.raises(BadImage, match="too many scans"):
            check_pixels(data)


@pytest.mark.parametrize("left", range(2, len(hard_jpeg(16, 16))))
def test_a_jpeg_that_is_cut_off_is_refused(left: int) -> None:
    """Wherever it ends: a decoder would show the rest in grey."""
    with pytest.raises(BadImage, match="cut off"):
        check_pixels(hard_jpeg(16, 16)[:left])


def test_scans_are_found_where_a_decoder_finds_them() -> None:
    """Behind pixels, restarts and filling; what lies in a note is none."""
    data = hard_jpeg(16, 16)
    at = data.index(b"\xff\xda")
    scan = data[at:-2]
    check_pixels(data[:2] + segment(0xE1, scan * 9) + data[2:] + scan * 9)
    for between in (b"\xff\x00\xff\xd0\xff\xff", b"\x80" * 100):
        with pytest.raises(BadImage, match="too many scans"):
            check_pixels(data[:-2] + between + scan + data[-2:])


def test_an_image_has_few_parts() -> None:
    """Megabytes of empty ones would hold up whoever looks at them."""
    data, none = jpeg(), segment(0xE0, b"")
    parts = 2 + 2 + 1  # tables, the frame and the scan
    check_pixels(data[:2] + none * (PARTS_MAX - parts - 1) + data[2:])
    for look in (image_size, check_pixels):
        with pytest.raises(BadImage, match="4096 segments"):
            look(data[:2] + none * PARTS_MAX + data[2:])
    chunk = struct.pack(">I", 0) + b"IDAT" + bytes(4)
    image = png()
    check_pixels(image[:33] + chunk * (PARTS_MAX - 4) + image[33:])
    with pytest.raises(BadImage, match="4096 chunks"):
        check_pixels(image[:33] + chunk * PARTS_MAX + image[33:])


@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", png()[:40], jpeg()[:30]]),
    data=st.binary(max_size=200),
)
def test_any_bytes_have_a_size_or_are_refused(start: bytes, data: bytes) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(BadImage):
        width, height = image_size(start + data)
        assert 0 < width <= SIDE_MAX
        assert 0 < height <= SIDE_MAX
    with contextlib.suppress(BadImage):
        check_pixels(start + data)


def test_images_have_places_in_their_order() -> None:
    """Within the content of a message that there is."""
    data, length = png(), len(MESSAGES[0].content)
    limits.check_request(asking(Image(data, 0, 0), Image(data, 0, 5), Image(data, 0, length)))
    for image in (Image(data, 1, 0), Image(data, -1, 0), Image(data, 0, length + 1)):
        assert "no place" in refusal(image)
    assert "no place" in refusal(Image(data, 0, 5), Image(data, 0, 0))
    with pytest.raises(RuntimeFailure, match="no place"):
        limits.check_request(GenerateRequest(model="m", prompt="a", images=(Image(data, 0, 0),)))


@pytest.mark.parametrize("role", ["system", "assistant", "tool", "developer"])
def test_only_users_show_images(role: str) -> None:
    """A template may put another's message elsewhere, and images in the place of others with it."""
    messages = (ChatMessage(role=role, content="Look:"), *MESSAGES)
    shown = GenerateRequest(model="m", messages=messages, images=(Image(png(), 1, 0),))
    limits.check_request(shown)
    with pytest.raises(RuntimeFailure, match="only messages of the role 'user'") as failed:
        limits.check_request(dataclasses.replace(shown, images=(Image(png(), 0, 0),)))
    assert failed.value.code == "bad_request"


def test_there_are_bounds_for_all_images_together() -> None:
    """Their number, their pixels, their bytes; and each is named that is none."""
    image = Image(png(), 0, 0)
    limits.check_request(asking(*[image] * limits.IMAGES_MAX))
    assert "17 images are too many" in refusal(*[image] * (limits.IMAGES_MAX + 1))
    large = Image(png_of(4096, 4096, b""), 0, 0)
    limits.check_request(asking(large))
    assert "16777216 pixels together" in refusal(large, image)
    assert refusal(image, Image(b"GIF89a", 0, 0)) == "image 2 is no PNG and no JPEG"
    heavy = Image(png() + bytes(limits.PROMPT_BYTES_MAX // 2), 0, 0)
    with pytest.raises(RuntimeFailure) as failed:
        limits.check_request(asking(heavy, heavy))
    assert failed.value.code == "context_too_long"


def test_only_who_sees_is_asked_for_it() -> None:
    """One clear line says so."""
    card = ModelCard(name="m", content_hash="", runtime="llama")
    limits.check_task(asking(), card)
    with pytest.raises(RuntimeFailure, match="m cannot see images; leave them out"):
        limits.check_task(asking(Image(png(), 0, 0)), card)
