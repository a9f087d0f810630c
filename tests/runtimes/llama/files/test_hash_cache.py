"""What the cache of hashes remembers, and what it makes of files that are not its own."""

import hashlib
import json
import os
import pathlib

import pytest

from runtimes.llama.files.cache_file import ENTRIES_MAX
from runtimes.llama.files.hash_cache import HashCache, file_identity

HASH = "ab" * 32


def identity(number: int = 0) -> str:
    """One of many."""
    return hashlib.blake2b(str(number).encode(), digest_size=32).hexdigest()


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> HashCache:
    """An empty one, in a folder that is not there yet."""
    return HashCache(tmp_path / "cache" / "hashes.json")


def test_what_was_kept_is_found_by_others(cache: HashCache, tmp_path: pathlib.Path) -> None:
    """By any cache on the same file; nothing else is, and nothing lies beside it."""
    cache.keep(identity(), HASH)
    assert HashCache(tmp_path / "cache" / "hashes.json").find(identity()) == HASH
    assert cache.find(identity(1)) is None
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["hashes.json"]


def test_it_is_bounded(cache: HashCache, tmp_path: pathlib.Path) -> None:
    """The oldest is forgotten; a full one is still read whole."""
    known = {identity(number): HASH for number in range(ENTRIES_MAX)}
    file = tmp_path / "cache" / "hashes.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"hashes": known}, indent=0))
    cache.keep(identity(ENTRIES_MAX), HASH)
    assert cache.find(identity(0)) is None
    assert cache.find(identity(1)) == cache.find(identity(ENTRIES_MAX)) == HASH


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"hashes": 5}', b'{"hashes": {"a": "b"}}', b"[" * 10_000],
)
def test_nonsense_is_nothing(cache: HashCache, tmp_path: pathlib.Path, content: bytes) -> None:
    """And the next hash replaces it."""
    file = tmp_path / "cache" / "hashes.json"
    file.parent.mkdir()
    file.write_bytes(content)
    assert cache.find(identity()) is None
    cache.keep(identity(), HASH)
    assert cache.find(identity()) == HASH


def test_what_cannot_be_written_is_forgotten(tmp_path: pathlib.Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "cache").write_text("")
    cache = HashCache(tmp_path / "cache" / "hashes.json")
    cache.keep(identity(), HASH)
    assert cache.find(identity()) is None


def test_a_file_that_changed_is_another(tmp_path: pathlib.Path) -> None:
    """Also if its size and time of change were put back, or if only a later part changed."""
    parts = [tmp_path / f"m-0000{part}-of-00002.gguf" for part in (1, 2)]
    for part in parts:
        part.write_bytes(b"weights")
    before = file_identity(parts[0])
    assert file_identity(parts[0]) == before
    status = parts[1].stat()
    parts[1].write_bytes(b"Weights")
    os.utime(parts[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_identity(parts[0]) != before
