"""The one place that reads what a message says and shows in the OpenAI dialect. Pure.

Images come in the request, as `data:` URLs: nothing is ever fetched for anybody.
"""

import base64
import binascii
import dataclasses
import re
from typing import Final

from pydantic_core import PydanticCustomError

from runtimes import limits

_DATA_URL: Final = re.compile(r"data:image/(?:png|jpeg|jpg);base64,", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """What a message says, and what it shows within."""

    text: str = ""
    images: tuple[tuple[int, bytes], ...] = ()
    """Before which character of the text each one is, and its file."""


def read_content(content: object) -> Content | None:
    """A text, or a list of parts in their order: texts one below the other, images between them.

    Raises PydanticCustomError for anything else but None.
    """
    if content is None:
        return None
    if isinstance(content, str):
        return Content(without_nul(content))
    if not isinstance(content, list):
        raise PydanticCustomError("part", "must be a text or a list of parts with a 'type'")
    if not content:
        raise PydanticCustomError("empty_content", "must not be an empty list")
    text, follows_text = "", False
    images: list[tuple[int, bytes]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url":
            if len(images) == limits.IMAGES_MAX:
                raise PydanticCustomError(
                    "images", "has more than {most} images", {"most": limits.IMAGES_MAX}
                )
            images.append((len(text), _image(part)))
        else:
            text += "\n" * follows_text + _text(part, kind)
        follows_text = kind == "text"
    return Content(without_nul(text), tuple(images))


def without_nul(text: str) -> str:
    """`text` as it is, if no C library could take it for shorter."""
    if "\0" in text:
        raise PydanticCustomError("nul", "must not contain the character U+0000")
    return text


def _text(part: dict[str, object], kind: object) -> str:
    if not isinstance(kind, str):
        raise PydanticCustomError("part", "must be a text or a list of parts with a 'type'")
    if kind != "text":
        raise PydanticCustomError(
            "unsupported",
            "has a part of type '{kind}', which is not supported; only 'text' and 'image_url' are",
            {"kind": kind[:64]},
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise PydanticCustomError("part", "has a part of type 'text' without its 'text'")
    return text


def _image(part: dict[str, object]) -> bytes:
    described = part.get("image_url")
    url = described.get("url") if isinstance(described, dict) else described
    if not isinstance(url, str):
        raise PydanticCustomError("part", "has a part of type 'image_url' without its 'url'")
    head = _DATA_URL.match(url)
    if head is None:
        raise PydanticCustomError(
            "image",
            "has an image that is no 'data:image/png;base64,' or 'data:image/jpeg;base64,' URL; "
            "send the image itself, nothing is fetched",
        )
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise PydanticCustomError("image", "has an image that is no base64") from error
