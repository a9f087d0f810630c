"""The one place that words requests to embed and to rank for an upstream, and reads its answers.
Pure.

Vectors are asked for in base64, a quarter of the bytes; servers that do not know it send numbers.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any, Final

from runtimes.embedding import EmbedRequest, Vector, normalised
from runtimes.openai.failures import malformed

EMBED_PATH: Final = "/embeddings"
RERANK_PATH: Final = "/rerank"
BATCH_TEXTS_MAX: Final = 32
"""In one call: an answer comes at once, and nothing is heard before."""
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of one call; as numbers, a vector of 16,384 takes less than a megabyte."""
_COUNT_MAX: Final = 2**31 - 1


def path_of(request: EmbedRequest) -> str:
    """Below the base path, where this kind of request goes."""
    return EMBED_PATH if request.query is None else RERANK_PATH


def bodies_of(request: EmbedRequest, model: str) -> Iterator[tuple[int, bytes]]:
    """The JSON of the calls that it takes, each with how many vectors it asks for; `model` is the
    upstream's own id.
    """
    texts: tuple[object, ...] = request.texts or request.token_ids
    for start in range(0, len(texts), BATCH_TEXTS_MAX):
        some = texts[start : start + BATCH_TEXTS_MAX]
        fields: dict[str, Any] = {"model": model}
        if request.query is None:
            fields |= {"input": some, "encoding_format": "base64"}
        else:
            fields |= {"query": request.query, "documents": some, "top_n": len(some)}
        if request.dimensions is not None:
            fields["dimensions"] = request.dimensions
        yield len(some), json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def read_answer(body: bytes, request: EmbedRequest, count: int) -> tuple[list[Vector], int]:
    """The `count` vectors of one call in their order, and the tokens that they took.

    Raises RuntimeFailure `crashed` when it is no such answer.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise malformed("it is no JSON") from None
    fields = content if isinstance(content, dict) else {}
    rows = fields.get("data" if request.query is None else "results")
    if not isinstance(rows, list) or len(rows) != count:
        raise malformed(f"it has no list of {count} results")
    vectors: dict[int, Vector] = {}
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise malformed("a result is no object")
        index = row.get("index", place)
        if type(index) is not int or not 0 <= index < count or index in vectors:
            raise malformed("its results are not numbered")
        vectors[index] = _vector(row, request)
    return [vectors[index] for index in range(count)], _tokens(fields.get("usage"))


def _vector(row: dict[str, Any], request: EmbedRequest) -> Vector:
    value = row.get("embedding") if request.query is None else [row.get("relevance_score")]
    try:
        if isinstance(value, str):
            value = Vector.read(base64.b64decode(value, validate=True)).numbers
        if not isinstance(value, list | tuple) or not all(map(_is_number, value)):
            raise malformed("a result has no numbers")
        if request.dimensions is not None and len(value) > request.dimensions:
            value = normalised(value, request.dimensions)  # it did not know the word
        return Vector.of(value)
    except (ValueError, OverflowError, binascii.Error):
        raise malformed("a result has numbers that are none") from None


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _tokens(usage: object) -> int:
    """As the upstream counts; 0 where it does not say."""
    for name in ("prompt_tokens", "total_tokens"):
        value = usage.get(name) if isinstance(usage, dict) else None
        if type(value) is int and 0 <= value <= _COUNT_MAX:
            return value
    return 0
