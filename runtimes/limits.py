"""The one place for what a `GenerateRequest` may ask of any runtime.

Requests come from other machines. Each runtime calls `check_request` before it spends anything on
one, so that whatever lies behind it (a queue, a pipe, a C library) only ever sees sane values.
"""

import math

from runtimes.base import GenerateRequest, RuntimeFailure

PROMPT_BYTES_MAX = 8 * 1024 * 1024
"""All text of one request as UTF-8; about two million tokens."""
MESSAGES_MAX = 10_000
STOPS_MAX = 16
STOP_CHARACTERS_MAX = 256
TEMPERATURE_MAX = 100.0
TOKENS_MAX = 2**31 - 1
"""llama.cpp counts tokens in 32-bit integers."""
SEED_MAX = 2**63 - 1


def check_request(request: GenerateRequest) -> None:
    """Raise RuntimeFailure `bad_request` with one clear line, unless `request` is well formed."""
    _check_text(request)
    _check_stops(request.stop)
    _check_integer("max_tokens", request.max_tokens, 1, TOKENS_MAX)
    _check_integer("top_k", request.top_k, 0, TOKENS_MAX)
    _check_integer("seed", request.seed, 0, SEED_MAX)
    _check_number("temperature", request.temperature, TEMPERATURE_MAX)
    _check_number("top_p", request.top_p, 1.0)
    _check_number("min_p", request.min_p, 1.0)


def _check_text(request: GenerateRequest) -> None:
    if (request.messages is None) == (request.prompt is None):
        raise _bad("give either messages or prompt")
    if request.messages is not None:
        if not 1 <= len(request.messages) <= MESSAGES_MAX:
            raise _bad(f"messages must be 1 to {MESSAGES_MAX}")
        texts = [text for turn in request.messages for text in (turn.role, turn.content)]
    else:
        texts = [request.prompt or ""]
    if sum(map(_utf8_bytes, texts)) > PROMPT_BYTES_MAX:
        raise RuntimeFailure(
            "context_too_long", f"the prompt has more than {PROMPT_BYTES_MAX} bytes"
        )


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > STOPS_MAX:
        raise _bad(f"at most {STOPS_MAX} stop strings are possible")
    for stop in stops:
        _utf8_bytes(stop)
        if not 1 <= len(stop) <= STOP_CHARACTERS_MAX:
            raise _bad(f"a stop string must have 1 to {STOP_CHARACTERS_MAX} characters")


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # a lone surrogate, which JSON lets through
        raise _bad("the text is not valid Unicode") from None


def _check_integer(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise _bad(f"{name} must be {least} to {most}")


def _check_number(name: str, value: float, most: float) -> None:
    if not math.isfinite(value) or not 0.0 <= value <= most:
        raise _bad(f"{name} must be 0 to {most:g}")


def _bad(message: str) -> RuntimeFailure:
    return RuntimeFailure("bad_request", message)
