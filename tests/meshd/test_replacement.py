"""Exchanging the files of an identity: all of them or none, whenever the process is killed."""

import contextlib
import os
import pathlib
import stat
import tarfile
from collections.abc import Callable

import pytest

from meshd import replacement
from meshd.failures import UserError
from meshd.home import IDENTITY_FILES, Home

OLD = ("node.key", "root.key", "mesh.msgpack", "numbers.msgpack", "tls.pem")
NEW = ("node.key", "mesh.msgpack", "members.msgpack", "tls.pem")
STEPS = ("open", "fsync", "rename", "replace", "unlink", "rmdir")
"""What of `os` a killed process may die before."""


class Killed(BaseException):
    """The process is gone; nothing of ours may catch this."""


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    """One identity in place, another one ready beside it."""
    return _prepared(Home(tmp_path / "home"))


def _prepared(home: Home) -> Home:
    home.create()
    for name in OLD:
        home.write(home.path / name, b"old " + name.encode())
    inner = home.next_identity()
    for name in NEW:
        inner.write(inner.path / name, b"new " + name.encode())
    return home


def _identity(home: Home) -> dict[str, bytes]:
    paths = [home.path / name for name in IDENTITY_FILES]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def _content(age: str, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: f"{age} {name}".encode() for name in names}


def _archives(home: Home) -> list[str]:
    return sorted(path.name for path in home.path.glob("old-identity-*"))


def _unpacked(path: pathlib.Path) -> dict[str, bytes]:
    content: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            content[entry.name] = file.read()
            assert stat.S_IMODE(entry.mode) == 0o600
    return content


def test_the_new_files_stand_where_the_old_ones_were(home: Home) -> None:
    """None of the old ones stays outside the archive, which only the owner may read."""
    kept = home.take_next_identity()
    assert kept is not None
    assert _identity(home) == _content("new", NEW)
    assert _unpacked(kept) == _content("old", OLD)
    assert _archives(home) == ["old-identity-1.tar"]
    assert {path.name for path in home.path.iterdir()} == {*NEW, "old-identity-1.tar"}
    if os.name == "posix":
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_an_archive_is_never_overwritten(home: Home) -> None:
    """Numbers that are taken are passed by, whatever has them."""
    (home.path / "old-identity-1.tar").write_bytes(b"mine")
    (home.path / "old-identity-2.tar").symlink_to(home.path / "nowhere")
    kept = home.take_next_identity()
    assert kept is not None
    assert kept.name == "old-identity-3.tar"
    assert (home.path / "old-identity-1.tar").read_bytes() == b"mine"


def test_a_home_without_an_identity_keeps_nothing(tmp_path: pathlib.Path) -> None:
    """There is nothing to archive, and no empty archive."""
    home = Home(tmp_path / "empty")
    home.create()
    inner = home.next_identity()
    inner.write(inner.node_key, b"new node.key")
    assert home.take_next_identity() is None
    assert {path.name for path in home.path.iterdir()} == {"node.key"}


def test_what_is_not_committed_changes_nothing(home: Home) -> None:
    """Locking leaves the old identity, and what is ready; discarding leaves no trace."""
    with home.locked():
        assert _identity(home) == _content("old", OLD)
        assert home.next_identity().node_key.read_bytes() == b"new node.key"
    home.discard_next_identity()
    home.discard_next_identity()
    assert {path.name for path in home.path.iterdir()} == {*OLD, "daemon.lock"}


def _dying_before(step: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Die before the step of that number; the steps that were begun."""
    begun: list[str] = []

    def guarded(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            begun.append(name)
            if len(begun) > step:
                raise Killed
            return real(*arguments, **named)

        return call

    for name in STEPS:
        patch.setattr(os, name, guarded(name, getattr(os, name)))
    return begun


def test_killed_before_any_step_it_is_one_or_the_other(tmp_path: pathlib.Path) -> None:
    """After the next lock, which may be killed too: all old and nothing kept, or all new and the
    old kept once. From the first step that makes it new, it stays new.
    """
    outcomes: list[bool] = []
    for step in range(100):
        home = _prepared(Home(tmp_path / f"home{step}"))
        with pytest.MonkeyPatch.context() as patch:
            begun = _dying_before(step, patch)
            try:
                home.take_next_identity()
            except Killed:
                pass
            else:
                break
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            _dying_before(step % 9, patch)
            _locked_once(home)
        _locked_once(home)
        is_new = _identity(home) == _content("new", NEW)
        outcomes.append(is_new)
        if is_new:
            assert [_unpacked(home.path / name) for name in _archives(home)] == [
                _content("old", OLD)
            ]
            assert not (home.path / "identity.next").exists()
        else:
            assert _identity(home) == _content("old", OLD)
            assert _archives(home) == []
    assert begun.count("rename") == 2
    assert len(outcomes) > 20
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def _locked_once(home: Home) -> None:
    with home.locked():
        pass


def test_a_full_disk_leaves_the_old_identity(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line; the next attempt may have room."""

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match="No space left on device; nothing has changed"):
            home.take_next_identity()
    assert _identity(home) == _content("old", OLD)
    assert _archives(home) == []
    assert home.take_next_identity() is not None
    assert _identity(home) == _content("new", NEW)


def test_a_disk_that_fails_later_is_said_and_gone_on_from(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is finished by whoever locks the home next."""

    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(UserError, match=r"Input/output error; .* start again"):
            home.take_next_identity()
        with pytest.raises(UserError, match="start again"), home.locked():
            pass
    with home.locked():
        assert _identity(home) == _content("new", NEW)


def test_names_do_not_clash() -> None:
    """What is swept as half-written, and what is in the making, are told apart."""
    assert ".tmp-" not in replacement.PREPARED
