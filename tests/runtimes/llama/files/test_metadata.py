"""What a GGUF file says of itself, and what hostile ones cannot do."""

import contextlib
import pathlib
import struct
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import RuntimeFailure
from runtimes.llama.files import metadata
from runtimes.llama.files.context_length import default_context_tokens
from runtimes.llama.files.metadata import ITEMS_KEPT, TEXT_BYTES_KEPT, read_metadata
from runtimes.llama.files.prospect import look
from runtimes.llama.files.shape import Shape
from runtimes.llama.settings import DEMO_FILE, LlamaSettings


def text(data: bytes) -> bytes:
    """A string as GGUF writes it."""
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    """A pair of metadata."""
    return text(key.encode()) + struct.pack("<I", kind) + value


def array(kind: int, *items: bytes) -> bytes:
    """The value of an array."""
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def file(*pairs: bytes, tensors: int = 0, behind: bytes = b"") -> bytes:
    """A whole file."""
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, len(pairs)) + b"".join(pairs) + behind


def tensor(*sizes: int) -> bytes:
    """What a file says of one tensor."""
    dimensions = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return text(b"blk.0.w") + dimensions + struct.pack("<IQ", 1, 0)


def test_values_of_every_kind_are_read(tmp_path: pathlib.Path) -> None:
    """What is too long to keep is passed over, and what follows is read all the same."""
    path = tmp_path / "m.gguf"
    strings = (text(b"a"), text("ö".encode()))
    path.write_bytes(
        file(
            pair("name", 8, text(b"words")),
            pair("template", 8, text(b"x" * (TEXT_BYTES_KEPT + 1))),
            pair("byte", 0, b"\xff"),
            pair("signed", 5, struct.pack("<i", -2)),
            pair("share", 6, struct.pack("<f", 0.5)),
            pair("yes", 7, b"\x01"),
            pair("large", 10, struct.pack("<Q", 2**63)),
            pair("heads", 9, array(4, *(struct.pack("<I", n) for n in (8, 0, 8)))),
            pair("tokens", 9, array(8, *strings)),
            pair("types", 9, array(5, *[struct.pack("<i", 1)] * (ITEMS_KEPT + 1))),
            pair("last", 4, struct.pack("<I", 7)),
            tensors=2,
            behind=tensor(64, 32) + tensor(5),
        )
    )
    read = read_metadata(path)
    assert read.values == {
        "name": "words", "byte": 255, "signed": -2, "share": 0.5, "yes": True, "large": 2**63,
        "heads": (8, 0, 8), "last": 7,
    }  # fmt: skip
    assert read.lengths == {"heads": 3, "tokens": 2, "types": ITEMS_KEPT + 1}
    assert read.parameters == 64 * 32 + 5


def test_parts_of_a_split_are_added_up(tmp_path: pathlib.Path) -> None:
    """The first says what the model is, each has its own tensors."""
    for part in (1, 2):
        path = tmp_path / f"m-{part:05}-of-00002.gguf"
        number = pair("part", 4, struct.pack("<I", part))
        path.write_bytes(file(number, tensors=1, behind=tensor(100 * part)))
    read = read_metadata(tmp_path / "m-00001-of-00002.gguf")
    assert (read.values, read.parameters) == ({"part": 1}, 300)


def test_the_demo_model_has_its_shape() -> None:
    """As llama.cpp tells it, which `test_on_demand.py` compares field by field."""
    shape = Shape.of(read_metadata(DEMO_FILE))
    assert (shape.architecture, shape.quantization) == ("llama", "Q8_0")
    assert shape.layers > 0
    assert shape.vocabulary > 256
    assert shape.kv_bytes_per_token == 2 * sum(shape.kv_heads) * 2 * shape.key_width


@pytest.mark.parametrize(("trained", "context"), [(0, 4096), (-1, 4096), (512, 512), (10**6, 4096)])
def test_the_context_where_nobody_says(trained: int, context: int) -> None:
    """What it was trained for, 4,096 at most, and no nonsense."""
    assert default_context_tokens(trained) == context


def absurd() -> dict[str, bytes]:
    """Files that claim what is not there."""
    good = file(pair("a", 4, struct.pack("<I", 7)), tensors=1, behind=tensor(64))
    endless = struct.pack("<Q", 2**63)
    return {
        "cut": good[:-3],
        "no header": good[:10],
        "pairs": struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60),
        "tensors": struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0),
        "key": struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + endless,
        "text": file(pair("a", 8, endless)),
        "type": file(pair("a", 99, b"")),
        "array type": file(pair("a", 9, array(13, b""))),
        "array in an array": file(pair("a", 9, array(9, array(4, b"")))),
        "array": file(pair("a", 9, struct.pack("<I", 5) + endless)),
        "strings": file(pair("a", 9, struct.pack("<I", 8) + endless)),
        "key that is no text": file(text(b"\xff") + struct.pack("<II", 4, 7)),
        "dimensions": file(tensors=1, behind=text(b"w") + struct.pack("<I", 2**31)),
        "weights": file(tensors=1, behind=tensor(2**62, 2**62)),
    }


@pytest.mark.parametrize("kind", sorted(absurd()))
def test_absurd_files_are_no_models(kind: str, tmp_path: pathlib.Path) -> None:
    """One line that names the file; nothing is read or kept for a claim."""
    path = tmp_path / "m.gguf"
    path.write_bytes(absurd()[kind])
    with pytest.raises(RuntimeFailure, match="download it again") as failed:
        read_metadata(path)
    assert failed.value.code == "invalid_model"
    assert str(path) in failed.value.message


def test_a_file_that_never_ends_is_given_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is really there."""
    monkeypatch.setattr(metadata, "BYTES_MAX", 10_000)
    path = tmp_path / "m.gguf"
    path.write_bytes(file(pair("a", 9, array(8, *[text(b"x" * 90)] * 200))))
    with pytest.raises(RuntimeFailure, match="damaged"):
        read_metadata(path)


def split(folder: pathlib.Path, parts: int, content: bytes) -> pathlib.Path:
    """A model of so many parts, all alike."""
    for part in range(1, parts + 1):
        (folder / f"m-{part:05}-of-{parts:05}.gguf").write_bytes(content)
    return folder / f"m-00001-of-{parts:05}.gguf"


@pytest.mark.parametrize(
    "content",
    [
        file(pair("a", 9, array(8, *[text(b"")] * 80))),
        file(pair("a", 9, array(3, *[bytes(2)] * 80))),
        file(*[pair("a", 0, b"1")] * 80),
        file(tensors=80, behind=tensor(1) * 80),
    ],
    ids=["texts", "numbers", "pairs", "tensors"],
)
def test_items_of_all_parts_have_one_bound(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Each of them costs time and memory, however few bytes it has."""
    monkeypatch.setattr(metadata, "ITEMS_MAX", 200)
    for parts in (1, 2):
        read_metadata(split(tmp_path, parts, content))
    with pytest.raises(RuntimeFailure, match="damaged"):
        read_metadata(split(tmp_path, 3, content))


def test_bytes_of_all_parts_have_one_bound(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that are passed over."""
    monkeypatch.setattr(metadata, "BYTES_MAX", 250_000)
    content = file(pair("a", 9, array(3, *[bytes(2)] * 50_000)))
    read_metadata(split(tmp_path, 2, content))
    with pytest.raises(RuntimeFailure, match="damaged"):
        read_metadata(split(tmp_path, 3, content))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_model_or_a_refusal(data: bytes) -> None:
    """And whatever is read has a shape."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as temporary:
        temporary.write(struct.pack("<4sIQQ", b"GGUF", 3, 1, 2) + data)
        temporary.flush()
        with contextlib.suppress(RuntimeFailure):
            assert Shape.of(read_metadata(pathlib.Path(temporary.name))).kv_bytes_per_token >= 0


def model_of(path: pathlib.Path, architecture: str, *pairs: bytes, tensors: bytes) -> pathlib.Path:
    """A file that says so much of itself, with as many tensors as `tensors` describes."""
    count = tensors.count(b"blk.0.w")
    named = pair("general.architecture", 8, text(architecture.encode()))
    path.write_bytes(file(named, *pairs, tensors=count, behind=tensors))
    return path


def test_weights_of_all_tensors_have_a_bound(tmp_path: pathlib.Path) -> None:
    """Together, also over the parts of a split: the sum is told to others in 63 bits."""
    path = model_of(tmp_path / "m.gguf", "llama", tensors=tensor(2**61) * 2)
    with pytest.raises(RuntimeFailure, match="weights") as failed:
        read_metadata(path)
    assert failed.value.code == "invalid_model"
    for part in (1, 2):
        model_of(tmp_path / f"m-{part:05}-of-00002.gguf", "llama", tensors=tensor(2**61))
    with pytest.raises(RuntimeFailure, match="weights"):
        read_metadata(tmp_path / "m-00001-of-00002.gguf")


@pytest.mark.parametrize("reproducible", ["0", "1"])
def test_a_model_of_vectors_says_how_long_texts_may_be(
    tmp_path: pathlib.Path, reproducible: str
) -> None:
    """As its worker wants it; nothing is divided by zero."""
    pooling = pair("bert.pooling_type", 4, struct.pack("<I", 1))
    path = model_of(tmp_path / "m.gguf", "bert", pooling, tensors=tensor(64))
    with pytest.raises(RuntimeFailure, match="how long texts may be") as failed:
        look(LlamaSettings(path=path, name="m", reproducible=reproducible == "1"), None)
    assert failed.value.code == "invalid_model"


def test_a_model_that_no_machine_could_hold_is_none(tmp_path: pathlib.Path) -> None:
    """What it needs is told in 63 bits, too."""
    sizes = {
        "block_count": 4096,
        "embedding_length": 2**24 - 1,
        "attention.head_count": 1,
        "attention.head_count_kv": 2**24 - 1,
    }
    pairs = [pair(f"llama.{key}", 4, struct.pack("<I", size)) for key, size in sizes.items()]
    path = model_of(tmp_path / "m.gguf", "llama", *pairs, tensors=tensor(64))
    with pytest.raises(RuntimeFailure, match="sizes") as failed:
        look(LlamaSettings(path=path, name="m"), None)
    assert failed.value.code == "invalid_model"


@pytest.mark.parametrize("architecture", ["a" * 201, "\x1b[31m"])
def test_an_architecture_that_others_would_not_read_is_none(
    tmp_path: pathlib.Path, architecture: str
) -> None:
    """Its card would be dropped by every peer."""
    path = model_of(tmp_path / "m.gguf", architecture, tensors=tensor(64))
    with pytest.raises(RuntimeFailure, match="architecture") as failed:
        look(LlamaSettings(path=path, name="m"), None)
    assert failed.value.code == "invalid_model"


def test_a_model_with_its_projector_inside_is_not_for_llama_cpp(tmp_path: pathlib.Path) -> None:
    """Ollama makes such files; the one line says who reads them."""
    sight = pair("gemma3.vision.block_count", 4, struct.pack("<I", 27))
    path = model_of(tmp_path / "m.gguf", "gemma3", sight, tensors=b"")
    with pytest.raises(RuntimeFailure, match="only Ollama reads it; offer it through"):
        look(LlamaSettings(path=path, name="m"), None)


def test_a_projector_is_no_model(tmp_path: pathlib.Path) -> None:
    """The one line says what it is for."""
    sight = pair("clip.vision.block_count", 4, struct.pack("<I", 27))
    path = model_of(tmp_path / "m.gguf", "clip", sight, tensors=b"")
    with pytest.raises(RuntimeFailure, match="is a projector"):
        look(LlamaSettings(path=path, name="m"), None)
