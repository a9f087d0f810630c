"""The one place for what an upstream is asked beside its list and its answers: small questions,
each by its own server's own way, whose answer is a hint.
"""

import json
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from runtimes.openai.call import Call
from runtimes.openai.settings import UpstreamSettings


async def ask_aside(
    settings: UpstreamSettings,
    path: str,
    fields: Mapping[str, str] | None = None,
    *,
    bytes_max: int,
) -> bytes:
    """The answer, empty where there is none; `fields` are sent as JSON. Raises RuntimeFailure."""
    method, body = ("GET", b"") if fields is None else ("POST", json.dumps(fields).encode())
    async with aclosing(Call(settings)) as call:
        await call.open(
            method, settings.address.path + path, body, within_s=settings.look_timeout_s
        )
        answer = await call.read_all(bytes_max)
        return answer if call.status == 200 else b""


def read_json(answer: bytes) -> Any:  # noqa: ANN401  # foreign JSON, narrowed by who reads it
    """Its content; None for what is no JSON."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None
