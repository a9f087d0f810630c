"""The one place for what stands among a prompt's tokens where an image is. Pure.

An image becomes vectors that the model reads like tokens, but it has no token ids. Each of its
places has a number below zero instead, which follows from the image's content alone: so two prompts
begin alike exactly where their texts and their images do.
"""

import dataclasses
from typing import Any

from runtimes.limits import IMAGE_TOKENS_MAX


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class PlacedImage:
    """An image, or one of the parts that it was cut into, in a prompt."""

    start: int
    """The place of its first token."""
    tokens: int
    positions: int
    """How many positions of the text it takes; few, where its tokens lie in two dimensions."""
    is_whole: bool
    """Whether it must be decoded in one piece, for its tokens look at later ones, too."""
    source: Any
    """What its pixels are made from (vision.py)."""
    number: int
    """Which of the prompt's images it is, counted from 0; parts of one have the same."""
    chunk: int
    """Which of the pieces it is that mtmd has cut the prompt into."""
    is_last_part: bool = False
    is_announced: bool = False
    """Whether it was told that it is computed next."""
    vectors: Any = None
    """What the model reads; None while it was not computed, or is not needed."""

    @property
    def end(self) -> int:
        """The place behind its last token."""
        return self.start + self.tokens


def image_keys(digest: bytes, tokens: int) -> list[int]:
    """What stands for the tokens of an image whose content has this digest (16 bytes or more)."""
    first = -1 - (int.from_bytes(digest[:16], "big") * IMAGE_TOKENS_MAX)
    return list(range(first, first - tokens, -1))


def place_in_image(token: int) -> int:
    """How many tokens of the same image come before this one; 0 for a token of text."""
    return (-1 - token) % IMAGE_TOKENS_MAX if token < 0 else 0


def as_ids(tokens: list[int]) -> tuple[int, ...]:
    """Token ids, 0 for each token of an image."""
    return tuple(max(0, token) for token in tokens)
