"""The one place for the formats in which a KV cache can hold keys and values."""

from collections.abc import Mapping
from typing import Final

BLOCK: Final = 32
"""Numbers that a quantized format holds together; a head's width must be a multiple."""
F16: Final = "f16"
_SIXTEEN_BITS: Final = 2 * BLOCK

KV_TYPES: Final[Mapping[str, tuple[int, int]]] = {
    "f32": (0, 4 * BLOCK),
    F16: (1, _SIXTEEN_BITS),
    "bf16": (30, _SIXTEEN_BITS),
    "q8_0": (8, 34),
    "q5_1": (7, 24),
    "q5_0": (6, 22),
    "q4_1": (3, 20),
    "q4_0": (2, 18),
    "iq4_nl": (20, 18),
}
"""By llama.cpp's name: ggml's number for it, and bytes for BLOCK numbers."""


def kv_type_code(name: str) -> int:
    """ggml's number."""
    return KV_TYPES[name][0]


def kv_bytes(sixteen_bits: int, name: str) -> int:
    """What takes so many bytes in 16-bit numbers, in this format."""
    return sixteen_bits * KV_TYPES[name][1] // _SIXTEEN_BITS


def is_quantized(name: str) -> bool:
    """Whether numbers share a scale; llama.cpp has these with flash attention only."""
    return KV_TYPES[name][1] < _SIXTEEN_BITS
