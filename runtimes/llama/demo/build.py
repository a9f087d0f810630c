"""The one place that makes a model for tests: random weights in the shape of a real llama model.

Only the shape is real: the file loads, tokenizes, templates and samples like any other GGUF, so
everything around a model can be tried with no download. Its text means nothing. So that a person
sees words instead of noise, the embedding carries the class of a token's last letter and the
output matrix turns that class into likely next letters (vowels follow consonants, a full stop may
end the turn); all other weights are drawn at random and only disturb this.

Run `python -m runtimes.llama.demo.build FILE.gguf`; the same seed writes the same bytes.
"""

import dataclasses
import pathlib
import sys

import gguf
import numpy
from numpy.typing import NDArray

SEED = 20_231

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOWELS = "aeiou"
LETTER_SHARES = dict(
    zip("etaoinshrdlucmfwygpbvkxjqz", range(26, 0, -1), strict=True)
)  # most to least frequent in English; the exact shares do not matter
CLASSES = LETTERS + " ."
"""What the last letter of a token can be; anything else counts as a space."""
MERGES = ["t h", "a n", "i n", "e r", "o n", "r e", "th e", "Ġ a", "Ġ t"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NEVER = -20.0
"""Logit of what shall not be sampled; the disturbance is about one."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a model is."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    feed_forward: int = 128
    context_tokens: int = 2048


SMALL = Shape()


def byte_letters() -> list[str]:
    """The printable character that stands for each byte in a GPT-2 vocabulary, by byte value."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    for shift, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + shift)
    return [letters[byte] for byte in range(256)]


def vocabulary() -> list[str]:
    """All tokens in order of their ids: bytes, merges, specials."""
    return [*byte_letters(), *(merge.replace(" ", "") for merge in MERGES), *SPECIALS]


def next_letter_shares(last: str) -> dict[str, float]:
    """How likely each class follows a token that ends in the class `last`."""
    vowel_part, consonant_part, space_part, stop_part = (
        (0.45, 0.55, 0.0, 0.0)
        if last == " "
        else (0.0, 0.0, 1.0, 0.0)
        if last == "."
        else (0.12, 0.58, 0.22, 0.08)
        if last in VOWELS
        else (0.72, 0.13, 0.12, 0.03)
    )
    shares = {" ": space_part, ".": stop_part}
    for part, group in ((vowel_part, VOWELS), (consonant_part, set(LETTERS) - set(VOWELS))):
        whole = sum(LETTER_SHARES[letter] for letter in group)
        shares |= {letter: part * LETTER_SHARES[letter] / whole for letter in sorted(group)}
    return shares


def token_class(token: str) -> int:
    """The index in CLASSES of a token's last letter."""
    return max(CLASSES.find(token[-1]), 0) if token[-1] in CLASSES else CLASSES.index(" ")


def class_logits() -> NDArray[numpy.float32]:
    """Logits of each token (rows) after each class (columns)."""
    tokens = vocabulary()
    logits = numpy.full((len(tokens), len(CLASSES)), NEVER, dtype=numpy.float32)
    for column, last in enumerate(CLASSES):
        shares = next_letter_shares(last)
        for row, token in enumerate(tokens[: -len(SPECIALS)]):
            share = shares.get(" " if token[0] == "Ġ" else token[0], 0.0)
            if share > 0.0 and all(letter in LETTERS + "Ġ." for letter in token):
                logits[row, column] = numpy.log(share) - (1.2 if len(token) > 1 else 0.0)
        if last == ".":
            logits[len(tokens) - 1, column] = numpy.log(0.6)
    return logits


def tensors(shape: Shape) -> dict[str, NDArray[numpy.generic]]:
    """All weights by their GGUF names."""
    random = numpy.random.Generator(numpy.random.PCG64(SEED))

    def drawn(rows: int, columns: int, scale: float) -> NDArray[numpy.float32]:
        return (random.standard_normal((rows, columns)) * scale).astype(numpy.float32)

    tokens = vocabulary()
    embedding = drawn(len(tokens), shape.width, 0.1)
    embedding[:, : len(CLASSES)] = 0.0
    embedding[range(len(tokens)), [token_class(token) for token in tokens]] = 1.0
    # A hidden vector is close to one one-hot entry, which normalizing scales to about 7.
    output = drawn(len(tokens), shape.width, 0.12)
    output[:, : len(CLASSES)] = class_logits() / 7.0
    made: dict[str, NDArray[numpy.generic]] = {
        "token_embd.weight": embedding.astype(numpy.float16),
        "output_norm.weight": numpy.ones(shape.width, dtype=numpy.float32),
        "output.weight": output.astype(numpy.float16),
    }
    for layer in range(shape.layers):
        weights = {
            "attn_q": drawn(shape.width, shape.width, 0.2),
            "attn_k": drawn(shape.width, shape.width, 0.2),
            "attn_v": drawn(shape.width, shape.width, 0.1),
            "attn_output": drawn(shape.width, shape.width, 0.03),
            "ffn_gate": drawn(shape.feed_forward, shape.width, 0.2),
            "ffn_up": drawn(shape.feed_forward, shape.width, 0.2),
            "ffn_down": drawn(shape.width, shape.feed_forward, 0.02),
        }
        for writer in ("attn_output", "ffn_down"):
            weights[writer][: len(CLASSES)] = 0.0  # the class stays readable to the end
        for name, weight in weights.items():
            made[f"blk.{layer}.{name}.weight"] = weight.astype(numpy.float16)
        for norm in ("attn_norm", "ffn_norm"):
            made[f"blk.{layer}.{norm}.weight"] = numpy.ones(shape.width, dtype=numpy.float32)
    return made


def write(
    path: pathlib.Path,
    shape: Shape = SMALL,
    pooling: gguf.PoolingType | None = None,
    *,
    is_flat: bool = False,
) -> None:
    """Write the model file to `path`; with `pooling` it embeds instead of answering, and where it
    `is_flat` positions lie in two dimensions, as those of Qwen2-VL do.
    """
    tokens = vocabulary()
    writer = gguf.GGUFWriter(path, "qwen2vl" if is_flat else "llama")
    if is_flat:
        half = shape.width // shape.heads // 2
        writer.add_rope_dimension_sections([half - 2 * (half // 3), half // 3, half // 3, 0])
    writer.add_name("meshd test (random weights)")
    writer.add_description("Random weights, for tests: its text means nothing.")
    writer.add_license("mit")
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    normal = len(tokens) - len(SPECIALS)
    types = [gguf.TokenType.NORMAL] * normal + [gguf.TokenType.CONTROL] * len(SPECIALS)
    writer.add_token_types([int(kind) for kind in types])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_eot_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
        writer.add_add_eos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, weight in tensors(shape).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m runtimes.llama.demo.build FILE.gguf")
    write(pathlib.Path(sys.argv[1]))
