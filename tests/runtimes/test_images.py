"""Images as they come: what is read of them before anybody decodes them, and what is refused."""

import contextlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes import limits
from runtimes.base import ChatMessage, GenerateRequest, ModelCard, RuntimeFailure
from runtimes.images import SCANS_MAX, SIDE_MAX, BadImage, Image, check_pixels, image_size

pytest.importorskip("gguf", reason="the [dev] extra is not installed")

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
    with pytest.raises(BadImage, match="damaged"):
        check_pixels(png_of(10, 30, b"no pixels"))


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


def test_a_jpeg_has_few_scans() -> None:
    """Each of them goes over all of the image again."""
    assert image_size(jpeg(scans=SCANS_MAX)) == (16, 8)
    with pytest.raises(BadImage, match="scans"):
        image_size(jpeg(scans=SCANS_MAX + 1))


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
