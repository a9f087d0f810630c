"""The one place that says what an upstream's refusal means: status and words to RuntimeFailure."""

import json
import re
from typing import Any

from runtimes.base import RuntimeFailure
from runtimes.openai.settings import KEY_VARIABLE

ERROR_BYTES_MAX = 64 * 1024
"""Of an error's body, as much as is read."""
_MESSAGE_CHARACTERS_MAX = 300
_CONTEXT = re.compile(
    r"context[ _-]*(length|size|window)|maximum context|\bn_ctx\b|prompt is too long", re.IGNORECASE
)
_TOO_LONG_STATUS = 413


def from_status(status: int, body: bytes) -> RuntimeFailure:
    """What an answer that is not 200 means."""
    return _failure(status, _message_in(body))


def from_event(error: object) -> RuntimeFailure:
    """What an error in the middle of a stream means; `error` is the event's field of that name."""
    message = _message_of(error)
    status = error.get("code") if isinstance(error, dict) else None
    if type(status) is int and 400 <= status < 600:
        return _failure(status, message)
    if _CONTEXT.search(message):
        return RuntimeFailure("context_too_long", message)
    return RuntimeFailure("crashed", f"the upstream failed: {message or 'it does not say why'}")


def malformed(what: str) -> RuntimeFailure:
    """An answer that nobody can read."""
    return RuntimeFailure("crashed", f"the upstream's answer makes no sense: {what}")


def one_line(text: str) -> str:
    """Foreign words made harmless: printable, one line, not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
    if len(line) <= _MESSAGE_CHARACTERS_MAX:
        return line
    return line[: _MESSAGE_CHARACTERS_MAX - 3] + "..."


def _failure(status: int, message: str) -> RuntimeFailure:
    why = f": {message}" if message else ""
    is_long = status == _TOO_LONG_STATUS or _CONTEXT.search(message) is not None
    # Some servers say with a 500 that a prompt is too long.
    if is_long and (400 <= status < 500 or status == 500):
        return RuntimeFailure(
            "context_too_long", message or "the prompt is too long for the upstream"
        )
    match status:
        case 400 | 422:
            return RuntimeFailure("bad_request", f"the upstream refuses the request{why}")
        case 401 | 403:
            # Not its own words: some servers repeat the key in them.
            return RuntimeFailure(
                "unavailable",
                f"the upstream wants another API key (it answers {status}); set {KEY_VARIABLE} "
                "where meshd runs",
            )
        case 429 | 503:
            return RuntimeFailure("queue_full", f"the upstream is busy ({status}){why}")
        case _ if 500 <= status < 600:
            return RuntimeFailure("crashed", f"the upstream failed ({status}){why}")
        case _ if 300 <= status < 400:
            return RuntimeFailure(
                "unavailable", f"the upstream redirects ({status}); give the URL that it leads to"
            )
    return RuntimeFailure("unavailable", f"the upstream refuses ({status}){why}")


def _message_in(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        # A page for browsers explains nothing.
        return "" if text.lstrip().startswith("<") else one_line(text)
    if not isinstance(content, dict):
        return _message_of(content)
    for field in ("error", "message", "detail"):
        if content.get(field):
            return _message_of(content[field])
    return ""


def _message_of(value: Any) -> str:  # noqa: ANN401  # foreign JSON, narrowed here
    """The words in OpenAI's error object, FastAPI's list of complaints, or a plain text."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("message") or value.get("msg")
    return one_line(value) if isinstance(value, str) else ""
