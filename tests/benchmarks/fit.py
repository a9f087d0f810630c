"""What is foretold of models' memory, against what their workers take: random weights, real sizes.

    python -m tests.benchmarks.fit

A line for each model: what was foretold, the worker's resident memory after a prompt, and the
difference. Formats that llama.cpp rearranges while it loads (Q4_0) are there twice, once as a
mapped file that is not needed any more; the system takes that back when it needs the room.
"""

import contextlib
import dataclasses
import pathlib
import tempfile

import gguf
import numpy
import psutil
import trio

from runtimes.llama.demo import build
from runtimes.llama.files.prospect import look
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from tests.runtimes.serving import ask

PROMPT = "the cat " * 90
OPTIONS = {"context_tokens": "4096"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of one model in the shape of llama."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    format: str = "F16"


MODELS = {
    "many heads": Sizes(
        width=512, layers=8, heads=8, kv_heads=8, feed_forward=1408, vocabulary=4_000
    ),
    "shared heads": Sizes(
        width=1024, layers=8, heads=16, kv_heads=4, feed_forward=2816, vocabulary=32_000
    ),
    "large vocabulary": Sizes(
        width=512, layers=4, heads=8, kv_heads=2, feed_forward=1408, vocabulary=128_000
    ),
    "Q8_0": Sizes(
        width=1024, layers=8, heads=16, kv_heads=4, feed_forward=2816, vocabulary=32_000,
        format="Q8_0",
    ),
    "Q4_0": Sizes(
        width=1024, layers=8, heads=16, kv_heads=4, feed_forward=2816, vocabulary=32_000,
        format="Q4_0",
    ),
}  # fmt: skip


def write(path: pathlib.Path, sizes: Sizes) -> None:
    """A model that loads, with weights drawn at random."""
    random = numpy.random.Generator(numpy.random.PCG64(1))
    known = build.vocabulary()
    specials = len(build.SPECIALS)
    more = [f"w{number}" for number in range(sizes.vocabulary - len(known))]
    tokens = [*known[:-specials], *more, *known[-specials:]]
    kind = gguf.GGMLQuantizationType[sizes.format]
    file_type = {"F16": 1, "Q4_0": 2, "Q8_0": 7}[sizes.format]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    writer.add_context_length(8192)
    writer.add_embedding_length(sizes.width)
    writer.add_block_count(sizes.layers)
    writer.add_feed_forward_length(sizes.feed_forward)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_rope_dimension_count(sizes.width // sizes.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - specials) + [3] * specials)
    writer.add_token_merges(build.MERGES)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)

    def add(name: str, rows: int, columns: int) -> None:
        weights = random.standard_normal((rows, columns), dtype=numpy.float32) * 0.02
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    ones = numpy.ones(sizes.width, dtype=numpy.float32)
    kv_width = sizes.width // sizes.heads * sizes.kv_heads
    add("token_embd.weight", len(tokens), sizes.width)
    add("output.weight", len(tokens), sizes.width)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(sizes.layers):
        add(f"blk.{layer}.attn_q.weight", sizes.width, sizes.width)
        add(f"blk.{layer}.attn_k.weight", kv_width, sizes.width)
        add(f"blk.{layer}.attn_v.weight", kv_width, sizes.width)
        add(f"blk.{layer}.attn_output.weight", sizes.width, sizes.width)
        add(f"blk.{layer}.ffn_gate.weight", sizes.feed_forward, sizes.width)
        add(f"blk.{layer}.ffn_up.weight", sizes.feed_forward, sizes.width)
        add(f"blk.{layer}.ffn_down.weight", sizes.width, sizes.feed_forward)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


async def measure(path: pathlib.Path) -> tuple[int, int]:
    """Bytes: foretold, and resident after a prompt."""
    settings = read_settings(str(path), OPTIONS)
    foretold = look(settings, None).need.memory_bytes
    runtime = LlamaRuntime(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, lambda: None)
        while runtime.card is None:  # noqa: ASYNC110  # a benchmark polls
            await trio.sleep(0.05)
        async with contextlib.aclosing(runtime.generate(ask(2, prompt=PROMPT))) as events:
            async for _ in events:
                pass
        assert runtime.worker_pid is not None
        taken = int(psutil.Process(runtime.worker_pid).memory_info().rss)
        nursery.cancel_scope.cancel()
    return foretold, taken


def main() -> None:
    """Measure each model."""
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in MODELS.items():
            path = pathlib.Path(folder) / "model.gguf"
            write(path, sizes)
            foretold, taken = trio.run(measure, path)
            sizes_mb = [size / 1e6 for size in (path.stat().st_size, foretold, taken)]
            told = "file {:4.0f} MB  foretold {:4.0f}  resident {:4.0f}".format(*sizes_mb)
            print(f"{name:17} {told}  {foretold / taken - 1:+.0%}", flush=True)


if __name__ == "__main__":
    main()
