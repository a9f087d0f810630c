"""The one place that reads bodies of `POST /v1/completions`, OpenAI's older dialect. Pure."""

from typing import Annotated, Any

import pydantic
from pydantic_core import PydanticCustomError

from meshd.gateway.errors import Refusal
from meshd.gateway.generate_call import GenerateCall
from meshd.gateway.openai_request import GenerateBody, Unsupported, call_of, read_body
from meshd.gateway.openai_turns import Text
from runtimes import limits
from runtimes.base import GenerateRequest

MAX_TOKENS = 16
"""Where a body has none: the dialect's own, which the chat's is not."""


def _one_text(prompt: object) -> object:
    """A text, or the only one of a list; what is neither is left to the next check."""
    if not isinstance(prompt, list):
        return prompt
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    if prompt and all(isinstance(text, str) for text in prompt):
        raise PydanticCustomError(
            "unsupported", "has several texts, which is not supported; send one a request"
        )
    raise PydanticCustomError(
        "unsupported", "must be a text; token ids as a prompt are not supported"
    )


class CompletionBody(GenerateBody):
    """The body of `POST /v1/completions`."""

    prompt: Annotated[Text, pydantic.BeforeValidator(_one_text)]
    logprobs: Annotated[int, pydantic.Field(ge=0, le=limits.LOGPROBS_MAX)] | None = None
    best_of: Any = None
    echo: Unsupported = None
    suffix: Unsupported = None


def parse_completion(body: bytes | bytearray) -> GenerateCall:
    """Read the body of a completion. Raises Refusal, whatever the bytes are."""
    parsed = read_body(CompletionBody, body)
    if parsed.best_of not in (None, parsed.n or 1):
        raise Refusal(
            "unsupported", "'best_of' is not supported beyond 'n'; leave it out.", param="best_of"
        )
    request = GenerateRequest(
        model=parsed.model,
        prompt=parsed.prompt,
        max_tokens=MAX_TOKENS if parsed.max_tokens is None else parsed.max_tokens,
        logprobs=parsed.logprobs,
    )
    return call_of(parsed, request)
