"""The one place that asks an upstream for its models and reads what it lists."""

import dataclasses
import json
from contextlib import aclosing
from typing import Any

import trio

from runtimes.base import RuntimeFailure
from runtimes.embedding import TASKS, TEXT_TASKS
from runtimes.openai.call import Call, Silent
from runtimes.openai.failures import ERROR_BYTES_MAX, from_status, malformed
from runtimes.openai.settings import UpstreamSettings

LISTING_BYTES_MAX = 2 * 1024 * 1024
MODELS_MAX = 32
"""Of one upstream: each takes its share of what a node can offer."""
ID_CHARACTERS_MAX = 128
ID_BYTES_MAX = 256
_NUMBER_MAX = 2**53
_OWNERS = {
    "library": "Ollama",
    "llamacpp": "llama-server",
    "vllm": "vLLM",
    "organization_owner": "LM Studio",
    "me": "llama_cpp.server",
}
_ONE_AT_A_TIME = ("me",)
"""llama_cpp.server: any second request, a look at its models too, cuts the first one short."""
_CONTEXT_FIELDS = ("max_model_len", "loaded_context_length", "max_context_length", "context_length")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """One model as the upstream describes it; 0 is unknown."""

    id: str
    prefill: str = ""
    """See `ModelCard.prefill`."""
    context_tokens: int = 0
    parameters: int = 0
    size_bytes: int = 0
    tasks: tuple[str, ...] = TEXT_TASKS
    """What it is made for, or may be (`capabilities.py`)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What an upstream serves."""

    base: str
    """The path below which its endpoints are."""
    models: tuple[ListedModel, ...]
    left_out: int = 0
    """Models beyond the limit, or with a name that cannot be passed on."""
    software: str = ""
    """What it seems to be; empty: unknown."""
    takes_one: bool = False
    """It serves one request at a time and is disturbed by a second."""


async def ask_models(
    settings: UpstreamSettings, bases: tuple[str, ...], *, within_s: float
) -> Listing:
    """`GET BASE/models` below the first of `bases` that knows it.

    Raises Unreachable, Silent, or RuntimeFailure with what the upstream says.
    """
    first: RuntimeFailure | None = None
    with trio.move_on_after(within_s):
        for base in bases:
            async with aclosing(Call(settings)) as call:
                await call.open("GET", f"{base}/models", b"", within_s=within_s)
                try:
                    return await _read(call, base)
                except _NotHere as failure:
                    first = first or failure
        assert first is not None
        raise first
    raise Silent(within_s)


class _NotHere(RuntimeFailure):
    """Not below this base path; maybe below another."""


async def _read(call: Call, base: str) -> Listing:
    if any(name.startswith("x-meshd-") for name, _ in call.headers()):
        raise RuntimeFailure(
            "unavailable",
            "the upstream is a meshd gateway; join its mesh instead (meshd invite, meshd join)",
        )
    if call.status != 200:
        failure = from_status(call.status, await call.read_all(ERROR_BYTES_MAX))
        raise _NotHere(failure.code, failure.message) if call.status == 404 else failure
    body = await call.read_all(LISTING_BYTES_MAX + 1)
    if len(body) > LISTING_BYTES_MAX:
        raise malformed(f"its list of models has more than {LISTING_BYTES_MAX} bytes")
    try:
        return read_listing(body, base)
    except RuntimeFailure as failure:  # a page for browsers, say
        raise _NotHere(failure.code, failure.message) from None


def read_listing(body: bytes, base: str) -> Listing:
    """Read the JSON of `/models`. Raises RuntimeFailure `crashed` when it is no such list."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise malformed("its list of models is no JSON") from None
    rows = content.get("data") if isinstance(content, dict) else None
    # Ollama without any model says null.
    rows = [] if rows is None and isinstance(content, dict) and "data" in content else rows
    if not isinstance(rows, list):
        raise malformed("it has no list of models")
    models: dict[str, ListedModel] = {}
    left_out = 0
    for row in rows:
        model = _model(row)
        if model is None or (model.id not in models and len(models) == MODELS_MAX):
            left_out += 1
        else:
            models.setdefault(model.id, model)
    owners = {row.get("owned_by") for row in rows[:1] if isinstance(row, dict)}
    owner = next((o for o in owners if isinstance(o, str)), "")
    return Listing(
        base=base,
        models=tuple(models.values()),
        left_out=left_out,
        software=_OWNERS.get(owner, ""),
        takes_one=owner in _ONE_AT_A_TIME,
    )


def _model(row: Any) -> ListedModel | None:  # noqa: ANN401  # foreign JSON, narrowed here
    name = row.get("id") if isinstance(row, dict) else None
    if not isinstance(name, str) or not 1 <= len(name) <= ID_CHARACTERS_MAX:
        return None
    # Printable text has no lone surrogates, so it can be encoded.
    if not name.isprintable() or len(name.encode()) > ID_BYTES_MAX:
        return None
    meta = row.get("meta")
    details = meta if isinstance(meta, dict) else {}
    context = _first_number(details, ("n_ctx", "n_ctx_train")) or _first_number(
        row, _CONTEXT_FIELDS
    )
    return ListedModel(
        id=name,
        context_tokens=context,
        parameters=_first_number(details, ("n_params",)),
        size_bytes=_first_number(details, ("size",)),
        tasks=TASKS if _takes_images(row) else TEXT_TASKS,
    )


def _takes_images(row: dict[str, Any]) -> bool:
    """As llama-server's router says it of each of its models."""
    architecture = row.get("architecture")
    told = architecture.get("input_modalities") if isinstance(architecture, dict) else None
    return isinstance(told, list) and "image" in told


def _first_number(fields: dict[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        value = fields.get(name)
        if type(value) is int and 0 < value <= _NUMBER_MAX:
            return value
    return 0
