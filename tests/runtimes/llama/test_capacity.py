"""How much runs at a time: as asked, else by model size and memory."""

import dataclasses
from typing import Any

import pytest

from runtimes.llama.capacity import Capacity, plan_capacity

GIB = 2**30
USUAL: dict[str, Any] = {
    "context_tokens": 4096,
    "parameters": 1_000_000_000,
    "kv_bytes_per_token": 32 * 1024,
    "memory_bytes": 16 * GIB,
    "gpu": False,
    "slots": None,
    "kv_tokens": None,
    "reproducible": False,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (8, 4 * 4096, 16, True, 128, 2 * GIB)),
        ({"parameters": 8_000_000_000}, (4, 4 * 4096, 8, True, 128, 2 * GIB)),
        ({"parameters": 8_000_000_000, "gpu": True}, (8, 4 * 4096, 16, True, 4 * 4096, 2 * GIB)),
        ({"memory_bytes": GIB}, (8, 4096, 16, True, 128, GIB // 8)),
        ({"memory_bytes": 0}, (8, 4 * 4096, 16, True, 128, GIB)),
        ({"slots": 2}, (2, 2 * 4096, 4, True, 128, 2 * GIB)),
        ({"slots": 64, "kv_tokens": 100_000}, (64, 100_000, 128, True, 128, 2 * GIB)),
        ({"kv_tokens": 16}, (8, 4096, 16, True, 128, 2 * GIB)),
        ({"reproducible": True}, (4, 4 * 4096, 4, False, 0, 0)),
        ({"reproducible": True, "memory_bytes": GIB}, (1, 4096, 1, False, 0, 0)),
        ({"reproducible": True, "slots": 6}, (6, 6 * 4096, 6, False, 0, 0)),
    ],
)
def test_capacity(changes: dict[str, Any], expected: tuple[int, int, int, bool, int, int]) -> None:
    """One full context always fits; memory and model size bound what nobody asked for."""
    planned: Capacity = plan_capacity(**(USUAL | changes))
    assert dataclasses.astuple(planned) == expected
