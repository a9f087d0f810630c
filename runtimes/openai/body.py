"""The one place that words a GenerateRequest for an upstream. Pure.

What has its default is left out: a strict server refuses fields that it does not know, and the
model's own defaults are usually better than anybody's.
"""

import base64
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from runtimes.base import ChatMessage, GenerateRequest, RuntimeFailure
from runtimes.images import Image
from runtimes.openai.prefill import FIELDS, begun

CHAT_PATH = "/chat/completions"
COMPLETION_PATH = "/completions"
_SAMPLING = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "ignore_eos"),
    *("typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "grammar"),
)
"""Named alike here and by llama-server, most of them by vLLM too."""
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(GenerateRequest)
    if field.name in _SAMPLING
}


def path_of(request: GenerateRequest) -> str:
    """Below the base path, where this kind of request goes."""
    return COMPLETION_PATH if request.messages is None else CHAT_PATH


def body_of(request: GenerateRequest, model: str, prefill: str = "") -> bytes:
    """The JSON of a streamed request; `model` is the upstream's own id, `prefill` what that is able
    to (`ModelCard.prefill`).

    Raises RuntimeFailure `bad_request` for what cannot be said to an upstream.
    """
    if request.continued_ids:
        raise RuntimeFailure("bad_request", "an upstream cannot go on behind given tokens")
    if request.logprobs is not None:
        raise RuntimeFailure("bad_request", "an upstream is not asked for logprobs yet")
    if request.stop_token_ids:
        raise RuntimeFailure("bad_request", "an upstream is not asked for stop tokens")
    fields: dict[str, Any] = {"model": model}
    if request.messages is None:
        fields["prompt"] = request.prompt
    else:
        fields["messages"] = _turns(request.messages, request.images)
    if begun(request, prefill):
        fields |= FIELDS
    for name, default in _DEFAULTS.items():
        value = getattr(request, name)
        if value != default:
            fields[name] = value
    if request.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in request.logit_bias}
    if request.json_schema is not None:
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": _schema(request.json_schema)},
        }
    if request.tools:
        fields["tools"] = [tool.as_object() for tool in request.tools]
    if request.must_call:
        fields["tool_choice"] = "required"
    if not request.parallel_calls:
        fields["parallel_tool_calls"] = False
    if request.stop:
        fields["stop"] = list(request.stop)
    fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def _turns(messages: tuple[ChatMessage, ...], images: tuple[Image, ...]) -> list[dict[str, Any]]:
    turns = [message.as_object(str) for message in messages]
    for message, shown in itertools.groupby(images, lambda image: image.message):
        turns[message]["content"] = list(_parts(messages[message].content, shown))
    return turns


def _parts(text: str, images: Iterable[Image]) -> Iterator[dict[str, Any]]:
    """OpenAI's content parts: the images, and between them what is said between them."""
    start = 0
    for image in images:
        yield from _text_part(text[start : image.at])
        url = f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"
        yield {"type": "image_url", "image_url": {"url": url}}
        start = image.at
    yield from _text_part(text[start:])


def _text_part(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _schema(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RuntimeFailure("bad_request", "json_schema is not JSON") from None
