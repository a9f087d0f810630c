"""The home folder: one daemon at a time, whole files, private keys."""

import os
import pathlib
import stat
import subprocess
import sys

import pytest

from meshd import posix
from meshd.failures import UserError
from meshd.home import Home, default_home

needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes")
needs_modes = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="root may do everything"
)


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path / "deep" / "home")
    home.create()
    return home


def test_the_environment_names_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """MESHD_HOME wins; empty or absent, the platform decides."""
    monkeypatch.setenv("MESHD_HOME", "/some/where")
    assert default_home() == pathlib.Path("/some/where")
    monkeypatch.setenv("MESHD_HOME", "")
    assert default_home().name == "meshd"


@needs_posix
def test_a_new_home_is_its_owners_only(home: Home) -> None:
    """Nobody else may look into a folder that we made."""
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_every_file_has_its_own_name(home: Home) -> None:
    """All paths lie in the home and differ."""
    names = [getattr(home, name) for name in vars(Home) if isinstance(vars(Home)[name], property)]
    assert len(set(names)) == len(names)
    assert {path.parent for path in names} == {home.path}


def test_a_home_that_cannot_be_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    """A file in its place, or a file among its parents: what to mend is said."""
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(UserError, match=r"cannot use the home folder .*--home"):
            Home(path).create()


@needs_modes
def test_a_home_without_permission_is_one_clear_line(home: Home) -> None:
    """A folder that we may not write is said before anything starts."""
    home.path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            home.create()
    finally:
        home.path.chmod(0o700)


@needs_posix
def test_a_home_whose_files_anybody_can_exchange_is_refused(home: Home) -> None:
    """Others could make the node another one, or a member of another mesh; a folder like /tmp, in
    which each may only exchange his own, is no such thing, nor is that of a group.
    """
    for mode, is_refused in ((0o777, True), (0o703, True), (0o1777, False), (0o770, False)):
        home.path.chmod(mode)
        if is_refused:
            with pytest.raises(UserError, match=rf"chmod o-w {home.path}"):
                home.create()
        else:
            home.create()


@needs_posix
def test_what_is_secret_is_never_to_be_seen(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even half-written, and whatever the umask is."""
    seen: list[int] = []
    real = os.fsync

    def looking(descriptor: int) -> None:
        seen.append(os.fstat(descriptor).st_mode & 0o777)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", looking)
    before = os.umask(0)
    try:
        home.write(home.node_key, b"secret", secret=True)
    finally:
        os.umask(before)
    assert seen[0] == home.node_key.stat().st_mode & 0o777 == 0o600


# ---- locks ----


def test_only_one_daemon_has_a_home(home: Home) -> None:
    """The second is told; when the first is done, the home is free again."""
    with home.locked():
        assert home.lock_file.read_text() == str(os.getpid())
        with pytest.raises(UserError, match="already runs"), Home(home.path).locked():
            pass
    with home.locked():
        pass


def test_a_killed_daemon_leaves_no_lock(home: Home) -> None:
    """The lock dies with its process, without any clean-up."""
    script = (
        "import pathlib, sys\n"
        "from meshd.home import Home\n"
        "with Home(pathlib.Path(sys.argv[1])).locked():\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="already runs"), home.locked():
            pass
        child.kill()
    with home.locked():
        pass


def test_the_lock_sweeps_half_written_files_and_nothing_else(home: Home) -> None:
    """What a killed writer left is removed; files of others stay."""
    (home.path / "numbers.msgpack.tmp-abc123").write_bytes(b"half")
    (home.path / "notes.txt").write_bytes(b"mine")
    home.write(home.numbers, b"whole")
    with home.locked():
        names = {path.name for path in home.path.iterdir()}
    assert names == {"notes.txt", "numbers.msgpack", "daemon.lock"}


@needs_modes
def test_a_lock_that_cannot_be_opened_is_one_clear_line(home: Home) -> None:
    """A lock file of another user is said."""
    home.lock_file.write_bytes(b"")
    home.lock_file.chmod(0)
    with pytest.raises(UserError, match=r"cannot open .*daemon\.lock"), home.locked():
        pass


# ---- writing ----


@needs_posix
def test_secrets_are_the_owners_only(home: Home) -> None:
    """From the first byte on: the temporary file is never readable by others."""
    seen: list[int] = []
    write = os.fdopen

    def watching(descriptor: int, mode: str) -> object:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return write(descriptor, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdopen", watching)
        home.write(home.mesh, b"secret", secret=True)
    home.write(home.members, b"open")
    assert seen == [0o600]
    assert stat.S_IMODE(home.mesh.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.members.stat().st_mode) == 0o644


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_content(
    home: Home, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A full disk: the old file stands, no litter stays, and the caller hears of it."""
    home.write(home.numbers, b"old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (pathlib.Path, "replace")}[step], fail)
    with pytest.raises(OSError, match="No space"):
        home.write(home.numbers, b"new")
    assert home.numbers.read_bytes() == b"old"
    assert [path.name for path in home.path.iterdir()] == ["numbers.msgpack"]


@pytest.mark.parametrize(
    ("patched", "content"),
    [
        ("os.fsync", b"old"),
        ("pathlib.Path.chmod", b"old"),
        ("pathlib.Path.replace", b"old"),
        ("posix.fsync_directory", b"new"),
    ],
)
def test_a_writer_killed_at_any_step_leaves_old_or_new(
    home: Home, patched: str, content: bytes
) -> None:
    """SIGKILL between any two steps: the file is whole, and the next start sweeps the rest."""
    home.write(home.numbers, b"old")
    script = (
        "import os, pathlib, signal, sys\n"
        "from meshd import posix\n"
        "from meshd.home import Home\n"
        f"{patched} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)\n"
        "home = Home(pathlib.Path(sys.argv[1]))\n"
        "home.write(home.numbers, b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(home.path)], check=False)
    assert done.returncode == -9
    assert home.numbers.read_bytes() == content
    with home.locked():
        names = {path.name for path in home.path.iterdir()}
    assert names == {"numbers.msgpack", "daemon.lock"}


# ---- what only POSIX has ----


@needs_posix
def test_who_else_may_read(tmp_path: pathlib.Path) -> None:
    """Any right of group or others counts, also that to write."""
    path = tmp_path / "key"
    path.write_bytes(b"")
    for mode, open_to_others in ((0o600, False), (0o400, False), (0o640, True), (0o602, True)):
        path.chmod(mode)
        assert posix.readable_by_others(path) is open_to_others
        assert posix.readable_by_all(path) is (mode == 0o602)


def test_a_lock_is_exclusive_between_open_files(tmp_path: pathlib.Path) -> None:
    """Two descriptors of one file exclude each other, also within one process."""
    path = tmp_path / "lock"
    with path.open("a+b") as one, path.open("a+b") as other:
        assert posix.lock_exclusively(one)
        assert not posix.lock_exclusively(other)
    with path.open("a+b") as other:
        assert posix.lock_exclusively(other)
