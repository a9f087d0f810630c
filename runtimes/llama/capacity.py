"""The one place that decides how many requests and tokens are worked on at a time. Pure."""

import dataclasses

SLOTS_DEFAULT = 8
SLOTS_OF_LARGE_MODELS = 4
LARGE_PARAMETERS = 4_000_000_000
"""From here on a processor has its hands full with fewer requests."""
MEMORY_SHARE = 8
"""One part in so many of the available memory is for the KV cache, and one for what left it."""
PARKED_BYTES_UNKNOWN = 2**30
"""Where it is not known how much memory there is."""
KEPT_TOKENS_MAX = 128
"""On a processor each cell in use slows down attention, also that of others."""
CONTEXTS_MAX = 4
"""Full contexts that the KV cache holds by default; few requests fill theirs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one context of llama.cpp is made for."""

    slots: int
    """Requests that run at a time."""
    kv_tokens: int
    """Tokens that the KV cache holds, of all sequences together."""
    sequences: int
    """Sequences that llama.cpp knows: those that run, and those that are kept."""
    is_shared: bool
    """Whether all sequences lie in one pool of cells, or each has a part of its own."""
    kept_tokens: int
    """Tokens that may stay in the KV cache for later prompts, while anything runs."""
    parked_bytes: int
    """Ordinary memory for tokens that were known and have left the KV cache."""


def plan_capacity(
    *,
    context_tokens: int,
    parameters: int,
    kv_bytes_per_token: int,
    memory_bytes: int,
    gpu: bool,
    slots: int | None,
    kv_tokens: int | None,
    reproducible: bool,
) -> Capacity:
    """Keep to what was asked for, and choose the rest by model size and memory.

    `memory_bytes`: what is available; 0: unknown. `gpu`: whether a GPU does the work.
    """
    is_large = parameters >= LARGE_PARAMETERS and not gpu
    chosen = SLOTS_OF_LARGE_MODELS if is_large else SLOTS_DEFAULT
    affordable = memory_bytes // MEMORY_SHARE // kv_bytes_per_token if memory_bytes else 2**31
    if reproducible:
        # Each slot has a whole context of its own, so memory bounds the slots.
        count = slots or max(1, min(chosen, CONTEXTS_MAX, affordable // context_tokens))
        return Capacity(
            slots=count,
            kv_tokens=count * context_tokens,
            sequences=count,
            is_shared=False,
            kept_tokens=0,
            parked_bytes=0,
        )
    count = slots or chosen
    wanted = kv_tokens or min(count, CONTEXTS_MAX) * context_tokens
    if kv_tokens is None:
        wanted = min(wanted, affordable)
    whole = max(context_tokens, wanted)
    return Capacity(
        slots=count,
        kv_tokens=whole,
        sequences=2 * count,
        is_shared=True,
        kept_tokens=whole if gpu else min(whole, KEPT_TOKENS_MAX),
        parked_bytes=memory_bytes // MEMORY_SHARE or PARKED_BYTES_UNKNOWN,
    )
