"""The one place that foretells how much memory a model takes, from what its file says. Pure.

    weights + KV cache + buffers of a step + vocabulary + the process

Measured against real workers (`tests/benchmarks/fit.py`), the sum is right within a fifth on a
processor, and rather too large: it counts a KV cache in full use. It knows nothing of recurrent
state and of experts that stay on the processor. Of several GPUs it is the sum of what is free on
them that has to do, as llama.cpp fills each by what is free on it; shares of one's own
(`tensor_split`) may ask more of one than it has. What leaves the KV cache for ordinary memory
(`parking.py`) comes on top, as it is used.
"""

from typing import Final

from runtimes.embedding import GENERATE
from runtimes.llama.capacity import Capacity, plan_capacity
from runtimes.llama.files.shape import Shape
from runtimes.llama.kv_type import kv_bytes
from runtimes.llama.pace import BATCH_TOKENS
from runtimes.llama.settings import LlamaSettings
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
        kv_bytes_per_token=max(1, kv_bytes(shape.kv_bytes_per_token, settings.kv_type)),
        memory_bytes=available,
        gpu=gpu,
        slots=settings.slots,
        kv_tokens=settings.kv_tokens,
        reproducible=settings.reproducible,
    )


def needed_room(
    shape: Shape, settings: LlamaSettings, size_bytes: int, capacity: Capacity, *, gpus: int
) -> Room:
    """The memory that it takes once it works, without its draft. `size_bytes`: of its files;
    `gpus`: how many GPUs it may be laid over, 0: a processor does the work.
    """
    process = Room(PROCESS_BYTES)
    if gpus and settings.gpu_layers != 0:
        process += Room(DEVICE_BYTES, DEVICE_BYTES * settings.split.devices(gpus))
    return process + added_room(shape, settings, size_bytes, capacity, gpus=gpus)


def added_room(
    shape: Shape, settings: LlamaSettings, size_bytes: int, capacity: Capacity, *, gpus: int
) -> Room:
    """The same without a process: what a draft takes beside its model."""
    cache_bytes = capacity.kv_tokens * kv_bytes(shape.kv_bytes_per_token, settings.kv_type)
    wide = 4 * (2 * shape.feed_forward + 4 * shape.width)
    batch_tokens = BATCH_TOKENS
    if shape.pooling.task == GENERATE:
        batch_tokens = min(settings.batch_tokens, max(BATCH_TOKENS, capacity.kv_tokens))
    step_bytes = batch_tokens * (wide + MASK_BYTES * capacity.kv_tokens)
    ours = TOKEN_BYTES * shape.vocabulary
    if not gpus or settings.gpu_layers == 0:
        logits_bytes = 4 * shape.vocabulary * capacity.slots
        return Room(size_bytes + cache_bytes + step_bytes + logits_bytes + ours)
    # A device gets all of its buffers at once; that of the output has a row of logits for each
    # token of a step.
    devices = settings.split.devices(gpus)
    buffers = devices * step_bytes + 4 * shape.vocabulary * batch_tokens
    layers = shape.layers + 1  # and the output
    on_device = layers if settings.gpu_layers < 0 else min(layers, settings.gpu_layers)
    there = (size_bytes + cache_bytes) * on_device // layers
    # Whole layers go to each, so on each but one there may be room left for nearly one more.
    unfilled = (devices - 1) * (size_bytes + cache_bytes) // layers
    return Room(size_bytes + cache_bytes - there + ours, there + buffers + unfilled)
