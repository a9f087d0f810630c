"""The one place where requests and answers become the opaque bodies that peers exchange.

Bodies from peers are hostile: reading one gives a value or raises BadPayload.
"""

import dataclasses
from typing import Final

from protocol.errors import DropReason, Refused
from protocol.fields import Fields, pack, unpack_array, unpack_fields
from runtimes import limits
from runtimes.base import (
    ChatMessage,
    Chunk,
    Finished,
    GenerateRequest,
    Logprob,
    Request,
    Started,
    Tool,
)
from runtimes.embedding import EmbedRequest, Vector
from runtimes.images import Image
from runtimes.reply_form import PLAIN, ReplyForm

_TEXT_CHARS_MAX: Final = 16 * 2**20
"""Here only what keeps memory bounded; what a request may ask for, runtimes/limits.py judges."""
_MESSAGES_MAX: Final = limits.MESSAGES_MAX
_STOPS_MAX: Final = 64
_CONTINUED_MAX: Final = limits.CONTINUED_TOKENS_MAX
_MESSAGE_TEXTS_MAX: Final = 5 + 3 * limits.CALLS_MAX
_ARRAYS_MAX: Final = _MESSAGES_MAX + limits.TOOLS_MAX + limits.IMAGES_MAX + 64
"""Each message is one, each tool, each image; a later version may add some."""
_PROMPT_TOKENS_MAX: Final = 2**21
"""As many as `limits.PROMPT_BYTES_MAX` can become."""
_FORM_CHARS_MAX: Final = 64
_CHUNK_TOKENS_MAX: Final = 65_536
_CHUNK_ARRAYS_MAX: Final = 4_096
"""With logprobs each token has up to 22."""
_VECTOR_ARRAYS_MAX: Final = 16
_VECTOR_ITEMS_MAX: Final = 64
_TOKEN_BYTES_MAX: Final = 4_096
_LOGPROB_MAX: Final = 1e5
_TOKENS_MAX: Final = limits.TOKENS_MAX
_TOKEN_ID_MAX: Final = 2**31
_VERSION: Final = 1
_VERSION_WITH_TOOLS: Final = 2
"""Of requests that version 1 would read and misunderstand."""
_VERSION_OF_EMBEDDING: Final = 3
"""Of requests to embed, or to rank: their fields are others."""
_VERSION_WITH_STOP_TOKENS: Final = 4
"""Of requests that all before it would not end where they shall."""
_VERSION_WITH_IMAGES: Final = 5
"""Of requests that all before it would answer without having seen what they show."""
_GENERATING_VERSIONS: Final = (
    _VERSION,
    _VERSION_WITH_TOOLS,
    _VERSION_WITH_STOP_TOKENS,
    _VERSION_WITH_IMAGES,
)
ANOTHER_VERSION: Final = "a request of another version"
"""What every version says to one that it does not know."""


class BadPayload(ValueError):
    """A peer's body makes no sense."""


def pack_request(request: Request) -> bytes:
    """The body of an Ask."""
    if isinstance(request, EmbedRequest):
        asked = (request.texts, request.token_ids, request.query, request.dimensions)
        return pack((_VERSION_OF_EMBEDDING, request.model, *asked))
    turns = request.messages
    return pack(
        (
            _least_version(request),
            request.model,
            None if turns is None else tuple(turn.texts() for turn in turns),
            request.prompt,
            request.max_tokens,
            request.temperature,
            request.top_p,
            request.top_k,
            request.min_p,
            request.seed,
            request.stop,
            int(request.ignore_eos),
            request.typical_p,
            request.repeat_penalty,
            request.presence_penalty,
            request.frequency_penalty,
            tuple(token for token, _ in request.logit_bias),
            tuple(bias for _, bias in request.logit_bias),
            request.grammar,
            request.json_schema,
            request.continued_ids,
            request.logprobs,
            tuple((tool.name, tool.description, tool.parameters) for tool in request.tools),
            int(request.must_call),
            int(request.parallel_calls),
            int(request.with_markers),
            request.stop_token_ids,
            tuple((image.data, image.message, image.at) for image in request.images),
        )
    )


def _least_version(request: GenerateRequest) -> int:
    """Which a node must know to answer just this, and not something else."""
    if request.images:
        return _VERSION_WITH_IMAGES
    if request.stop_token_ids:
        return _VERSION_WITH_STOP_TOKENS
    turns = request.messages or ()
    is_prefilled = bool(turns) and turns[-1].role == "assistant"
    is_longer = any(len(turn.texts()) > 2 for turn in turns)
    return _VERSION_WITH_TOOLS if request.tools or is_prefilled or is_longer else _VERSION


def unpack_request(body: bytes) -> Request:
    """The inverse; what earlier versions did not have may be missing. Raises BadPayload."""
    try:
        fields = unpack_fields(body, _ARRAYS_MAX, _CONTINUED_MAX)
        version = fields.take_int(0, 2**31)
        if version == _VERSION_OF_EMBEDDING:
            return _take_embedding(fields)
        if version not in _GENERATING_VERSIONS:
            raise BadPayload(ANOTHER_VERSION)
        model = fields.take_text(1_000)
        messages = _take_messages(fields)
        request = GenerateRequest(
            model=model,
            messages=messages,
            prompt=_take_optional_text(fields),
            max_tokens=_take_optional_int(fields, 0, _TOKENS_MAX),
            temperature=_take_float(fields, 0.0, 100.0),
            top_p=_take_float(fields, 0.0, 1.0),
            top_k=fields.take_int(0, 2**31),
            min_p=_take_float(fields, 0.0, 1.0),
            seed=_take_optional_int(fields, -(2**63), 2**64 - 1),
            stop=tuple(_text(item) for item in fields.take_array(_STOPS_MAX)),
            ignore_eos=fields.take_int(0, 1) == 1,
        )
        return _with_later_fields(request, fields) if fields.has_more else request
    except Refused as refused:
        raise BadPayload(str(refused)) from refused


def _take_embedding(fields: Fields) -> EmbedRequest:
    return EmbedRequest(
        model=fields.take_text(1_000),
        texts=tuple(_text(item) for item in fields.take_array(limits.TEXTS_MAX)),
        token_ids=_take_texts_ids(fields),
        query=_take_optional_text(fields),
        dimensions=_take_optional_int(fields, 1, limits.DIMENSIONS_MAX),
    )


def _take_texts_ids(fields: Fields) -> tuple[tuple[int, ...], ...]:
    items = fields.take_array(limits.TEXTS_MAX)
    # Before each is looked at: a body has room for many times what may be asked for.
    if sum(len(item) for item in items if isinstance(item, tuple)) > limits.TEXT_TOKENS_MAX:
        raise Refused(DropReason.MALFORMED, "token_ids")
    return tuple(map(_token_ids, items))


def _with_later_fields(request: GenerateRequest, fields: Fields) -> GenerateRequest:
    penalty_max = limits.PENALTY_MAX
    request = dataclasses.replace(
        request,
        typical_p=_take_float(fields, 0.0, 1.0),
        repeat_penalty=_take_float(fields, 0.0, limits.REPEAT_PENALTY_MAX),
        presence_penalty=_take_float(fields, -penalty_max, penalty_max),
        frequency_penalty=_take_float(fields, -penalty_max, penalty_max),
        logit_bias=_take_biases(fields),
        grammar=_take_optional_text(fields),
        json_schema=_take_optional_text(fields),
        continued_ids=_token_ids(fields.take()),
        logprobs=_take_optional_int(fields, 0, limits.LOGPROBS_MAX) if fields.has_more else None,
    )
    return _with_tools(request, fields) if fields.has_more else request


def _with_tools(request: GenerateRequest, fields: Fields) -> GenerateRequest:
    tools = (Fields(item) for item in fields.take_array(limits.TOOLS_MAX))
    return dataclasses.replace(
        request,
        tools=tuple(
            Tool(
                name=tool.take_text(_TEXT_CHARS_MAX),
                description=tool.take_text(_TEXT_CHARS_MAX),
                parameters=tool.take_text(_TEXT_CHARS_MAX),
            )
            for tool in tools
        ),
        must_call=fields.take_int(0, 1) == 1,
        parallel_calls=fields.take_int(0, 1) == 1,
        with_markers=fields.take_int(0, 1) == 1,
        stop_token_ids=_take_stop_tokens(fields) if fields.has_more else (),
        images=_take_images(fields) if fields.has_more else (),
    )


def _take_stop_tokens(fields: Fields) -> tuple[int, ...]:
    ids = _token_ids(fields.take())
    if len(ids) > limits.STOP_TOKENS_MAX:
        raise Refused(DropReason.MALFORMED, "stop_token_ids")
    return ids


def _take_images(fields: Fields) -> tuple[Image, ...]:
    images = (Fields(item) for item in fields.take_array(limits.IMAGES_MAX))
    return tuple(
        Image(
            image.take_blob(limits.PROMPT_BYTES_MAX),
            image.take_int(0, _MESSAGES_MAX),
            image.take_int(0, _TEXT_CHARS_MAX),
        )
        for image in images
    )


def _take_biases(fields: Fields) -> tuple[tuple[int, float], ...]:
    tokens = _token_ids(fields.take())
    biases = Fields(fields.take())
    read = tuple(
        (token, _take_float(biases, -limits.BIAS_MAX, limits.BIAS_MAX)) for token in tokens
    )
    if len(read) > limits.BIASES_MAX or biases.has_more:
        raise Refused(DropReason.MALFORMED, "logit_bias")
    return read


def _take_messages(fields: Fields) -> tuple[ChatMessage, ...] | None:
    items = fields.take()
    if items is None:
        return None
    if not isinstance(items, tuple) or len(items) > _MESSAGES_MAX:
        raise Refused(DropReason.MALFORMED, "messages")
    return tuple(map(_message, items))


def _message(item: object) -> ChatMessage:
    if not isinstance(item, tuple) or len(item) > _MESSAGE_TEXTS_MAX:
        raise Refused(DropReason.MALFORMED, "a message")
    try:
        return ChatMessage.of_texts([_text(text) for text in item])
    except ValueError as error:
        raise Refused(DropReason.MALFORMED, "a message") from error


def _text(item: object) -> str:
    if not isinstance(item, str) or len(item) > _TEXT_CHARS_MAX:
        raise Refused(DropReason.MALFORMED, "not a text")
    return item


def _take_optional_text(fields: Fields) -> str | None:
    item = fields.take()
    return None if item is None else _text(item)


def _take_optional_int(fields: Fields, low: int, high: int) -> int | None:
    item = fields.take()
    if item is None:
        return None
    if type(item) is not int or not low <= item <= high:
        raise Refused(DropReason.MALFORMED, "not an integer in range")
    return item


def _take_float(fields: Fields, low: float, high: float) -> float:
    item = fields.take()
    # NaN compares false with everything, so it is refused here too.
    if type(item) not in (int, float) or not isinstance(item, int | float):
        raise Refused(DropReason.MALFORMED, "not a number")
    if not low <= item <= high:
        raise Refused(DropReason.MALFORMED, "number out of range")
    return float(item)


def pack_started(started: Started) -> bytes:
    """The body of an Accept."""
    ids, form = started.prompt_token_ids, started.form
    # Who knows of no forms did not ask for markers, and gets no form.
    return pack(ids if form == PLAIN else (ids, form.calls, form.thoughts))


def unpack_started(body: bytes) -> Started:
    """The inverse. Raises BadPayload."""
    try:
        items = unpack_array(body, 2, _PROMPT_TOKENS_MAX)
        if not (items and isinstance(items[0], tuple)):
            return Started(_token_ids(items))
        fields = Fields(items)
        ids = _token_ids(fields.take())
        form = ReplyForm(fields.take_text(_FORM_CHARS_MAX), fields.take_text(_FORM_CHARS_MAX))
        return Started(ids, form)
    except Refused as refused:
        raise BadPayload(str(refused)) from refused


def pack_chunk(chunk: Chunk) -> bytes:
    """The body of a Data."""
    if not chunk.logprobs:
        return pack((chunk.token_ids, chunk.text))
    likely = tuple(
        tuple((each.token, each.data, each.logprob) for each in of_token)
        for of_token in chunk.logprobs
    )
    return pack((chunk.token_ids, chunk.text, likely))


def unpack_chunk(body: bytes) -> Chunk:
    """The inverse. Raises BadPayload."""
    try:
        fields = unpack_fields(body, _CHUNK_ARRAYS_MAX, _CHUNK_TOKENS_MAX)
        token_ids = _token_ids(fields.take())
        text = fields.take_text(_TEXT_CHARS_MAX)
        return Chunk(token_ids, text, _take_logprobs(fields) if fields.has_more else ())
    except Refused as refused:
        raise BadPayload(str(refused)) from refused


def _take_logprobs(fields: Fields) -> tuple[tuple[Logprob, ...], ...]:
    read = []
    for of_token in fields.take_array(_CHUNK_ARRAYS_MAX):
        if not isinstance(of_token, tuple):
            raise Refused(DropReason.MALFORMED, "logprobs")
        read.append(tuple(_logprob(Fields(likely)) for likely in of_token))
    return tuple(read)


def _logprob(fields: Fields) -> Logprob:
    return Logprob(
        fields.take_int(0, _TOKEN_ID_MAX - 1),
        fields.take_blob(_TOKEN_BYTES_MAX),
        _take_float(fields, -_LOGPROB_MAX, _LOGPROB_MAX),
    )


def pack_vector(vector: Vector) -> bytes:
    """The body of a Data, where texts are embedded."""
    return pack((vector.data,))


def unpack_vector(body: bytes) -> Vector:
    """The inverse. Raises BadPayload."""
    try:
        fields = unpack_fields(body, _VECTOR_ARRAYS_MAX, _VECTOR_ITEMS_MAX)
        return Vector.read(fields.take_blob(4 * limits.DIMENSIONS_MAX))
    except (Refused, ValueError) as error:
        raise BadPayload(str(error)) from error


def pack_finished(finished: Finished) -> bytes:
    """The body of an End."""
    return pack(
        (
            finished.finish_reason,
            finished.prompt_tokens,
            finished.completion_tokens,
            finished.cached_tokens,
        )
    )


def unpack_finished(body: bytes) -> Finished:
    """The inverse; an earlier version says nothing of cached tokens. Raises BadPayload."""
    try:
        fields = unpack_fields(body, 16, 64)
        return Finished(
            fields.take_text(32),
            fields.take_int(0, _TOKENS_MAX),
            fields.take_int(0, _TOKENS_MAX),
            fields.take_int(0, _TOKENS_MAX) if fields.has_more else 0,
        )
    except Refused as refused:
        raise BadPayload(str(refused)) from refused


def _token_ids(items: object) -> tuple[int, ...]:
    if not isinstance(items, tuple):
        raise BadPayload("no token ids")
    # Without a loop of our own: a prompt has up to two million.
    if not set(map(type, items)) <= {int}:
        raise BadPayload("no token id")
    if items and not 0 <= min(items) <= max(items) < _TOKEN_ID_MAX:
        raise BadPayload("no token id")
    return items
