"""A well-formed file whose numbers lie is refused, or it serves; the daemon lives on."""

import pathlib
import struct

import pytest
import trio

from runtimes.base import RuntimeFailure
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import LlamaSettings
from tests.runtimes.llama.test_runtime import make
from tests.runtimes.serving import TIMEOUT_S, ask, complete, needs_llama, serving

pytestmark = [pytest.mark.llama, needs_llama]

UINT32 = 4
"""GGUF's type number."""
MOST = 2**32 - 1


def changed(data: bytes, key: str, value: int) -> bytes:
    """The file with another number under `key`."""
    head = key.encode() + struct.pack("<I", UINT32)
    place = data.index(head) + len(head)
    return data[:place] + struct.pack("<I", value) + data[place + 4 :]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", 0),
        ("llama.block_count", MOST),
        ("llama.embedding_length", 0),
        ("llama.embedding_length", MOST),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count", 3),
        ("llama.attention.head_count", MOST),
        ("llama.feed_forward_length", MOST),
        ("llama.rope.dimension_count", MOST),
        ("tokenizer.ggml.eos_token_id", MOST),
    ],
)
def test_numbers_that_cannot_be_are_an_invalid_model(
    demo: LlamaSettings, tmp_path: pathlib.Path, key: str, value: int
) -> None:
    """serve gives up in one line, however llama.cpp takes it; or the model works."""
    path = tmp_path / "lies.gguf"
    path.write_bytes(changed(demo.path.read_bytes(), key, value))

    async def main() -> None:
        runtime = make(demo, path=path)
        try:
            with trio.fail_after(TIMEOUT_S):
                await served_once(runtime)
        except* RuntimeFailure as group:
            (failure,) = group.exceptions
            assert isinstance(failure, RuntimeFailure)
            assert failure.code == "invalid_model"
            assert "\n" not in failure.message

    trio.run(main)


async def served_once(runtime: LlamaRuntime) -> None:
    """Serve until one request is answered. Raises what `serve` raises."""
    async with serving(runtime):
        await complete(runtime, ask(5))


def test_a_context_without_bounds_is_cut(demo: LlamaSettings, tmp_path: pathlib.Path) -> None:
    """Trained for four billion tokens, it says: the default is what memory can be had for."""
    path = tmp_path / "endless.gguf"
    path.write_bytes(changed(demo.path.read_bytes(), "llama.context_length", MOST))

    async def main() -> None:
        runtime = make(demo, path=path)
        async with serving(runtime):
            assert runtime.card is not None
            assert runtime.card.context_tokens == 4096
            await complete(runtime, ask(5))

    trio.run(main)
