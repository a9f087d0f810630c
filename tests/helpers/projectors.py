"""The one place that makes small projectors with random weights, and images for them.

A projector turns an image into vectors that a model reads like tokens. This one has the shape of
LLaVA's; what a model says of an image through it means nothing, and is always the same.
"""

import pathlib
import struct
import zlib
from collections.abc import Sequence

import gguf
import numpy
from numpy.typing import NDArray

SEED = 1_312
WIDTH = 32
HEADS = 2
FEED_FORWARD = 64
LAYERS = 2
"""LLaVA does not use the last one."""
IMAGE_SIDE = 56
PATCH_SIDE = 14
IMAGE_TOKENS = (IMAGE_SIDE // PATCH_SIDE) ** 2
"""Of each image, whatever its size, for a projector like LLaVA's."""
MODEL_WIDTH = 64
"""Of the model for tests (`runtimes/llama/demo/build.py`)."""
Tensors = dict[str, NDArray[numpy.float32]]


def write_projector(
    path: pathlib.Path,
    *,
    without: str = "",
    model_width: int = MODEL_WIDTH,
    tilings: Sequence[int] = (),
) -> None:
    """One like LLaVA's, for a model of `model_width`; `without` the tensor of that name."""
    made = _encoder() | {
        "v.position_embd.weight": _drawn(1, IMAGE_TOKENS, WIDTH),
        "mm.0.weight": _drawn(2, model_width, WIDTH),
        "mm.0.bias": _drawn(3, model_width),
        "mm.2.weight": _drawn(4, model_width, model_width),
        "mm.2.bias": _drawn(5, model_width),
    }
    made.pop(without, None)
    _write(path, "mlp", made, model_width, tilings)


def write_tiled_projector(path: pathlib.Path) -> None:
    """One like LLaVA 1.6's: an image is cut into parts."""
    write_projector(path, tilings=(IMAGE_SIDE, 2 * IMAGE_SIDE, 2 * IMAGE_SIDE, IMAGE_SIDE))


def write_flat_projector(path: pathlib.Path) -> None:
    """One like Qwen2-VL's: the larger the image, the more tokens; their positions are in two
    dimensions.
    """
    made = _encoder() | {
        "v.patch_embd.weight.1": _drawn(1, WIDTH, 3, PATCH_SIDE, PATCH_SIDE),
        "mm.0.weight": _drawn(2, 4 * WIDTH, 4 * WIDTH),
        "mm.0.bias": _drawn(3, 4 * WIDTH),
        "mm.2.weight": _drawn(4, MODEL_WIDTH, 4 * WIDTH),
        "mm.2.bias": _drawn(5, MODEL_WIDTH),
    }
    _write(path, "qwen2vl_merger", made, MODEL_WIDTH)


def write_whole_projector(path: pathlib.Path) -> None:
    """One like Gemma 3's: the tokens of an image look at each other both ways."""
    made = _encoder() | {
        "v.position_embd.weight": _drawn(1, IMAGE_TOKENS, WIDTH),
        "mm.input_projection.weight": 5 * _drawn(2, WIDTH, MODEL_WIDTH),
        "mm.soft_emb_norm.weight": numpy.ones(WIDTH, dtype=numpy.float32),
    }
    _write(path, "gemma3", made, MODEL_WIDTH)


def _write(
    path: pathlib.Path,
    kind: str,
    tensors: Tensors,
    model_width: int,
    tilings: Sequence[int] = (),
) -> None:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.use_gelu", True)
    numbers = {
        "image_size": IMAGE_SIDE,
        "patch_size": PATCH_SIDE,
        "embedding_length": WIDTH,
        "feed_forward_length": FEED_FORWARD,
        "block_count": LAYERS,
        "projection_dim": model_width,
        "attention.head_count": HEADS,
        "projector.scale_factor": 1,
    }
    for name, number in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    if tilings:
        writer.add_array("clip.vision.image_grid_pinpoints", tilings)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _drawn(seed: int, *shape: int) -> NDArray[numpy.float32]:
    random = numpy.random.Generator(numpy.random.PCG64(SEED + seed))
    return (random.standard_normal(shape) * 0.3).astype(numpy.float32)


def _encoder() -> Tensors:
    made = {"v.patch_embd.weight": _drawn(0, WIDTH, 3, PATCH_SIDE, PATCH_SIDE)}
    linear = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH),
        "attn_out": (WIDTH, WIDTH),
        "ffn_up": (FEED_FORWARD, WIDTH),
        "ffn_down": (WIDTH, FEED_FORWARD),
    }
    for layer in range(LAYERS):
        for number, (name, (rows, columns)) in enumerate(linear.items()):
            seed = 100 * (layer + 1) + number
            made[f"v.blk.{layer}.{name}.weight"] = _drawn(seed, rows, columns)
            made[f"v.blk.{layer}.{name}.bias"] = _drawn(seed + 50, rows)
        for name in ("ln1", "ln2"):
            made[f"v.blk.{layer}.{name}.weight"] = numpy.ones(WIDTH, dtype=numpy.float32)
            made[f"v.blk.{layer}.{name}.bias"] = numpy.zeros(WIDTH, dtype=numpy.float32)
    return made


def png(width: int = 40, height: int = 30, seed: int = 0) -> bytes:
    """A PNG of noise, another for each seed."""
    random = numpy.random.Generator(numpy.random.PCG64(seed))
    pixels = random.integers(0, 256, (height, width * 3), dtype=numpy.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return png_of(width, height, zlib.compress(rows))


def png_of(width: int, height: int, compressed: bytes) -> bytes:
    """A PNG whose header says so, around compressed pixels that may be anything."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", compressed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def jpeg(width: int = 16, height: int = 8) -> bytes:
    """A grey JPEG."""
    blocks = -(-width // 8) * -(-height // 8)
    bits = "00" * blocks  # for each: no difference to the last one, and nothing else
    bits += "1" * (-len(bits) % 8)
    pixels = int(bits, 2).to_bytes(len(bits) // 8, "big")
    table = bytes([1] + [0] * 15 + [0])  # one code of one bit
    start = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    return b"".join(
        (
            b"\xff\xd8\xff\xdb\x00\x43\x00" + b"\x01" * 64,
            b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", height, width) + b"\x01\x01\x11\x00",
            b"\xff\xc4\x00\x14\x00" + table + b"\xff\xc4\x00\x14\x10" + table,
            start + pixels + b"\xff\xd9",
        )
    )
