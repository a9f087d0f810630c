"""The one place for the demo model as a torch network: llama's architecture, as llama.cpp runs it.

Parameters bear their GGUF names (dots as double underscores). Rotary embedding turns adjacent
pairs of dimensions, as llama.cpp does for this architecture, so that export copies rows as they
are. Only training imports this file: it needs torch, which nothing else here does.
"""

import math
from typing import Any

# Ignored for whoever checks without torch, which is installed for training only.
import torch  # type: ignore[import-not-found,unused-ignore]  # see above
from torch import nn  # type: ignore[import-not-found,unused-ignore]  # see above
from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]  # see above

from runtimes.llama.demo import shape

DROPOUT = 0.1


class Network(nn.Module):  # type: ignore[misc,unused-ignore]  # see above
    """Token ids to the last layer's states; `logits` makes scores of them."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.weights = nn.ParameterDict()
        self._add("token_embd.weight", torch.randn(tokens, shape.WIDTH) * 0.05)
        self._add("output_norm.weight", torch.ones(shape.WIDTH))
        for layer in range(shape.LAYERS):
            for matrix, (rows, columns) in shape.LAYER_MATRICES.items():
                scale = 1.0 / math.sqrt(columns)
                if matrix in ("attn_output", "ffn_down"):
                    scale /= math.sqrt(2 * shape.LAYERS)
                self._add(shape.matrix_name(layer, matrix), torch.randn(rows, columns) * scale)
            for norm in shape.LAYER_NORMS:
                self._add(shape.matrix_name(layer, norm), torch.ones(shape.WIDTH))
        cosines, sines = _rotations()
        future = torch.full((shape.TRAINED_TOKENS, shape.TRAINED_TOKENS), -torch.inf).triu(1)
        self.register_buffer("future", future, persistent=False)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The normalized states of each position: (batch, length, width)."""
        state = self._drop(functional.embedding(ids, self._weight("token_embd.weight")))
        for layer in range(shape.LAYERS):
            state = state + self._attention(layer, state)
            state = state + self._drop(self._feed_forward(layer, state))
        return self._normalized(state, "output_norm.weight")

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores of all tokens; the embedding is used again."""
        return functional.linear(states, self._weight("token_embd.weight"))

    def arrays(self) -> dict[str, Any]:
        """All weights by their GGUF names, as numpy arrays."""
        return {
            name.replace("__", "."): weight.detach().float().numpy()
            for name, weight in self.weights.items()
        }

    def _attention(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        batch, length, _ = state.shape
        entered = self._normalized(state, shape.matrix_name(layer, "attn_norm"))

        def heads(matrix: str) -> torch.Tensor:
            made = self._linear(layer, matrix, entered)
            return made.view(batch, length, shape.HEADS, shape.HEAD_WIDTH).transpose(1, 2)

        # Written out: at these lengths torch's fused attention is many times slower backwards.
        scores = self._turned(heads("attn_q")) @ self._turned(heads("attn_k")).transpose(-1, -2)
        scores = scores.float() / math.sqrt(shape.HEAD_WIDTH) + self.future[:length, :length]
        mixed = scores.softmax(dim=-1).to(entered.dtype) @ heads("attn_v")
        joined = mixed.transpose(1, 2).reshape(batch, length, shape.WIDTH)
        return self._linear(layer, "attn_output", joined)

    def _feed_forward(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        entered = self._normalized(state, shape.matrix_name(layer, "ffn_norm"))
        gate = functional.silu(self._linear(layer, "ffn_gate", entered))
        return self._linear(layer, "ffn_down", gate * self._linear(layer, "ffn_up", entered))

    def _turned(self, heads: torch.Tensor) -> torch.Tensor:
        length = heads.shape[2]
        cosines, sines = self.cosines[:length], self.sines[:length]
        even, odd = heads[..., 0::2].float(), heads[..., 1::2].float()
        turned = torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), dim=-1)
        return turned.flatten(-2).to(heads.dtype)

    def _normalized(self, state: torch.Tensor, name: str) -> torch.Tensor:
        scaled = functional.rms_norm(state.float(), (shape.WIDTH,), eps=shape.NORM_EPSILON)
        return scaled * self._weight(name)

    def _linear(self, layer: int, matrix: str, state: torch.Tensor) -> torch.Tensor:
        return functional.linear(state, self._weight(shape.matrix_name(layer, matrix)))

    def _drop(self, state: torch.Tensor) -> torch.Tensor:
        return functional.dropout(state, DROPOUT, self.training)

    def _add(self, name: str, values: torch.Tensor) -> None:
        self.weights[name.replace(".", "__")] = nn.Parameter(values)

    def _weight(self, name: str) -> torch.Tensor:
        return self.weights[name.replace(".", "__")]


def _rotations() -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of each position's turn of each pair of dimensions."""
    pairs = torch.arange(0, shape.HEAD_WIDTH, 2).float() / shape.HEAD_WIDTH
    turns = torch.outer(torch.arange(shape.TRAINED_TOKENS).float(), shape.ROTARY_BASE**-pairs)
    return turns.cos(), turns.sin()
