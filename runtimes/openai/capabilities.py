"""The one place that asks an upstream what its models are made for, where it can tell.

Of the servers that are known only Ollama does (`POST /api/show`, `capabilities`). What nobody tells
of is tried: a model that cannot is refused by its own server.
"""

import json
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

import trio

from runtimes.base import RuntimeFailure
from runtimes.embedding import EMBED, GENERATE, TEXT_TASKS
from runtimes.openai.call import Call
from runtimes.openai.listing import Listing
from runtimes.openai.settings import UpstreamSettings

TELLING: Final = "Ollama"
PATH: Final = "/api/show"
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""It holds the model's licence and its vocabulary's description, too."""
_TASK_OF: Final = {"completion": GENERATE, "embedding": EMBED}


async def ask_tasks(
    settings: UpstreamSettings, listing: Listing, known: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """What each listed model is made for; `known` is not asked again. What cannot be found out
    within `look_timeout_s` is not there.
    """
    if listing.software != TELLING:
        return {}
    tasks = {model.id: known[model.id] for model in listing.models if model.id in known}
    with trio.move_on_after(settings.look_timeout_s):
        for model in listing.models:
            if model.id in tasks:
                continue
            try:
                tasks[model.id] = await _ask(settings, model.id)
            except RuntimeFailure:
                break  # the next look finds out more
    return tasks


async def _ask(settings: UpstreamSettings, model: str) -> tuple[str, ...]:
    body = json.dumps({"model": model}).encode()
    path = settings.address.path + PATH
    async with aclosing(Call(settings)) as call:
        await call.open("POST", path, body, within_s=settings.look_timeout_s)
        answer = await call.read_all(ANSWER_BYTES_MAX)
        return read_tasks(answer) if call.status == 200 else TEXT_TASKS


def read_tasks(answer: bytes) -> tuple[str, ...]:
    """What `capabilities` mean; all tasks where there are none, or none that is known."""
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError):
        return TEXT_TASKS
    told = content.get("capabilities") if isinstance(content, dict) else None
    names = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
    return tuple(task for name, task in _TASK_OF.items() if name in names) or TEXT_TASKS
