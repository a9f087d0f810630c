"""What is foretold of a model's memory, and what its worker really takes."""

import contextlib
import dataclasses
import pathlib

import psutil
import pytest
import trio

from runtimes.base import RuntimeFailure
from runtimes.llama.capacity import Capacity
from runtimes.llama.files.fit import DEVICE_BYTES, needed_room
from runtimes.llama.files.prospect import look
from runtimes.llama.files.shape import Shape
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import LlamaSettings, read_settings
from runtimes.room import Room
from tests.runtimes.serving import ask, needs_llama, serving

WIDE = Shape(
    architecture="llama", quantization="F16", parameters=7 * 10**9, layers=32, width=4096, heads=32,
    kv_heads=(8,) * 32, key_width=128, value_width=128, feed_forward=14_336, vocabulary=128_256,
    trained_context_tokens=8192,
)  # fmt: skip
"""Llama 3 8B."""
CAPACITY = Capacity(
    slots=4, kv_tokens=8192, sequences=8, is_shared=True, kept_tokens=8192, parked_bytes=0
)


@pytest.mark.llama
@needs_llama
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        pytest.param(
            {"width": 768, "layers": 6, "feed_forward": 2048, "heads": 12},
            {"context_tokens": "1024", "kv_tokens": "1024"},
            id="mostly weights",
        ),
        pytest.param(
            {"width": 256, "layers": 12, "feed_forward": 512},
            {"context_tokens": "2048", "kv_tokens": "16384"},
            id="mostly KV cache",
        ),
        pytest.param(
            {"width": 256, "layers": 24, "feed_forward": 512},
            {"context_tokens": "2048", "kv_tokens": "16384", "kv_type": "q8_0"},
            id="a KV cache of eight bits",
        ),
        pytest.param(
            {"width": 768, "layers": 6, "feed_forward": 2048, "heads": 12},
            {"context_tokens": "1024", "kv_tokens": "1024", "mmap": "0"},
            id="weights that are read",
        ),
        pytest.param(
            {"width": 256, "layers": 4, "feed_forward": 512},
            {"context_tokens": "1024", "kv_tokens": "1024", "draft": "draft.gguf"},
            id="mostly its draft",
        ),
    ],
)
def test_a_worker_takes_what_was_foretold(
    sizes: dict[str, int], options: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """Within a fifth, weights that are mapped included."""
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build

    path = tmp_path / "m.gguf"
    build.write(path, build.Shape(**sizes))
    if "draft" in options:
        options = {**options, "draft": str(tmp_path / options["draft"])}
        large = build.Shape(width=768, layers=6, feed_forward=2048, heads=12)
        build.write(tmp_path / "draft.gguf", large)
    settings = read_settings(str(path), options)
    foretold = look(settings, None).need

    async def main() -> int:
        runtime = LlamaRuntime(settings)
        async with serving(runtime):
            request = ask(2, prompt="the cat " * 20)
            async with contextlib.aclosing(runtime.generate(request)) as events:
                async for _ in events:
                    pass
            assert runtime.worker_pid is not None
            return int(psutil.Process(runtime.worker_pid).memory_info().rss)

    taken = trio.run(main)
    assert foretold.vram_bytes == 0
    assert 0.8 * taken < foretold.memory_bytes < 1.2 * taken


def test_weights_that_are_not_mapped_cannot_be_let_go() -> None:
    """So they are a part of the least that it needs."""
    mapped, read = (look(read_settings("demo", {"mmap": each}), None) for each in ("1", "0"))
    assert mapped.need == read.need == read.least
    assert mapped.least.memory_bytes < mapped.need.memory_bytes


def test_larger_steps_need_larger_buffers() -> None:
    """And nothing else."""
    usual, large = (
        look(read_settings("demo", {"batch_tokens": str(tokens)}), None).need.memory_bytes
        for tokens in (512, 1024)
    )
    doubled = look(read_settings("demo", {"batch_tokens": "2048"}), None).need.memory_bytes
    assert doubled - large == 2 * (large - usual) > 0


def test_a_kv_cache_of_fewer_bits_is_smaller(tmp_path: pathlib.Path) -> None:
    """By as much as its format says."""
    settings = LlamaSettings(path=tmp_path / "m.gguf", name="m")

    def need(kv_type: str) -> int:
        chosen = dataclasses.replace(settings, kv_type=kv_type)
        return needed_room(WIDE, chosen, 0, CAPACITY, gpus=0).memory_bytes

    cache_bytes = 8192 * WIDE.kv_bytes_per_token
    assert need("f32") - need("f16") == cache_bytes
    assert need("bf16") == need("f16")
    assert need("f16") - need("q8_0") == cache_bytes * 30 // 64
    assert need("f16") - need("q4_0") == cache_bytes * 46 // 64


def test_a_kv_cache_of_fewer_bits_is_for_wide_heads(tmp_path: pathlib.Path) -> None:
    """Those of the model for tests have 16 numbers, and the one line says so."""
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build

    path = tmp_path / "narrow.gguf"
    build.write(path)
    with pytest.raises(RuntimeFailure, match=r"kv_type=q8_0 .* have 16; leave it out"):
        look(read_settings(str(path), {"kv_type": "q8_0"}), None)
    assert look(read_settings(str(path), {"kv_type": "bf16"}), None).card.name == "narrow"


def test_a_gpu_holds_its_share_of_the_layers(tmp_path: pathlib.Path) -> None:
    """All of them, or as many as were asked for, or none; what is not there is here."""
    settings = LlamaSettings(path=tmp_path / "m.gguf", name="m")
    size_bytes, kv_bytes = 16 * 10**9, 8192 * WIDE.kv_bytes_per_token
    assert kv_bytes == 2**30

    def need(layers: int, *, gpus: int = 1) -> Room:
        chosen = dataclasses.replace(settings, gpu_layers=layers)
        return needed_room(WIDE, chosen, size_bytes, CAPACITY, gpus=gpus)

    whole, third, none = need(-1), need(11), need(0)
    assert none == need(-1, gpus=0)
    assert none.vram_bytes == 0
    assert size_bytes + kv_bytes < none.memory_bytes < 1.1 * (size_bytes + kv_bytes)
    assert whole.memory_bytes < 2 * DEVICE_BYTES
    assert whole == need(33) == need(1_000)
    assert third.vram_bytes - (whole.vram_bytes - size_bytes - kv_bytes) == pytest.approx(
        (size_bytes + kv_bytes) / 3
    )
