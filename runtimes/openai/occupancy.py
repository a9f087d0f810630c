"""The one place that asks an upstream how busy it is, where it can tell: with whoever's requests.

llama-server   GET /slots      of its only model: how many there are, and which work
               GET /props      how many there are, where it does not list them
vLLM           GET /metrics    requests that run and wait, by model
Ollama         GET /api/ps     models that are in memory

What is told is as old as the last look that was answered, and a hint.
"""

import dataclasses
import re
from typing import Final

import trio

from runtimes.base import RuntimeFailure
from runtimes.openai.aside import ask_aside, read_json
from runtimes.openai.listing import Listing
from runtimes.openai.settings import UpstreamSettings

ANSWER_BYTES_MAX: Final = 1024 * 1024
ASK_S: Final = 1.0
"""All of it: who is too busy to say so is as busy as before."""
COUNT_MAX: Final = 1_024
"""Of slots, and of requests, that are believed."""
_GAUGE: Final = re.compile(
    rb"^vllm:num_requests_(running|waiting)\{([^}\n]{0,2000})\} ([0-9.e+]{1,20})\r?$", re.MULTILINE
)
_MODEL: Final = re.compile(rb'(?:^|,)model_name="([^"\\]{1,256})"')


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """What an upstream does with one model, whoever has asked for it."""

    slots: int = 0
    """Requests that it runs at a time; 0: it does not say."""
    running: int = 0
    waiting: int = 0
    is_loaded: bool = True
    """In memory, or about to be: else who asks waits for that."""


IDLE: Final = Occupancy()
Occupancies = dict[str, Occupancy]
"""By the models' ids; who is not there has told nothing."""


async def ask_occupancy(settings: UpstreamSettings, listing: Listing) -> Occupancies | None:
    """What it tells; nothing where it cannot, None where it does not answer now."""
    with trio.move_on_after(ASK_S):
        try:
            match listing.software:
                case "llama-server":
                    told = read_slots(await _ask(settings, "/slots"))
                    told = told or read_props(await _ask(settings, "/props"))
                    one = listing.models[0].id if len(listing.models) == 1 else None
                    return {one: told} if told is not None and one is not None else {}
                case "vLLM":
                    return read_metrics(await _ask(settings, "/metrics"))
                case "Ollama":
                    return read_loaded(await _ask(settings, "/api/ps"), listing)
                case _:
                    return {}
        except RuntimeFailure:
            pass  # the next look finds out more
    return None


async def _ask(settings: UpstreamSettings, path: str) -> bytes:
    return await ask_aside(settings, path, bytes_max=ANSWER_BYTES_MAX)


def read_slots(answer: bytes) -> Occupancy | None:
    """llama-server's list of slots."""
    slots = read_json(answer)
    if not isinstance(slots, list) or not slots:
        return None
    busy = sum(isinstance(slot, dict) and slot.get("is_processing") is True for slot in slots)
    return Occupancy(slots=min(len(slots), COUNT_MAX), running=min(busy, COUNT_MAX))


def read_props(answer: bytes) -> Occupancy | None:
    """How many slots llama-server has, by its properties."""
    props = read_json(answer)
    total = props.get("total_slots") if isinstance(props, dict) else None
    return Occupancy(slots=total) if type(total) is int and 1 <= total <= COUNT_MAX else None


def read_metrics(answer: bytes) -> Occupancies:
    """vLLM's gauges, those of several engines together."""
    found: dict[str, dict[str, int]] = {}
    for kind, labels, number in _GAUGE.findall(answer):
        model = _MODEL.search(labels)
        try:
            count = int(float(number))
        except (ValueError, OverflowError):
            continue
        if model is not None:
            counts = found.setdefault(model[1].decode("utf-8", "replace"), {})
            name = kind.decode()
            counts[name] = min(COUNT_MAX, counts.get(name, 0) + count)
    return {
        name: Occupancy(running=counts.get("running", 0), waiting=counts.get("waiting", 0))
        for name, counts in found.items()
    }


def read_loaded(answer: bytes, listing: Listing) -> Occupancies:
    """Which of the listed models Ollama has in memory."""
    content = read_json(answer)
    rows = content.get("models") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        return {}
    told = (row.get("model") or row.get("name") for row in rows if isinstance(row, dict))
    names = {name for name in told if isinstance(name, str)}
    return {model.id: Occupancy(is_loaded=model.id in names) for model in listing.models}
