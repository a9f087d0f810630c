"""The one place for how the vectors of a text's tokens become one, and what a model is made for."""

import dataclasses
from typing import Final

from runtimes.embedding import EMBED, GENERATE, RERANK
from runtimes.llama.files.context_length import DEFAULT_CONTEXT_TOKENS_MAX

UNSPLIT_TOKENS_MAX: Final = 1024
"""By default, of a text that a causal model must see in one piece: it works out what would come
next for every token at once, which takes gigabytes for a long text and a large vocabulary."""
_NONE: Final = ("", "0")
"""Nothing is said, or LLAMA_POOLING_TYPE_NONE."""
_LAST: Final = "3"
"""LLAMA_POOLING_TYPE_LAST: the only one for which a text may be decoded in pieces."""
_RANK: Final = "4"
"""LLAMA_POOLING_TYPE_RANK."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pooling:
    """What a file says of it."""

    kind: str = ""
    """llama.cpp's number; empty: it says nothing."""
    is_causal: bool = True
    """Whether a token sees only those before it."""

    @property
    def task(self) -> str:
        """What the model is made for, of `runtimes.embedding.TASKS`."""
        if self.kind in _NONE:
            return GENERATE
        return RERANK if self.kind == _RANK else EMBED

    @property
    def can_split(self) -> bool:
        """Whether a text may be decoded in pieces."""
        return self.is_causal and self.kind == _LAST

    def context_tokens(self, trained: int, wanted: int | None) -> int:
        """The longest text of a model that makes vectors: never longer than it was trained for,
        since there may be no weights for later positions.
        """
        is_short = self.is_causal and not self.can_split
        usual = UNSPLIT_TOKENS_MAX if is_short else DEFAULT_CONTEXT_TOKENS_MAX
        return min(trained, wanted or usual)
