"""The one place for requests that generate nothing: texts become vectors, or scores.

A score is a vector of one number: what a model that ranks makes of a query and one text.
"""

import dataclasses
import math
import struct
from collections.abc import Sequence
from typing import ClassVar, Final

GENERATE: Final = "generate"
EMBED: Final = "embed"
RERANK: Final = "rerank"
SEE: Final = "see"
"""To generate from a conversation that has images in it."""
TEXT_TASKS: Final = (GENERATE, EMBED, RERANK)
TASKS: Final = (*TEXT_TASKS, SEE)
"""What a request can ask of a model, and a model can be made for."""
NUMBERS_MAX: Final = 2**20
"""Of one answer, all vectors together: 4 MiB, which nobody is sent before all of it has come."""
_NUMBER_BYTES: Final = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """What to embed: exactly one of `texts` and `token_ids` has anything in it."""

    model: str
    """The model's name as the mesh lists it."""
    texts: tuple[str, ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()
    """Texts in the model's own tokens, which are taken as they are."""
    query: str | None = None
    """What each of `texts` is to be ranked for; None: they are embedded."""
    dimensions: int | None = None
    """Keep so many numbers of each vector, which is normalised behind that; None: all."""

    messages: ClassVar[None] = None
    max_tokens: ClassVar[int] = 0
    continued_ids: ClassVar[tuple[int, ...]] = ()
    """As a `GenerateRequest` has them. It makes no tokens, and is not continued: it begins anew."""

    @property
    def task(self) -> str:
        """What a model must be made for."""
        return EMBED if self.query is None else RERANK

    @property
    def count(self) -> int:
        """How many vectors are wanted."""
        return len(self.texts) or len(self.token_ids)


@dataclasses.dataclass(frozen=True, slots=True)
class Vector:
    """The vector of a request's next text, of length 1 (unless it is a score)."""

    data: bytes
    """float32, little-endian, all of them finite."""

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Vector":
        """Raises ValueError for none, and for what is not finite as float32."""
        try:
            return cls.read(struct.pack(f"<{len(numbers)}f", *numbers))
        except (struct.error, OverflowError) as error:
            raise ValueError("no numbers, or too large ones") from error

    @classmethod
    def read(cls, data: bytes) -> "Vector":
        """From bytes that anybody may have sent. Raises ValueError."""
        if not data or len(data) % _NUMBER_BYTES:
            raise ValueError("no whole numbers")
        vector = cls(data)
        if not all(map(math.isfinite, vector.numbers)):
            raise ValueError("a number that is not finite")
        return vector

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers themselves."""
        return struct.unpack(f"<{self.dimensions}f", self.data)

    @property
    def dimensions(self) -> int:
        """How many there are."""
        return len(self.data) // _NUMBER_BYTES


def normalised(numbers: Sequence[float], dimensions: int | None = None) -> list[float]:
    """The first `dimensions` of `numbers`, with the length 1; all 0 stay so."""
    kept = numbers[:dimensions]
    length = math.hypot(*kept)
    return [number / length for number in kept] if length > 0.0 else list(kept)
