"""What a file says before llama.cpp sees it: header, parts, hash."""

import hashlib
import os
import pathlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import RuntimeFailure
from runtimes.llama.files.model_file import (
    check_model_file,
    content_hash,
    model_bytes,
    model_name,
    model_parts,
)
from runtimes.llama.settings import DEMO_FILE

GOOD = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no GGUF"),
        (b"GG", "no GGUF"),
        (b"PK\x03\x04" + bytes(40), "no GGUF"),
        (b"GGUF\x03", "cut off"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 1, 1), "version 1"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 1, 1), "version 50331648"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1, 0), "damaged"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**63, 1), "damaged"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1, 2**64 - 1), "damaged"),
    ],
)
def test_a_file_that_is_no_model_is_named_as_such(
    tmp_path: pathlib.Path, content: bytes, says: str
) -> None:
    """Each wrong start is invalid_model with its own line."""
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(RuntimeFailure, match=says) as failed:
        check_model_file(path)
    assert failed.value.code == "invalid_model"
    assert str(path) in failed.value.message


@pytest.mark.parametrize("what", ["nothing", "folder", "pipe", "device"])
def test_only_a_regular_file_will_do(tmp_path: pathlib.Path, what: str) -> None:
    """A missing file, a folder, a pipe that would block for ever, a device without an end."""
    path = tmp_path / "x.gguf"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path = pathlib.Path("/dev/zero")
    with pytest.raises(RuntimeFailure) as failed:
        check_model_file(path)
    assert failed.value.code == "invalid_model"


@given(content=st.binary(max_size=64), good=st.booleans())
def test_any_start_is_accepted_or_invalid(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, good: bool
) -> None:
    """No start of a file raises anything else."""
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes((b"GGUF\x03\0\0\0" if good else b"") + content)
    failures: list[str] = []
    try:
        check_model_file(path)
    except RuntimeFailure as failure:
        failures.append(failure.code)
    assert failures in ([], ["invalid_model"])


def test_parts_of_a_split_belong_together(tmp_path: pathlib.Path) -> None:
    """The first part stands for all: for size, hash, name and checks."""
    paths = [tmp_path / f"big-{part:05}-of-00003.gguf" for part in (1, 2, 3)]
    for number, path in enumerate(paths):
        path.write_bytes(GOOD + bytes([number]))
    assert model_parts(paths[0]) == paths
    assert model_bytes(paths[0]) == 3 * (len(GOOD) + 1)
    assert model_name(paths[0]) == "big"
    whole = b"".join(path.read_bytes() for path in paths)
    assert content_hash(paths[0]) == hashlib.blake2b(whole, digest_size=32).hexdigest()
    check_model_file(paths[0])
    with pytest.raises(RuntimeFailure, match="name the first part"):
        check_model_file(paths[1])
    paths[2].unlink()
    with pytest.raises(RuntimeFailure, match="00003-of-00003"):
        check_model_file(paths[0])


def test_a_hash_depends_on_content_alone(tmp_path: pathlib.Path) -> None:
    """A copy under another name has the same hash, one changed byte another; progress ends at 1."""
    data = DEMO_FILE.read_bytes() * 12
    first, copy, changed = (tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf"))
    first.write_bytes(data)
    copy.write_bytes(data)
    changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    shares: list[float] = []
    assert content_hash(first, shares.append) == content_hash(copy)
    assert content_hash(first) != content_hash(changed)
    assert shares == sorted(shares)
    assert len(shares) > 1
    assert shares[-1] == 1.0
