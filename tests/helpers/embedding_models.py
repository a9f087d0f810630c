"""The one place that makes small models with random weights that embed or rank.

They load, tokenize and pool like any other; what they say of a text means nothing, and is always
the same.
"""

import pathlib
import string

import gguf
import numpy
from numpy.typing import NDArray

from runtimes.llama.demo import build

SEED = 4_711
WIDTH = 48
HEADS = 4
LAYERS = 2
FEED_FORWARD = 96
CONTEXT_TOKENS = 64
_WORDS = ["the", "cat", "dog", "sat", "on", "mat", "ran", "far", "old", "new", "is"]
_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = string.ascii_lowercase + string.digits + ".,!?"


def bert_vocabulary() -> list[str]:
    """WordPiece as llama.cpp has it: a word's beginning is marked, not what goes on."""
    begun = [f"\u2581{piece}" for piece in (*_WORDS, *_LETTERS)]
    return [*_SPECIALS, *begun, *_LETTERS]


def write_bert(
    path: pathlib.Path,
    pooling: gguf.PoolingType,
    *,
    context_tokens: int = CONTEXT_TOKENS,
    broken_token: int = -1,
    rerank_template: str = "",
) -> None:
    """A BERT that pools so; one that ranks has a head for it. Of `broken_token` the weights are no
    numbers.
    """
    tokens = bert_vocabulary()
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(_SPECIALS)
        + [gguf.TokenType.NORMAL] * (len(tokens) - len(_SPECIALS))
    )
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    if rerank_template:
        writer.add_chat_template([{"name": "rerank", "template": rerank_template}])
    is_ranking = pooling == gguf.PoolingType.RANK
    made = _bert_tensors(len(tokens), context_tokens, ranks=is_ranking)
    if broken_token >= 0:
        made["token_embd.weight"][broken_token] = numpy.nan
    for name, tensor in made.items():
        writer.add_tensor(name, tensor)
    _finish(writer)


def write_causal(path: pathlib.Path, pooling: gguf.PoolingType) -> None:
    """A model in the shape of a text generator that pools so."""
    build.write(path, pooling=pooling)


def _bert_tensors(
    tokens: int, context_tokens: int, *, ranks: bool
) -> dict[str, NDArray[numpy.float32]]:
    random = numpy.random.Generator(numpy.random.PCG64(SEED))

    def drawn(*shape: int) -> NDArray[numpy.float32]:
        return (random.standard_normal(shape) * 0.3).astype(numpy.float32)

    made = {
        "token_embd.weight": drawn(tokens, WIDTH),
        "position_embd.weight": drawn(context_tokens, WIDTH),
        "token_types.weight": drawn(2, WIDTH),
    }
    linear = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_up": (FEED_FORWARD, WIDTH),
        "ffn_down": (WIDTH, FEED_FORWARD),
    }
    norms = ["token_embd_norm"]
    for layer in range(LAYERS):
        for name, (rows, columns) in linear.items():
            made[f"blk.{layer}.{name}.weight"] = drawn(rows, columns)
            made[f"blk.{layer}.{name}.bias"] = drawn(rows)
        norms += [f"blk.{layer}.attn_output_norm", f"blk.{layer}.layer_output_norm"]
    for name in norms:
        made[f"{name}.weight"] = numpy.ones(WIDTH, dtype=numpy.float32)
        made[f"{name}.bias"] = numpy.zeros(WIDTH, dtype=numpy.float32)
    if ranks:
        made |= {"cls.weight": drawn(WIDTH, WIDTH), "cls.bias": drawn(WIDTH)}
        made |= {"cls.output.weight": drawn(1, WIDTH), "cls.output.bias": drawn(1)}
    return made


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
