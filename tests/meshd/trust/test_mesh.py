"""What makes a home a member: the mesh file, founding, invites, and the chain of admissions."""

import os
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.keys import read_key
from meshd.trust.mesh import (
    OWN_RECORDS_MAX,
    MeshFile,
    found_mesh,
    note_acts,
    read_mesh,
    write_mesh,
)
from protocol.authority import Authority
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.fields import pack
from protocol.records import Role
from tests.helpers.nodes import WALL_S, Authorities, seed_of

SEED = seed_of("mesh file")


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path)
    home.create()
    return home


def test_an_empty_home_is_in_no_mesh(home: Home) -> None:
    """None, and no error."""
    assert read_mesh(home) is None


def test_founding_makes_an_admitted_founder(home: Home) -> None:
    """The records alone prove it to anybody; the keys stay private."""
    mesh = found_mesh(home, SEED, WALL_S)
    assert read_mesh(home) == mesh
    authority = Authority(SodiumCrypto(SEED), mesh.root)
    for wire in mesh.records:
        authority.add(wire)
    assert authority.role_of(SodiumCrypto(SEED).node_id) is Role.ADMIN
    root_seed = read_key(home.root_key)
    assert root_seed is not None
    assert public_key_of(root_seed) == mesh.root
    if os.name == "posix":
        assert home.mesh.stat().st_mode & 0o077 == home.root_key.stat().st_mode & 0o077 == 0


def test_two_foundings_share_nothing(home: Home) -> None:
    """Root keys and mesh secrets are new each time."""
    one, other = (found_mesh(home, SEED, WALL_S) for _ in range(2))
    assert one.root != other.root
    assert one.mesh_secret != other.mesh_secret


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_a_damaged_file_is_one_clear_line(home: Home, data: bytes) -> None:
    """Any bytes: a UserError that says what to do, never a guess."""
    home.write(home.mesh, data, secret=True)
    with pytest.raises(UserError, match=r"is damaged; restore it|another version"):
        read_mesh(home)


def test_a_file_of_a_later_version_is_not_damaged(home: Home) -> None:
    """It says to update."""
    home.write(home.mesh, pack((2, b"whatever")), secret=True)
    with pytest.raises(UserError, match="another version of meshd; update"):
        read_mesh(home)


def test_a_file_that_cannot_be_read_is_one_clear_line(home: Home) -> None:
    """Whatever the system says."""
    home.mesh.mkdir()
    with pytest.raises(UserError, match="cannot read"):
        read_mesh(home)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_not_used(home: Home, mode: int) -> None:
    """It holds the mesh secret; said with the command that mends it."""
    found_mesh(home, SEED, WALL_S)
    home.mesh.chmod(mode)
    with pytest.raises(UserError, match=rf"chmod 600 {home.mesh}"):
        read_mesh(home)


def test_the_mesh_secret_is_not_shown(home: Home) -> None:
    """Printing or logging the file's content does not give it away."""
    mesh = found_mesh(home, SEED, WALL_S)
    assert repr(mesh.mesh_secret) not in repr(mesh)


# ---- acts ----


def test_acts_are_counted_on_disk_and_never_back(home: Home) -> None:
    """Founding is act 1; whatever comes later stays the highest, also after a restart."""
    found_mesh(home, SEED, WALL_S)
    for acts, kept in ((2, 2), (5, 5), (3, 5)):
        mesh = note_acts(home, acts)
        assert mesh.acts == kept
        assert read_mesh(home) == mesh


def test_who_is_in_no_mesh_counts_no_acts(home: Home) -> None:
    """One clear line."""
    with pytest.raises(UserError, match="in no mesh"):
        note_acts(home, 2)


# ---- chains ----


def test_a_chain_fits_the_file(home: Home) -> None:
    """As long as it may be; written and read back, it is the same."""
    authorities = Authorities("chain")
    records = (authorities.invite.wire,) * OWN_RECORDS_MAX
    mesh = MeshFile(root=authorities.root, mesh_secret=b"s" * 32, records=records)
    write_mesh(home, mesh)
    assert read_mesh(home) == mesh
