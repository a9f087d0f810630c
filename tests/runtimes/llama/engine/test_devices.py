"""Which GPUs llama.cpp sees, of whatever maker."""

import types
from typing import Any

import pytest

from runtimes.llama.engine import devices
from tests.runtimes.serving import needs_llama

KINDS = {"processor": 0, "card": 1, "shared": 2, "accelerator": 3}


def library(*found: tuple[str, bytes | None, int, int]) -> Any:  # noqa: ANN401  # C functions
    """One that has these devices: kind, description, memory, and what is free."""

    def memory(device: int, free: Any, total: Any) -> None:  # noqa: ANN401  # by reference
        total._obj.value, free._obj.value = found[device][2:]

    return types.SimpleNamespace(
        ggml_backend_dev_count=lambda: len(found),
        ggml_backend_dev_get=lambda number: number,
        ggml_backend_dev_type=lambda device: KINDS[found[device][0]],
        ggml_backend_dev_description=lambda device: found[device][1],
        ggml_backend_dev_memory=memory,
    )


def test_gpus_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with memory of their own and those without; no processors."""
    played = library(
        ("processor", b"CPU", 64, 32),
        ("card", b"Radeon", 16, 8),
        ("shared", b"Apple M2", 12, 99),
        ("accelerator", b"BLAS", 0, 0),
        ("card", None, 4, 4),
        ("card", b"liar", 2**64 - 1, 2**63),
    )
    monkeypatch.setattr(devices, "_library", lambda name: played)
    most = devices.BYTES_MAX
    told = (("Radeon", 16, 8), ("Apple M2", 12, 12), ("", 4, 4), ("liar", most, most))
    assert devices.gpu_devices() == told


@pytest.mark.parametrize("failure", [OSError, AttributeError])
def test_a_build_that_does_not_say_has_none(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    """An older one, or one that lies elsewhere."""

    def fail(name: str) -> None:
        raise failure(name)

    monkeypatch.setattr(devices, "_library", fail)
    assert devices.gpu_devices() == ()


@pytest.mark.llama
@needs_llama
def test_the_installed_one_lists_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its registry is understood."""
    monkeypatch.setattr(devices, "_GPUS", (0,))
    [(name, total, free), *_] = devices.gpu_devices()
    assert name
    assert 0 < free <= total
