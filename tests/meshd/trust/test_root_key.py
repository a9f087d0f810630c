"""A root key leaves a machine under a passphrase, and lets another member of its mesh invite."""

import os
import pathlib
import stat

import pytest
import trio

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.decisions import Decisions
from meshd.trust.keys import new_seed, node_seed, read_key, to_pem
from meshd.trust.mesh import MeshFile, found_mesh, read_mesh, write_mesh
from meshd.trust.root_key import export_root, import_root, read_export, remove_root
from protocol.authority import Authority
from protocol.crypto import SodiumCrypto
from protocol.identity import NodeId, key_text
from protocol.issuing import make_grant
from tests.helpers.nodes import WALL_S, seed_of
from tests.meshd.trust.audit_homes import made

PASSPHRASE = b"for the safe"


class Two:
    """The home of a founder, and one of a member of its mesh."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.founder, self.member = made(folder / "founder"), made(folder / "member")
        self.mesh = found_mesh(self.founder, seed_of("founder"), WALL_S)
        own = MeshFile(root=self.mesh.root, mesh_secret=self.mesh.mesh_secret, records=())
        write_mesh(self.member, own)
        self.name = key_text(self.mesh.mesh)
        self.file = folder / "root.pem"

    def decide(self, home: Home) -> int:
        """The number of the act."""
        nobody = Authority(SodiumCrypto(seed_of("nobody")), self.mesh.root)
        decisions = Decisions(home, nobody, lambda event: True, trio.lowlevel.checkpoint)
        decider = decisions.decider()
        return decisions.sign(
            decider,
            lambda turn: make_grant(
                decider.seed, self.mesh.mesh, subject=NodeId(bytes(32)), turn=turn
            ),
        ).act


@pytest.fixture
def two(tmp_path: pathlib.Path) -> Two:
    return Two(tmp_path)


def test_it_comes_back_on_another_machine(two: Two) -> None:
    """Which may then invite, and counts on from where the exporting one was."""
    assert [two.decide(two.founder) for _ in range(2)] == [2, 3]
    assert export_root(two.founder, two.file, PASSPHRASE) == two.name
    with pytest.raises(UserError, match="only admins"):
        two.decide(two.member)
    assert import_root(two.member, two.file, PASSPHRASE) == two.name
    assert two.decide(two.member) == 4
    assert two.member.root_key.stat().st_mode & 0o777 == 0o600
    assert import_root(two.member, two.file, PASSPHRASE) == two.name
    assert two.decide(two.member) == 5


def test_the_file_is_its_owners_and_nothing_is_overwritten(two: Two) -> None:
    """From the first instant on, whatever the umask is; the key is not in it as it is."""
    before = os.umask(0)
    try:
        export_root(two.founder, two.file, PASSPHRASE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(two.file.stat().st_mode) == 0o600
    content = two.file.read_bytes()
    with pytest.raises(UserError, match="is there already"):
        export_root(two.founder, two.file, PASSPHRASE)
    assert two.file.read_bytes() == content
    assert two.name in content.decode()
    assert b"BEGIN PRIVATE KEY" not in content


def test_a_disk_that_is_full_leaves_no_half_file(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody might take it for a copy."""

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="No space"):
        export_root(two.founder, two.file, PASSPHRASE)
    assert not two.file.exists()


def test_another_meshs_key_is_refused_by_name(two: Two, tmp_path: pathlib.Path) -> None:
    """Before a passphrase is tried; the home stays as it was."""
    stranger = made(tmp_path / "stranger")
    other = found_mesh(stranger, seed_of("stranger"), WALL_S)
    export_root(stranger, two.file, PASSPHRASE)
    with pytest.raises(UserError, match=f"{key_text(other.mesh)}.*{two.name}"):
        import_root(two.member, two.file, b"wrong")
    assert not two.member.root_key.exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"mesh: ", b"mash: ", "no exported root key"),
        (b"acts: 1", b"acts: x", "no exported root key"),
        (b"-----END", b"-----AND", "damaged"),
        (b"\n-----BEGIN ENC", b"\nAA\n-----BEGIN ENC", ""),
    ],
)
def test_a_damaged_file_is_one_clear_line(two: Two, old: bytes, new: bytes, said: str) -> None:
    """What stands in front of the key is no harm."""
    export_root(two.founder, two.file, PASSPHRASE)
    two.file.write_bytes(two.file.read_bytes().replace(old, new))
    if not said:
        assert import_root(two.member, two.file, PASSPHRASE) == two.name
        return
    with pytest.raises(UserError, match=said):
        import_root(two.member, two.file, PASSPHRASE)


def test_a_file_whose_mesh_is_not_its_keys_is_damaged(two: Two, tmp_path: pathlib.Path) -> None:
    """Nobody is made to import another key under the mesh's name."""
    stranger = made(tmp_path / "stranger")
    other = found_mesh(stranger, seed_of("stranger"), WALL_S)
    export_root(stranger, two.file, PASSPHRASE)
    name = key_text(other.mesh).encode()
    two.file.write_bytes(two.file.read_bytes().replace(name, two.name.encode()))
    with pytest.raises(UserError, match="damaged"):
        import_root(two.member, two.file, PASSPHRASE)


def test_what_stands_in_the_way_is_said(two: Two, tmp_path: pathlib.Path) -> None:
    """No file, a file that others can read, no mesh, another key, another passphrase."""
    with pytest.raises(UserError, match="there is no file"):
        import_root(two.member, two.file, PASSPHRASE)
    export_root(two.founder, two.file, PASSPHRASE)
    with pytest.raises(UserError, match="not the passphrase"):
        import_root(two.member, two.file, b"another")
    with pytest.raises(UserError, match="is in no mesh; join"):
        import_root(made(tmp_path / "nobody"), two.file, PASSPHRASE)
    two.member.write(two.member.root_key, to_pem(new_seed()), secret=True)
    with pytest.raises(UserError, match="another mesh's root key"):
        import_root(two.member, two.file, PASSPHRASE)
    two.file.chmod(0o644)
    with pytest.raises(UserError, match=f"chmod 600 {two.file}"):
        import_root(two.member, two.file, PASSPHRASE)


def test_it_is_removed_only_if_it_can_come_back(two: Two, tmp_path: pathlib.Path) -> None:
    """The export is opened first, and must be this very key."""
    with pytest.raises(UserError, match="there is no file"):
        remove_root(two.founder, two.file, PASSPHRASE)
    stranger, foreign = made(tmp_path / "stranger"), tmp_path / "foreign"
    found_mesh(stranger, seed_of("stranger"), WALL_S)
    export_root(stranger, foreign, PASSPHRASE)
    export_root(two.founder, two.file, PASSPHRASE)
    for file, passphrase in ((foreign, PASSPHRASE), (two.file, b"another")):
        with pytest.raises(UserError, match="is not the"):
            remove_root(two.founder, file, passphrase)
    assert two.founder.root_key.exists()
    assert remove_root(two.founder, two.file, PASSPHRASE) == two.name
    assert not two.founder.root_key.exists()
    with pytest.raises(UserError, match="not on this machine"):
        export_root(two.founder, tmp_path / "again", PASSPHRASE)
    import_root(two.founder, two.file, PASSPHRASE)
    assert two.decide(two.founder) == 2


def test_a_home_under_a_passphrase_keeps_it(two: Two) -> None:
    """What is imported lies under the home's, and is exported under its own."""
    export_root(two.founder, two.file, PASSPHRASE)
    two.member.passphrase = b"of the home"
    node_seed(two.member)
    import_root(two.member, two.file, PASSPHRASE)
    assert read_key(two.member.root_key, b"of the home") == read_key(two.founder.root_key)
    with pytest.raises(UserError, match="under a passphrase"):
        read_key(two.member.root_key)
    again = two.file.with_name("again")
    export_root(two.member, again, b"third")
    assert read_export(again).open(b"third") == read_key(two.founder.root_key)


def test_a_crash_between_count_and_key_leaves_no_key_that_counts_anew(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is no key yet."""
    export_root(two.founder, two.file, PASSPHRASE)

    def crash(*arguments: object) -> None:
        raise InterruptedError

    monkeypatch.setattr("meshd.trust.root_key.write_key", crash)
    with pytest.raises(InterruptedError):
        import_root(two.member, two.file, PASSPHRASE)
    mesh = read_mesh(two.member)
    assert mesh is not None
    assert mesh.acts == 1
    assert not two.member.root_key.exists()
