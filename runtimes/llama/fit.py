"""The one place that foretells how much memory a model takes, from what its file says. Pure.

    weights + KV cache + buffers of a step + vocabulary + the process

Measured against real workers (`tests/benchmarks/fit.py`), the sum is right within a fifth on a
processor, and rather too large: it counts a KV cache in full use. It knows nothing of recurrent
state and of experts that stay on the processor. What leaves the KV cache for ordinary memory
(`parking.py`) comes on top, as it is used.
"""

from typing import Final

from runtimes.llama.capacity import Capacity, plan_capacity
from runtimes.llama.pace import BATCH_TOKENS_MAX
from runtimes.llama.settings import LlamaSettings
from runtimes.llama.shape import Shape
from runtimes.room import Room

PROCESS_BYTES: Final = 38_000_000
"""A worker with llama.cpp and no model: Python, libraries, pipes."""
TOKEN_BYTES: Final = 270
"""Of the vocabulary, for each token: its text, its number, its place in two tables."""
MASK_BYTES: Final = 6
"""For each token of a step and each in the KV cache: who may look at whom, in 32 and 16 bits."""
DEVICE_BYTES: Final = 400_000_000
"""What a GPU's driver takes for a process, on both sides; about."""


def capacity_of(shape: Shape, settings: LlamaSettings, *, available: int, gpu: bool) -> Capacity:
    """What the worker will plan for, by its own rules, with `available` bytes of memory."""
    return plan_capacity(
        context_tokens=shape.context_tokens(settings.context_tokens),
        parameters=shape.parameters,
        kv_bytes_per_token=max(1, shape.kv_bytes_per_token),
        memory_bytes=available,
        gpu=gpu,
        slots=settings.slots,
        kv_tokens=settings.kv_tokens,
        reproducible=settings.reproducible,
    )


def needed_room(
    shape: Shape, settings: LlamaSettings, size_bytes: int, capacity: Capacity, *, gpu: bool
) -> Room:
    """The memory that it takes once it works. `size_bytes`: of its files; `gpu`: whether a GPU
    does the work.
    """
    kv_bytes = capacity.kv_tokens * shape.kv_bytes_per_token
    wide = 4 * (2 * shape.feed_forward + 4 * shape.width)
    step_bytes = BATCH_TOKENS_MAX * (wide + MASK_BYTES * capacity.kv_tokens)
    ours = PROCESS_BYTES + TOKEN_BYTES * shape.vocabulary
    if not gpu or settings.gpu_layers == 0:
        logits_bytes = 4 * shape.vocabulary * capacity.slots
        return Room(size_bytes + kv_bytes + step_bytes + logits_bytes + ours)
    # A device gets all of its buffers at once, with a row of logits for each token of a step.
    buffers = step_bytes + 4 * shape.vocabulary * BATCH_TOKENS_MAX + DEVICE_BYTES
    layers = shape.layers + 1  # and the output
    on_device = layers if settings.gpu_layers < 0 else min(layers, settings.gpu_layers)
    there = (size_bytes + kv_bytes) * on_device // layers
    return Room(size_bytes + kv_bytes - there + ours + DEVICE_BYTES, there + buffers)
