"""The one place that makes models which are fit, or not, to be drafts of the random model."""

import pathlib

import gguf
import numpy
import pytest

from runtimes.llama.demo import build

WIDTH = 32


def write_other(path: pathlib.Path, *, seed: int = 99, **changes: object) -> None:
    """Like the random model with other weights; `changes`: constants of its builder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SEED": seed, **changes}.items():
            patch.setattr(build, name, value)
        build.write(path)


def write_padded(path: pathlib.Path) -> None:
    """One token more, at the end, and fond of it."""
    logits = build.class_logits()
    fond = numpy.full((1, logits.shape[1]), 50.0, dtype=numpy.float32)
    padded = numpy.concatenate([logits, fond])
    write_other(path, SPECIALS=[*build.SPECIALS, "<|pad|>"], class_logits=lambda: padded)


def write_mamba(path: pathlib.Path) -> None:
    """A model with a recurrent state and the vocabulary of the random model."""
    random = numpy.random.Generator(numpy.random.PCG64(5))
    tokens = build.vocabulary()
    inner, state, rank, kernel = 2 * WIDTH, 8, 4, 4
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(1)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_merges(build.MERGES)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ssm_in.weight": (2 * inner, WIDTH),
        "blk.0.ssm_conv1d.weight": (inner, kernel),
        "blk.0.ssm_conv1d.bias": (inner,),
        "blk.0.ssm_x.weight": (rank + 2 * state, inner),
        "blk.0.ssm_dt.weight": (inner, rank),
        "blk.0.ssm_dt.bias": (inner,),
        "blk.0.ssm_a": (inner, state),
        "blk.0.ssm_d": (inner,),
        "blk.0.ssm_out.weight": (WIDTH, inner),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, random.standard_normal(shape).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
