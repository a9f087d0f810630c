"""A half downloaded file grows, is checked, and is never taken for a whole one."""

import hashlib
import pathlib
import shutil

import pytest

from runtimes.base import RuntimeFailure
from runtimes.models.partial_file import PartialFile

DATA = bytes(range(256)) * 40
ETAG = hashlib.sha256(DATA).hexdigest()


def partial(folder: pathlib.Path, seen: list[int] | None = None) -> PartialFile:
    """The file of these tests, or what is there of it."""
    on_change = (lambda count: None) if seen is None else seen.append
    return PartialFile(folder / "blob", size_bytes=len(DATA), etag=ETAG, on_change=on_change)


def test_it_grows_over_several_openings(tmp_path: pathlib.Path) -> None:
    """What was appended is still there; the whole gets its name."""
    with partial(tmp_path) as file:
        file.append(DATA[:1000])
    seen: list[int] = []
    with partial(tmp_path, seen) as file:
        assert file.done_bytes == 1000
        file.append(DATA[1000:])
        file.finish()
    assert seen == [1000, len(DATA)]
    assert (tmp_path / "blob").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["blob"]


def test_a_damaged_beginning_is_noticed(tmp_path: pathlib.Path) -> None:
    """The whole is checked, also what a former process wrote; nothing wrong gets the name."""
    (tmp_path / "blob.incomplete").write_bytes(b"x" * 1000)
    with partial(tmp_path) as file:
        file.append(DATA[1000:])
        with pytest.raises(RuntimeFailure, match="damaged"):
            file.finish()
    assert not (tmp_path / "blob").exists()
    with partial(tmp_path) as file:
        assert file.done_bytes == 0


def test_too_much_is_thrown_away(tmp_path: pathlib.Path) -> None:
    """More than the size is no beginning of it, on disk or from the network."""
    (tmp_path / "blob.incomplete").write_bytes(DATA + b"x")
    with partial(tmp_path) as file:
        assert file.done_bytes == 0
        with pytest.raises(RuntimeFailure, match="more than"):
            file.append(DATA + b"x")
        assert file.done_bytes == 0


def test_a_full_disk_is_said_before_it_is_full(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the mend, and a code that is tried again once there is room."""
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RuntimeFailure, match="HF_HUB_CACHE") as failed:
        partial(tmp_path)
    assert failed.value.code == "unavailable"
