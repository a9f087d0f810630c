"""The one place that writes JSON and the text of server-sent events.

JSON is pure ASCII: some clients split event streams at every Unicode line separator, and a lone
surrogate from anywhere then cannot fail the answer.
"""

import json

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def json_bytes(content: object) -> bytes:
    """Compact JSON. Raises ValueError for NaN, infinities and cycles."""
    return _ENCODER.encode(content).encode("ascii")


def sse_event(content: object, *, kind: str | None = None, number: int | None = None) -> bytes:
    """One event whose data is `content` as JSON; `kind` is its type, `number` its id.

    `kind` must not contain line breaks.
    """
    head = f"id: {number}\n" if number is not None else ""
    if kind is not None:
        assert kind.isprintable()
        head += f"event: {kind}\n"
    return b"%bdata: %b\n\n" % (head.encode(), json_bytes(content))


def sse_comment(text: str) -> bytes:
    """One comment, which clients skip; `text` must not contain line breaks."""
    assert "\n" not in text
    assert "\r" not in text
    return b": %b\n\n" % text.encode("utf-8", "replace")
