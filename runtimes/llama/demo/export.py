"""The one place that writes trained weights as a GGUF file: tokens, template, quantised matrices.

    python -m runtimes.llama.demo.export WEIGHTS.npz FILE.gguf

Matrices become Q8_0 (blocks of 32 eight-bit weights with one scale), norms stay F32. There is no
output matrix: llama.cpp takes the embedding again, as training did. The same weights give the
same bytes. The file is put in place in one step.
"""

import pathlib
import sys

import gguf
import gguf.quants
import numpy
from numpy.typing import NDArray

from runtimes.llama.demo import shape, tokenizer
from runtimes.llama.demo.tokenizer import Tokenizer

DESCRIPTION = (
    "The demo model of meshd: short answers about meshd, in English, and nothing else. "
    "It heeds the last question alone, neither system prompts nor earlier turns."
)
# Training saw one question at a time under one system prompt. A client's own system prompt or
# earlier turns would only confuse so small a model, so the template leaves them out.
CHAT_TEMPLATE = (
    "{%- set found = namespace(question='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- set found.question = message['content'] | trim -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{{- bos_token + '" + tokenizer.SYSTEM + tokenizer.SYSTEM_PROMPT + tokenizer.END + "' -}}"
    "{{- '" + tokenizer.USER + "' + found.question + '" + tokenizer.END + "' -}}"
    "{%- if add_generation_prompt -%}{{- '" + tokenizer.ASSISTANT + "' -}}{%- endif -%}"
)


def write(weights: pathlib.Path, target: pathlib.Path) -> None:
    """Write the GGUF file of a training's `weights.npz`."""
    arrays = numpy.load(weights)
    words = Tokenizer.from_json(str(arrays["tokenizer"]))
    partial = target.with_name(target.name + ".new")
    writer = gguf.GGUFWriter(partial, "llama")
    _add_measures(writer)
    _add_tokenizer(writer, words)
    for name in sorted(set(arrays.files) - {"tokenizer"}):
        _add_tensor(writer, name, arrays[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(target)


def _add_measures(writer: gguf.GGUFWriter) -> None:
    writer.add_name("meshd demo")
    writer.add_basename("meshd-demo")
    writer.add_description(DESCRIPTION)
    writer.add_license("mit")
    writer.add_languages(["en"])
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q8_0))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.CONTEXT_TOKENS)
    writer.add_embedding_length(shape.WIDTH)
    writer.add_block_count(shape.LAYERS)
    writer.add_feed_forward_length(shape.FEED_FORWARD)
    writer.add_head_count(shape.HEADS)
    writer.add_head_count_kv(shape.HEADS)
    writer.add_rope_dimension_count(shape.HEAD_WIDTH)
    writer.add_rope_freq_base(shape.ROTARY_BASE)
    writer.add_layer_norm_rms_eps(shape.NORM_EPSILON)


def _add_tokenizer(writer: gguf.GGUFWriter, words: Tokenizer) -> None:
    writer.add_vocab_size(len(words.tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.PRE_TOKENIZER)
    writer.add_token_list(words.tokens)
    writer.add_token_types(
        [
            int(gguf.TokenType.CONTROL if token in tokenizer.SPECIALS else gguf.TokenType.NORMAL)
            for token in words.tokens
        ]
    )
    writer.add_token_merges([" ".join(pair) for pair in words.merges])
    writer.add_bos_token_id(words.ids[tokenizer.BEGIN])
    writer.add_eos_token_id(words.ids[tokenizer.END])
    writer.add_eot_token_id(words.ids[tokenizer.END])
    writer.add_add_bos_token(False)  # the template writes it
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: NDArray[numpy.float32]) -> None:
    plain = values.astype(numpy.float32)
    if plain.ndim == 1:
        writer.add_tensor(name, plain)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(plain, kind), raw_dtype=kind)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m runtimes.llama.demo.export WEIGHTS.npz FILE.gguf")
    write(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
