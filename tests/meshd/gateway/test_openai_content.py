"""What messages show: images in the request itself, in their places, and none from elsewhere."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.gateway.errors import Refusal, meaning
from meshd.gateway.openai_request import parse_chat
from runtimes import limits
from runtimes.base import ChatMessage, GenerateRequest
from runtimes.images import Image

PNG = b"\x89PNG\r\n\x1a\nany"
JPEG = b"\xff\xd8any"


def url(data: bytes, kind: str = "png") -> str:
    """An image as clients send it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image(data: bytes, **more: object) -> dict[str, object]:
    """A part that shows it."""
    return {"type": "image_url", "image_url": {"url": url(data), **more}}


def text(words: str) -> dict[str, object]:
    """A part that says it."""
    return {"type": "text", "text": words}


def read(*contents: object, role: str = "user") -> GenerateRequest:
    """A chat of messages with these contents."""
    turns = [{"role": role, "content": content} for content in contents]
    return parse_chat(json.dumps({"model": "m", "messages": turns}).encode()).requests[0]


def refusal(content: object, role: str = "user") -> Refusal:
    """Why such a message is refused."""
    with pytest.raises(Refusal) as caught:
        read(content, role=role)
    assert meaning(caught.value).status == 400
    assert caught.value.param == "messages[0].content"
    assert "\n" not in caught.value.message
    return caught.value


def test_parts_keep_their_order() -> None:
    """Texts are joined by line breaks, images stand where they stood between them."""
    request = read(
        [image(PNG), text("a"), text("b"), image(JPEG, detail="high"), image(PNG), text("c")],
        "no image",
        [text("d"), image(JPEG)],
    )
    contents = ("a\nbc", "no image", "d")
    assert request.messages == tuple(ChatMessage(role="user", content=each) for each in contents)
    places = [(PNG, 0, 0), (JPEG, 0, 3), (PNG, 0, 3), (JPEG, 2, 1)]
    assert request.images == tuple(Image(*place) for place in places)


@pytest.mark.parametrize("kind", ["png", "jpeg", "jpg", "PNG"])
def test_the_bytes_say_what_an_image_is(kind: str) -> None:
    """Whatever its URL calls it; `detail` means nothing, and the short form is understood."""
    part = {"type": "image_url", "image_url": url(JPEG, kind)}
    assert read([part, text("a")]).images == (Image(JPEG, 0, 0),)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "data:,hello",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png,abc",
        "data:text/html;base64,aGk=",
        "",
    ],
)
def test_nothing_is_fetched(address: str) -> None:
    """The line says what is wanted instead."""
    failure = refusal([{"type": "image_url", "image_url": {"url": address}}])
    assert "nothing is fetched" in failure.message


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": {"url": 5}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,not base64"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,abc"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,\u00e4\u00f6\u00fc="}},
    ],
)
def test_what_is_no_image_is_refused(part: object) -> None:
    """With the place in the body."""
    refusal([part])


def test_only_users_show_images() -> None:
    """A model has no way to."""
    for role in ("assistant", "system"):
        assert "role 'user'" in refusal([image(PNG)], role).message


def test_the_number_of_images_is_bounded() -> None:
    """Before they are decoded."""
    assert len(read([image(PNG)] * limits.IMAGES_MAX).images) == limits.IMAGES_MAX
    assert "more than 16 images" in refusal([image(PNG)] * (limits.IMAGES_MAX + 1)).message


@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "text", "image_url", "url"]), inner, max_size=3
            )
        ),
    )
)
def test_any_content_is_read_or_refused(content: object) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(Refusal):
        read(content)
