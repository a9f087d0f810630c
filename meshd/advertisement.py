"""The one place for what a node's offers mean: their keys, and their values in msgpack.

    "hardware"       {"tier", "cpu", "cores", "memory_bytes", "gpus", ...}  see runtimes/hardware.py
    "labels"         {key: value}
    "functions"      {"names": [name, ...]}     functions that run as jobs
    "held/" + 16 hex of a model's name's hash   32-bit hashes of prompts' beginnings that lie in it,
                     in a row                    see prefixes.py
    "model/" + 16 hex of the name's hash     {"name", "hash", "runtime", ...}  see ModelCard;
                     {"prefill_ns", "decode_ns"} for a token, once measured  see protocol/speeds.py

Others' values are as hostile as anything: reading them gives a typed value or nothing.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from meshd.prefixes import HASH_BYTES, HASHES_MAX
from protocol.errors import Refused
from protocol.fields import pack, unpack
from protocol.speeds import Speed, speed_in
from runtimes.base import ANY, CHAT, ModelCard
from runtimes.embedding import GENERATE, TASKS
from runtimes.functions.call import is_function_name

HARDWARE: Final = "hardware"
LABELS: Final = "labels"
FUNCTIONS: Final = "functions"
MODEL_PREFIX: Final = "model/"
HELD_PREFIX: Final = "held/"
MODEL_NAME_CHARS_MAX: Final = 200
_DEPTH_MAX: Final = 4


def model_key(name: str) -> str:
    """The offer's key for a model: short whatever the name is."""
    return MODEL_PREFIX + _short_hash(name)


def held_key(name: str) -> str:
    """The offer's key for what lies in a model."""
    return HELD_PREFIX + _short_hash(name)


def _short_hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8, person=b"meshd model").hexdigest()


def encode_model(card: ModelCard, speed: Speed | None = None) -> bytes:
    """The offer's value for a model, with its speed if that was measured."""
    fields = dataclasses.asdict(card)
    if not card.prefill:  # most models: what is not said costs nothing
        del fields["prefill"]
    return pack({**fields, **(speed.to_fields() if speed is not None else {})})


def decode_model(value: bytes) -> ModelCard | None:
    """What a member says of a model; None when it makes no sense."""
    fields = decode_map(value)
    texts = ("name", "content_hash", "runtime", "architecture", "quantization")
    numbers = ("parameters", "size_bytes", "context_tokens", "load_ms")
    for field in texts:
        text = fields.get(field, "")
        if not isinstance(text, str) or len(text) > MODEL_NAME_CHARS_MAX or not _is_plain(text):
            return None
    for field in numbers:
        number = fields.get(field, 0)
        if type(number) is not int or not 0 <= number < 2**63:
            return None
    if not fields.get("name"):
        return None
    prefill = fields.get("prefill")
    tasks = fields.get("tasks", [GENERATE])  # what an earlier version offers generates
    if not isinstance(tasks, list):
        return None
    return ModelCard(
        **{field: fields.get(field, "") for field in texts},
        **{field: fields.get(field, 0) for field in numbers},
        tasks=tuple(task for task in TASKS if task in tasks),
        prefill=prefill if prefill in (CHAT, ANY) else "",
    )


def decode_speed(value: bytes) -> Speed | None:
    """What a member says of how fast a model is there, if anything that makes sense."""
    return speed_in(decode_map(value))


def encode_held(hashes: Sequence[int]) -> bytes:
    """The offer's value for what lies in a model; empty, which is no offer, when nothing does."""
    return b"".join(each.to_bytes(HASH_BYTES, "big") for each in hashes)


def decode_held(value: bytes) -> frozenset[int]:
    """The hashes that a member tells of, if they are some."""
    if len(value) % HASH_BYTES or len(value) > HASHES_MAX * HASH_BYTES:
        return frozenset()
    starts = range(0, len(value), HASH_BYTES)
    return frozenset(int.from_bytes(value[at : at + HASH_BYTES], "big") for at in starts)


def encode_functions(names: Sequence[str]) -> bytes:
    """The offer's value for functions; empty, which is no offer, when there are none."""
    return pack({"names": tuple(names)}) if names else b""


def decode_functions(value: bytes) -> tuple[str, ...]:
    """The functions that a member says it runs, if they are names at all."""
    names = decode_map(value).get("names") if value else None
    if not isinstance(names, list):
        return ()
    return tuple(name for name in names if isinstance(name, str) and is_function_name(name))


def _is_plain(text: str) -> bool:
    return text.isprintable()


def encode_map(fields: Mapping[str, Any]) -> bytes:
    """The offer's value for hardware and labels."""
    return pack(dict(fields))


def decode_map(value: bytes) -> dict[str, Any]:
    """A map that JSON and a terminal can carry; empty when it is none.

    What is not plain (bytes, times, NaN, deep nesting) is left out, and so is unprintable text.
    """
    try:
        decoded = unpack(value)
    except Refused:
        return {}
    plain = _plain(decoded, _DEPTH_MAX)
    return plain if isinstance(plain, dict) else {}


def decode_labels(value: bytes) -> dict[str, str]:
    """Labels: what `decode_map` finds, if it is text."""
    return {key: text for key, text in decode_map(value).items() if isinstance(text, str)}


def _plain(value: object, depth: int) -> object:
    """`value` without what is not plain; None stands for what cannot be there at all."""
    if isinstance(value, str):
        return value if _is_plain(value) else None
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if depth > 0 and isinstance(value, tuple):
        items = (_plain(item, depth - 1) for item in value)
        return [item for item in items if item is not None]
    if depth > 0 and isinstance(value, dict):
        pairs = (
            (key, _plain(item, depth - 1))
            for key, item in value.items()
            if isinstance(key, str) and _is_plain(key)
        )
        return {key: item for key, item in pairs if item is not None}
    return None
