"""The one place that asks an upstream what its models are made for, where it can tell.

Ollama       POST /api/show        `capabilities` of one model: generates, embeds, sees
LM Studio    GET /api/v0/models    `type` of each: `llm`, `vlm` (it sees), `embeddings`
llama-server GET /props            `modalities` of its only model: sees; a router's list tells more

Text that nobody tells of is tried: a model that cannot is refused by its own server. Images are
shown only to those that are known to see: llama-server says to others that it has failed (500).
"""

from collections.abc import Mapping
from typing import Any, Final

import trio

from runtimes.base import RuntimeFailure
from runtimes.embedding import EMBED, GENERATE, SEE, TASKS, TEXT_TASKS
from runtimes.openai.aside import ask_aside, read_json
from runtimes.openai.listing import Listing
from runtimes.openai.settings import UpstreamSettings

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""Ollama's holds the model's licence and its vocabulary's description, too."""
_CAPABILITIES: Final = {"completion": GENERATE, "embedding": EMBED}
_TYPES: Final = {"llm": (GENERATE,), "vlm": (GENERATE, SEE), "embeddings": (EMBED,)}

Tasks = dict[str, tuple[str, ...]]
"""What models are made for, by their ids; who is not there has told nothing."""


async def ask_tasks(
    settings: UpstreamSettings, listing: Listing, known: Mapping[str, tuple[str, ...]]
) -> Tasks:
    """What the listed models are made for. `known` is what was found out before: Ollama is not
    asked again, and what cannot be found out within `look_timeout_s` is as it was.
    """
    tasks = {model.id: known[model.id] for model in listing.models if model.id in known}
    with trio.move_on_after(settings.look_timeout_s):
        try:
            match listing.software:
                case "Ollama":
                    for model in listing.models:
                        if model.id not in tasks:
                            shown = await _ask(settings, "/api/show", {"model": model.id})
                            tasks[model.id] = read_capabilities(shown)
                case "LM Studio":
                    tasks |= read_types(await _ask(settings, "/api/v0/models"), listing)
                case "llama-server":
                    tasks |= read_modalities(await _ask(settings, "/props"), listing)
                case _:
                    return {}
        except RuntimeFailure:
            pass  # the next look finds out more
    return tasks


async def _ask(
    settings: UpstreamSettings, path: str, fields: Mapping[str, str] | None = None
) -> bytes:
    return await ask_aside(settings, path, fields, bytes_max=ANSWER_BYTES_MAX)


def read_capabilities(answer: bytes) -> tuple[str, ...]:
    """What `capabilities` mean; all tasks with text where there are none, or none that is known."""
    told = _object(answer).get("capabilities")
    names = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
    tasks = tuple(task for name, task in _CAPABILITIES.items() if name in names)
    return with_sight(tasks or TEXT_TASKS, "vision" in names)


def read_types(answer: bytes, listing: Listing) -> Tasks:
    """What the types in LM Studio's own list mean, for those that are listed here, too."""
    rows = _object(answer).get("data")
    listed = {model.id for model in listing.models}
    tasks: Tasks = {}
    for row in rows if isinstance(rows, list) else []:
        name, kind = (row.get("id"), row.get("type")) if isinstance(row, dict) else (None, None)
        if isinstance(name, str) and name in listed and isinstance(kind, str) and kind in _TYPES:
            tasks[name] = _TYPES[kind]
    return tasks


def read_modalities(answer: bytes, listing: Listing) -> Tasks:
    """Whether llama-server's model sees; nothing of a router, and of one too old to tell."""
    modalities = _object(answer).get("modalities")
    if not isinstance(modalities, dict):
        return {}
    tasks = TASKS if modalities.get("vision") is True else TEXT_TASKS
    return {model.id: tasks for model in listing.models}


def with_sight(tasks: tuple[str, ...], sees: bool) -> tuple[str, ...]:
    """`tasks` of a model that sees, or does not. One that does not generate never sees."""
    others = tuple(task for task in tasks if task != SEE)
    return (*others, SEE) if sees and GENERATE in others else others


def _object(answer: bytes) -> dict[str, Any]:
    """The JSON object; empty for anything else."""
    content = read_json(answer)
    return content if isinstance(content, dict) else {}
