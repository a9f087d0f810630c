"""The one place for a model's shape, before anybody loads it: layers, widths, vocabulary. Pure."""

import dataclasses
from collections.abc import Mapping
from typing import Final

from runtimes.embedding import GENERATE
from runtimes.llama.files.context_length import default_context_tokens
from runtimes.llama.files.metadata import Metadata
from runtimes.llama.files.pooling import Pooling

LAYERS_MAX: Final = 4_096
_NUMBER_MAX: Final = 2**24
"""Of any of these; llama.cpp will say what it thinks of larger ones."""

FORMATS: Final[Mapping[int, str]] = {
    0: "all F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
    10: "Q2_K - Medium", 11: "Q3_K - Small", 12: "Q3_K - Medium", 13: "Q3_K - Large",
    14: "Q4_K - Small", 15: "Q4_K - Medium", 16: "Q5_K - Small", 17: "Q5_K - Medium", 18: "Q6_K",
    19: "IQ2_XXS - 2.0625 bpw", 20: "IQ2_XS - 2.3125 bpw", 21: "Q2_K - Small",
    22: "IQ3_XS - 3.3 bpw", 23: "IQ3_XXS - 3.0625 bpw", 24: "IQ1_S - 1.5625 bpw",
    25: "IQ4_NL - 4.5 bpw", 26: "IQ3_S - 3.4375 bpw", 27: "IQ3_S mix - 3.66 bpw",
    28: "IQ2_S - 2.5 bpw", 29: "IQ2_M - 2.7 bpw", 30: "IQ4_XS - 4.25 bpw",
    31: "IQ1_M - 1.75 bpw", 32: "BF16", 36: "TQ1_0 - 1.69 bpw ternary",
    37: "TQ2_0 - 2.06 bpw ternary", 38: "MXFP4 MoE",
}  # fmt: skip
"""`general.file_type`, as llama.cpp calls it (llama_model_ftype_name)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a model is in each direction; 0 where it does not say."""

    architecture: str
    quantization: str
    parameters: int
    layers: int
    width: int
    heads: int
    kv_heads: tuple[int, ...]
    """Of each layer; 0 for one that has no attention."""
    key_width: int
    """Of one head."""
    value_width: int
    feed_forward: int
    """Of the widest layer."""
    vocabulary: int
    trained_context_tokens: int
    pooling: Pooling = dataclasses.field(default_factory=Pooling)

    @classmethod
    def of(cls, metadata: Metadata) -> "Shape":
        """Read it from what the file says. What makes no sense counts as not said."""
        values = metadata.values
        architecture = values.get("general.architecture", "")
        architecture = architecture if isinstance(architecture, str) else ""

        def numbers(key: str) -> tuple[int, ...]:
            value = values.get(f"{architecture}.{key}")
            listed = value if isinstance(value, tuple) else (value,)
            return tuple(
                number for number in listed if type(number) is int and 0 <= number < _NUMBER_MAX
            )

        def largest(key: str) -> int:
            return max(numbers(key), default=0)

        layers = min(largest("block_count"), LAYERS_MAX)
        width, heads = largest("embedding_length"), largest("attention.head_count")
        kv_heads = numbers("attention.head_count_kv") or numbers("attention.head_count")
        if len(kv_heads) != layers:
            kv_heads = (max(kv_heads, default=0),) * layers
        head_width = width // max(1, heads)
        file_type = values.get("general.file_type")
        return cls(
            architecture=architecture,
            quantization=FORMATS.get(file_type, "") if isinstance(file_type, int) else "",
            parameters=metadata.parameters,
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            key_width=largest("attention.key_length") or head_width,
            value_width=largest("attention.value_length") or head_width,
            feed_forward=largest("feed_forward_length"),
            vocabulary=metadata.lengths.get("tokenizer.ggml.tokens", largest("vocab_size")),
            trained_context_tokens=largest("context_length"),
            pooling=Pooling(
                str(values.get(f"{architecture}.pooling_type", "")),
                values.get(f"{architecture}.attention.causal") is not False,
            ),
        )

    def context_tokens(self, wanted: int | None) -> int:
        """The context that it gets if `wanted` is what was asked for."""
        trained = self.trained_context_tokens
        if self.pooling.task != GENERATE:
            return self.pooling.context_tokens(trained, wanted)
        return wanted or default_context_tokens(trained)

    @property
    def kv_bytes_per_token(self) -> int:
        """What one token takes in the KV cache, in 16-bit numbers."""
        return 2 * sum(self.kv_heads) * (self.key_width + self.value_width)
