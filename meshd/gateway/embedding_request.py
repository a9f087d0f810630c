"""The one place that reads bodies of `/v1/embeddings` (OpenAI) and `/v1/rerank` (Jina). Pure."""

import dataclasses
from typing import Annotated, Any, Literal

import pydantic
from pydantic_core import PydanticCustomError

from meshd.gateway.openai_content import without_nul
from meshd.gateway.openai_request import Name, read_body
from meshd.gateway.openai_turns import BODY_CONFIG, Text
from runtimes import limits
from runtimes.embedding import EmbedRequest


def _texts_or_ids(value: object) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """OpenAI's four forms (a text, texts, the tokens of one text, those of several) as texts, and
    as token ids; one of them is empty.
    """
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise PydanticCustomError("input", "must be a text, or a list of texts or of token ids")
    if type(items[0]) is int:
        items = [items]
    if len(items) > limits.TEXTS_MAX:
        raise PydanticCustomError("input", "has more than {most} texts", {"most": limits.TEXTS_MAX})
    if all(isinstance(item, str) for item in items):
        if not all(items):
            raise PydanticCustomError("input", "has an empty text")
        return tuple(map(without_nul, items)), ()
    if all(isinstance(item, list) and set(map(type, item)) == {int} for item in items):
        if not all(0 <= min(item) <= max(item) <= limits.TOKENS_MAX for item in items):
            raise PydanticCustomError("input", "has a token id that is none")
        return (), tuple(map(tuple, items))
    raise PydanticCustomError("input", "must have texts or lists of token ids, all of one kind")


def _document_text(document: object) -> object:
    """A text as it is, or in an object; anything else is left for the next check."""
    return document.get("text") if isinstance(document, dict) else document


Documents = Annotated[
    list[Annotated[Text, pydantic.BeforeValidator(_document_text)]],
    pydantic.FailFast(),
    pydantic.Field(min_length=1, max_length=limits.TEXTS_MAX),
]


class EmbeddingBody(pydantic.BaseModel):
    """The body of `POST /v1/embeddings`."""

    model_config = BODY_CONFIG
    model: Name
    input: Annotated[Any, pydantic.AfterValidator(_texts_or_ids)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, pydantic.Field(ge=1, le=limits.DIMENSIONS_MAX)] | None = None
    user: str | None = None


class RerankBody(pydantic.BaseModel):
    """The body of `POST /v1/rerank`."""

    model_config = BODY_CONFIG
    model: Name
    query: Text
    documents: Documents
    top_n: Annotated[int, pydantic.Field(ge=1)] | None = None
    return_documents: bool | None = None
    user: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCall:
    """What is to be embedded, and how its answer is wanted."""

    request: EmbedRequest
    is_base64: bool
    user: str | None
    """Whom the app asks for, in its own words."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RerankCall:
    """What is to be ranked, and how its answer is wanted."""

    request: EmbedRequest
    top: int
    """So many of the best."""
    with_documents: bool
    user: str | None


def parse_embedding(body: bytes | bytearray) -> EmbeddingCall:
    """Read the body of a request for embeddings. Raises Refusal, whatever the bytes are."""
    parsed = read_body(EmbeddingBody, body)
    texts, token_ids = parsed.input
    return EmbeddingCall(
        request=EmbedRequest(
            model=parsed.model, texts=texts, token_ids=token_ids, dimensions=parsed.dimensions
        ),
        is_base64=parsed.encoding_format == "base64",
        user=parsed.user,
    )


def parse_rerank(body: bytes | bytearray) -> RerankCall:
    """Read the body of a request to rank. Raises Refusal, whatever the bytes are."""
    parsed = read_body(RerankBody, body)
    texts = tuple(parsed.documents)
    return RerankCall(
        request=EmbedRequest(model=parsed.model, texts=texts, query=parsed.query),
        top=min(len(texts), parsed.top_n or len(texts)),
        with_documents=parsed.return_documents is not False,
        user=parsed.user,
    )
