"""The one place for the demo model's measures, which training and the GGUF file must share."""

WIDTH = 256
LAYERS = 4
HEADS = 8
HEAD_WIDTH = WIDTH // HEADS
FEED_FORWARD = 640
CONTEXT_TOKENS = 2048
"""What the file promises; trained are at most `TRAINED_TOKENS`."""
TRAINED_TOKENS = 192
NORM_EPSILON = 1e-5
ROTARY_BASE = 10_000.0

LAYER_MATRICES = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH, WIDTH),
    "attn_v": (WIDTH, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (FEED_FORWARD, WIDTH),
    "ffn_up": (FEED_FORWARD, WIDTH),
    "ffn_down": (WIDTH, FEED_FORWARD),
}
"""Rows (outputs) and columns (inputs) of a layer's matrices, by their GGUF names."""
LAYER_NORMS = ("attn_norm", "ffn_norm")


def matrix_name(layer: int, matrix: str) -> str:
    """The GGUF name of a layer's tensor."""
    return f"blk.{layer}.{matrix}.weight"
