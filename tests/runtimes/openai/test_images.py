"""Images that an upstream is shown: where they stand, and which never reach it."""

import base64
import dataclasses
import json
import struct
import zlib
from typing import Any

import pytest

from runtimes.base import ChatMessage, GenerateRequest, Runtime, RuntimeFailure
from runtimes.images import Image
from runtimes.openai.body import body_of
from tests.helpers.jpegs import hard_jpeg
from tests.runtimes.openai.upstream import Upstream, saying, with_runtime
from tests.runtimes.serving import complete


def png(unfolded: int = 4) -> bytes:
    """A PNG of one pixel, whose data unfold to so many bytes (4 are right)."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(unfolded))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


PNG = png()
JPEG = hard_jpeg(1, 1)
MESSAGES = (
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="Is this\nor this larger?"),
    ChatMessage(role="assistant", content="The second."),
    ChatMessage(role="user", content=""),
)
ASK = GenerateRequest(model="m", messages=MESSAGES, images=(Image(PNG, 1, 8), Image(JPEG, 3, 0)))


def text(said: str) -> dict[str, object]:
    """The part that says so."""
    return {"type": "text", "text": said}


def shown(kind: str, data: bytes) -> dict[str, object]:
    """The part that shows an image."""
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def turns(request: GenerateRequest) -> Any:  # noqa: ANN401  # the test knows the shape
    """The messages that an upstream reads."""
    return json.loads(body_of(request, "m"))["messages"]


def test_images_stand_in_their_places() -> None:
    """Between the texts of their messages, by their kinds; other messages are plain texts."""
    assert turns(ASK) == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [text("Is this\n"), shown("png", PNG), text("or this larger?")],
        },
        {"role": "assistant", "content": "The second."},
        {"role": "user", "content": [shown("jpeg", JPEG)]},
    ]


@pytest.mark.parametrize("places", [(0, 0, 5), (0, 2, 2), (5, 5), (3,)])
def test_no_text_and_no_image_is_lost(places: tuple[int, ...]) -> None:
    """Before, behind and beside each other; what is said in all parts is what was said."""
    message = ChatMessage(role="user", content="a é b")
    images = tuple(Image(PNG + bytes([number]), 0, at) for number, at in enumerate(places))
    [turn] = turns(GenerateRequest(model="m", messages=(message,), images=images))
    said, seen = "", []
    for part in turn["content"]:
        said += part.get("text", "")
        if part["type"] == "image_url":
            seen.append((part, len(said)))
    assert said == message.content
    assert seen == [(shown("png", image.data), image.at) for image in images]


def test_an_answer_that_was_begun_goes_on_behind_images() -> None:
    """The assistant's last turn stays what it is."""
    begun = ChatMessage(role="assistant", content="It shows")
    said = turns(dataclasses.replace(ASK, messages=(*MESSAGES, begun)))
    assert said[-2:] == [
        {"role": "user", "content": [shown("jpeg", JPEG)]},
        {"role": "assistant", "content": "It shows"},
    ]


def test_a_model_that_sees_is_shown_them() -> None:
    """Through the whole runtime."""

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        assert (await complete(runtime, ASK)).text == "A cat"
        [seen] = upstream.seen
        assert seen.path == "/v1/chat/completions"
        assert seen.json["messages"] == turns(ASK)

    with_runtime(saying("A cat"), test, sees=True)


def test_a_model_that_does_not_see_is_never_asked() -> None:
    """The line names it, and the request has cost nothing."""

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        with pytest.raises(RuntimeFailure, match="m cannot see images") as failed:
            await complete(runtime, ASK)
        assert failed.value.code == "bad_request"
        assert upstream.seen == []
        assert runtime.load.running == 0

    with_runtime(saying("A cat"), test)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(100_000), "image 2 unfolds to more"),
        (PNG[:-20], "image 2 is cut off"),
        (PNG[:41] + bytes(9) + PNG[50:], "image 2 is damaged"),
        (hard_jpeg(1, 1, scans=[(range(3), 0, 63)] * 64), "image 2 has too many scans"),
        (b"GIF89a", "image 2 is no PNG"),
    ],
    ids=["bomb", "cut", "damaged", "work", "other"],
)
def test_what_would_harm_an_upstream_never_reaches_it(data: bytes, words: str) -> None:
    """llama-server unfolds a few kilobytes to gigabytes, if they are given to it."""
    request = dataclasses.replace(ASK, images=(Image(PNG, 1, 8), Image(data, 3, 0)))

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        with pytest.raises(RuntimeFailure, match=words) as failed:
            await complete(runtime, request)
        assert failed.value.code == "bad_request"
        assert upstream.seen == []
        assert (await complete(runtime, ASK)).text == "A cat"

    with_runtime(saying("A cat"), test, sees=True)
