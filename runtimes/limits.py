"""The one place for what a request may ask of any runtime.

Requests come from other machines. Each runtime calls `check_request` before it spends anything on
one, so that whatever lies behind it (a queue, a pipe, a C library) only ever sees sane values.
"""

import math
import re
from collections.abc import Sequence

from runtimes.base import ChatMessage, GenerateRequest, ModelCard, Request, RuntimeFailure
from runtimes.embedding import SEE, EmbedRequest
from runtimes.images import BadImage, image_size

PROMPT_BYTES_MAX = 8 * 1024 * 1024
"""All text of one request as UTF-8, a query once for each text that it ranks; about two million
tokens. Its images beside it."""
MESSAGES_MAX = 10_000
STOPS_MAX = 16
STOP_CHARACTERS_MAX = 256
STOP_TOKENS_MAX = 64
TEMPERATURE_MAX = 100.0
TOKENS_MAX = 2**31 - 1
"""llama.cpp counts tokens in 32-bit integers."""
SEED_MAX = 2**63 - 1
PENALTY_MAX = 2.0
"""Of presence and frequency, up and down; OpenAI's bound."""
REPEAT_PENALTY_MAX = 10.0
BIASES_MAX = 1024
BIAS_MAX = 100.0
"""OpenAI's bound; as good as a command."""
GRAMMAR_CHARACTERS_MAX = 64 * 1024
CONTINUED_TOKENS_MAX = 2**20
LOGPROBS_MAX = 20
"""OpenAI's bound."""
TOOLS_MAX = 128
"""OpenAI's bound."""
CALLS_MAX = 128
"""Of one message."""
NAME_CHARACTERS_MAX = 128
CALL_ID_CHARACTERS_MAX = 256
TEXTS_MAX = 2048
"""To be embedded by one request; OpenAI's bound."""
TEXT_TOKENS_MAX = 300_000
"""Of all of them together; OpenAI's bound."""
DIMENSIONS_MAX = 16_384
"""No model has as many."""
IMAGES_MAX = 16
PIXELS_MAX = 2**24
"""Of all images of a request, so that they are decoded within a step of the engine."""
IMAGE_TOKENS_MAX = 2**16
"""Of one image in a prompt, of all its parts together. llama.cpp's projectors make some thousands
at most, and OpenAI counts up to 36,835 for one."""

_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{NAME_CHARACTERS_MAX}}}")


def check_request(request: Request) -> None:
    """Raise RuntimeFailure `bad_request` with one clear line, unless `request` is well formed."""
    if isinstance(request, EmbedRequest):
        _check_embedding(request)
    else:
        _check_generation(request)


def check_task(request: Request, card: ModelCard) -> None:
    """Raise RuntimeFailure `bad_request` unless the model is made for what is asked."""
    if request.task not in card.tasks:
        if request.task == SEE:
            raise _bad(f"{card.name} cannot see images; leave them out or choose another model")
        made_for = " and ".join(card.tasks)
        raise _bad(f"{card.name} is made to {made_for} and cannot {request.task}")


def check_tokens(counts: Sequence[int], context_tokens: int) -> None:
    """Raise RuntimeFailure unless texts of so many tokens can be embedded in that context."""
    for index, count in enumerate(counts):
        if count > context_tokens:
            raise RuntimeFailure(
                "context_too_long",
                f"text {index} has {count} tokens, and the model takes {context_tokens} at a time",
            )
    _check_all_tokens(sum(counts))


def _check_all_tokens(count: int) -> None:
    if count > TEXT_TOKENS_MAX:
        raise _bad(f"the texts have more than {TEXT_TOKENS_MAX} tokens together; send fewer")


def _check_embedding(request: EmbedRequest) -> None:
    if bool(request.texts) == bool(request.token_ids):
        raise _bad("give either texts or token ids")
    if request.count > TEXTS_MAX:
        raise _bad(f"{request.count} texts are too many; send {TEXTS_MAX} at most")
    # The query is worked at beside each text: a long one and many texts are a product.
    size = sum(map(_utf8_bytes, request.texts))
    size += _utf8_bytes(request.query or "") * max(1, len(request.texts))
    if size > PROMPT_BYTES_MAX:
        beside = "" if request.query is None else ", with the query beside each"
        raise _bad(
            f"the texts have more than {PROMPT_BYTES_MAX} bytes together{beside}; send fewer"
        )
    _check_all_tokens(sum(map(len, request.token_ids)))
    for ids in request.token_ids:
        if not ids or not 0 <= min(ids) <= max(ids) <= TOKENS_MAX:
            raise _bad("token_ids must be lists of token ids, none of them empty")
    _check_integer("dimensions", request.dimensions, 1, DIMENSIONS_MAX)
    if request.query is not None and (request.dimensions is not None or not request.texts):
        raise _bad("a query ranks texts: there are no token ids, and no dimensions")


def _check_generation(request: GenerateRequest) -> None:
    _check_images(request)
    _check_text(request)
    _check_stops(request)
    _check_integer("max_tokens", request.max_tokens, 0 if request.continued_ids else 1, TOKENS_MAX)
    _check_integer("top_k", request.top_k, 0, TOKENS_MAX)
    _check_integer("seed", request.seed, 0, SEED_MAX)
    _check_integer("logprobs", request.logprobs, 0, LOGPROBS_MAX)
    _check_number("temperature", request.temperature, TEMPERATURE_MAX)
    _check_number("top_p", request.top_p, 1.0)
    _check_number("min_p", request.min_p, 1.0)
    _check_number("typical_p", request.typical_p, 1.0)
    _check_number("repeat_penalty", request.repeat_penalty, REPEAT_PENALTY_MAX)
    if request.repeat_penalty == 0.0:
        raise _bad("repeat_penalty must be more than 0")
    for name in ("presence_penalty", "frequency_penalty"):
        _check_number(name, getattr(request, name), PENALTY_MAX, -PENALTY_MAX)
    _check_biases(request.logit_bias)
    _check_grammar(request)
    _check_continued(request.continued_ids)
    _check_tools(request)


def _check_text(request: GenerateRequest) -> None:
    if (request.messages is None) == (request.prompt is None):
        raise _bad("give either messages or prompt")
    if request.messages is not None:
        if not 1 <= len(request.messages) <= MESSAGES_MAX:
            raise _bad(f"messages must be 1 to {MESSAGES_MAX}")
        texts = [text for turn in request.messages for text in turn.texts()]
        _check_turns(request.messages)
    else:
        texts = [request.prompt or ""]
    texts += [text for tool in request.tools for text in (tool.description, tool.parameters)]
    size = sum(len(image.data) for image in request.images)
    if size + sum(map(_utf8_bytes, texts)) > PROMPT_BYTES_MAX:
        raise RuntimeFailure(
            "context_too_long", f"the prompt has more than {PROMPT_BYTES_MAX} bytes"
        )


def _check_images(request: GenerateRequest) -> None:
    images, messages = request.images, request.messages or ()
    if len(images) > IMAGES_MAX:
        raise _bad(f"{len(images)} images are too many; send {IMAGES_MAX} at most")
    places = [(image.message, image.at) for image in images]
    if places != sorted(places) or not all(
        0 <= message < len(messages) and 0 <= at <= len(messages[message].content)
        for message, at in places
    ):
        raise _bad("an image has no place in the messages")
    # Templates keep the order of users' messages; a system's they put where they like.
    if any(messages[message].role != "user" for message, _ in places):
        raise _bad("only messages of the role 'user' can have images")
    pixels = 0
    for number, image in enumerate(images, start=1):
        try:
            width, height = image_size(image.data)
        except BadImage as error:
            raise _bad(f"image {number} {error}") from error
        pixels += width * height
        if pixels > PIXELS_MAX:
            raise _bad(f"the images have more than {PIXELS_MAX} pixels together; make them smaller")


def _check_turns(messages: tuple[ChatMessage, ...]) -> None:
    for turn in messages:
        if len(turn.tool_calls) > CALLS_MAX:
            raise _bad(f"a message can have {CALLS_MAX} tool calls at most")
        for name in (turn.name, *(call.name for call in turn.tool_calls)):
            if len(name) > NAME_CHARACTERS_MAX:
                raise _bad(f"a name can have {NAME_CHARACTERS_MAX} characters at most")
        for call_id in (turn.tool_call_id, *(call.id for call in turn.tool_calls)):
            if len(call_id) > CALL_ID_CHARACTERS_MAX:
                raise _bad(f"the id of a call can have {CALL_ID_CHARACTERS_MAX} characters at most")
    if messages[-1].tool_calls:
        raise _bad("the last message has tool calls; their results must follow")


def _check_tools(request: GenerateRequest) -> None:
    if len(request.tools) > TOOLS_MAX:
        raise _bad(f"there can be {TOOLS_MAX} tools at most")
    if request.tools and request.messages is None:
        raise _bad("tools are only possible in a chat")
    if request.tools and request.grammar is not None:
        raise _bad("give either tools or a grammar")
    if request.must_call and not request.tools:
        raise _bad("there is no tool that could be called")
    for tool in request.tools:
        if not _NAME.fullmatch(tool.name):
            raise _bad(
                f"a tool's name must have 1 to {NAME_CHARACTERS_MAX} letters, digits or _ . -"
            )
        if len(tool.parameters) > GRAMMAR_CHARACTERS_MAX:
            raise _bad(f"a tool's parameters can have {GRAMMAR_CHARACTERS_MAX} characters at most")
    if len({tool.name for tool in request.tools}) < len(request.tools):
        raise _bad("two tools have the same name")


def _check_stops(request: GenerateRequest) -> None:
    if len(request.stop_token_ids) > STOP_TOKENS_MAX:
        raise _bad(f"at most {STOP_TOKENS_MAX} stop tokens are possible")
    for token in request.stop_token_ids:
        _check_integer("a token in stop_token_ids", token, 0, TOKENS_MAX)
    if len(request.stop) > STOPS_MAX:
        raise _bad(f"at most {STOPS_MAX} stop strings are possible")
    for stop in request.stop:
        _utf8_bytes(stop)
        if not 1 <= len(stop) <= STOP_CHARACTERS_MAX:
            raise _bad(f"a stop string must have 1 to {STOP_CHARACTERS_MAX} characters")


def _check_biases(biases: tuple[tuple[int, float], ...]) -> None:
    if len(biases) > BIASES_MAX:
        raise _bad(f"logit_bias can name {BIASES_MAX} tokens at most")
    for token, bias in biases:
        _check_integer("a token in logit_bias", token, 0, TOKENS_MAX)
        _check_number("a bias in logit_bias", bias, BIAS_MAX, -BIAS_MAX)


def _check_grammar(request: GenerateRequest) -> None:
    if request.grammar is not None and request.json_schema is not None:
        raise _bad("give either a grammar or a JSON schema")
    for name in ("grammar", "json_schema"):
        text = getattr(request, name)
        if text is None:
            continue
        _utf8_bytes(text)
        if not 1 <= len(text) <= GRAMMAR_CHARACTERS_MAX or "\0" in text:
            raise _bad(
                f"{name} must have 1 to {GRAMMAR_CHARACTERS_MAX} characters, none of them NUL"
            )


def _check_continued(ids: tuple[int, ...]) -> None:
    if len(ids) > CONTINUED_TOKENS_MAX:
        raise RuntimeFailure(
            "context_too_long", f"more than {CONTINUED_TOKENS_MAX} tokens are to be continued"
        )
    if ids and not 0 <= min(ids) <= max(ids) <= TOKENS_MAX:
        raise _bad("continued_ids must be token ids")


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # a lone surrogate, which JSON lets through
        raise _bad("the text is not valid Unicode") from None


def _check_integer(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise _bad(f"{name} must be {least} to {most}")


def _check_number(name: str, value: float, most: float, least: float = 0.0) -> None:
    if not math.isfinite(value) or not least <= value <= most:
        raise _bad(f"{name} must be {least:g} to {most:g}")


def _bad(message: str) -> RuntimeFailure:
    return RuntimeFailure("bad_request", message)
