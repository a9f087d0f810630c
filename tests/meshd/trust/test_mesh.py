"""What makes a home a member: the mesh file, founding, invites, and the chain of admissions."""

import os
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.keys import new_seed, read_key, to_pem
from meshd.trust.mesh import (
    MeshFile,
    admission_chain,
    found_mesh,
    issue_invite,
    read_mesh,
    write_mesh,
)
from protocol.authority import Authority
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.fields import pack
from protocol.records import Admission, Invite, Role, decode_record
from tests.helpers.nodes import WALL_S, Authorities, seed_of

SEED = seed_of("mesh file")


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path)
    home.create()
    return home


def _invite(home: Home) -> tuple[MeshFile, bytes, Invite]:
    return issue_invite(
        home, role=Role.WORKER, expires_at_s=WALL_S, uses=2, is_trusted=True, owner="anna"
    )


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


# ---- invites ----


def test_acts_are_counted_without_gaps_on_disk_first(home: Home) -> None:
    """Founding is act 1; each invite is the next, also after a restart."""
    found_mesh(home, SEED, WALL_S)
    for act in (2, 3, 4):
        mesh, seed, invite = _invite(home)
        assert invite.act == mesh.acts == act
        assert read_mesh(home) == mesh
        assert public_key_of(seed) == invite.key
        assert (invite.owner, invite.uses, invite.is_trusted) == ("anna", 2, True)


def test_an_act_that_cannot_be_counted_is_not_done(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: no invite leaves, and its number is not used twice later."""
    found_mesh(home, SEED, WALL_S)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            _invite(home)
    assert _invite(home)[2].act == 2


def test_only_the_founder_invites(home: Home) -> None:
    """Without a mesh, without a root key, or with another mesh's: one clear line."""
    with pytest.raises(UserError, match="only the machine that founded"):
        _invite(home)
    found_mesh(home, SEED, WALL_S)
    home.write(home.root_key, to_pem(new_seed()), secret=True)
    with pytest.raises(UserError, match="only the machine that founded"):
        _invite(home)
    home.root_key.unlink()
    with pytest.raises(UserError, match="only the machine that founded"):
        _invite(home)


# ---- chains ----


def _chained(length: int) -> tuple[Authorities, list[SodiumCrypto], list[bytes]]:
    """Each member was admitted by the one before; all records, premises first."""
    authorities = Authorities("chain")
    cryptos = [authorities.founder]
    records = [authorities.invite.wire, authorities.founding.wire]
    for index in range(1, length):
        crypto = SodiumCrypto(seed_of("chain", index))
        invite, admission = authorities.admit(crypto, admitter=cryptos[-1])
        records += [invite.wire, admission.wire]
        cryptos.append(crypto)
    return authorities, cryptos, records


def test_a_chain_proves_its_end_to_a_stranger() -> None:
    """From nothing but the root key, the chain alone admits the node; in that order."""
    authorities, cryptos, records = _chained(5)
    bystander = SodiumCrypto(seed_of("bystander"))
    invite, admission = authorities.admit(bystander)
    chain = admission_chain(
        (*records, invite.wire, admission.wire), cryptos[-1].node_id, authorities.root
    )
    assert set(chain) == set(records)
    authority = Authority(bystander, authorities.root)
    for wire in chain:
        authority.add(wire)
    assert authority.role_of(cryptos[-1].node_id) is Role.WORKER


def test_a_chain_that_is_not_whole_is_empty() -> None:
    """A missing invite or a missing admitter: nothing, rather than a part that proves nothing."""
    authorities, cryptos, records = _chained(3)
    for missing in range(len(records)):
        rest = tuple(wire for index, wire in enumerate(records) if index != missing)
        assert admission_chain(rest, cryptos[-1].node_id, authorities.root) == ()


def test_a_chain_beyond_the_files_limit_is_empty() -> None:
    """What `mesh.msgpack` could not be read back with is not written into it."""
    authorities, cryptos, records = _chained(34)
    assert admission_chain(tuple(records), cryptos[-1].node_id, authorities.root) == ()
    chain = admission_chain(tuple(records), cryptos[31].node_id, authorities.root)
    assert len(chain) == 64


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_junk_among_records_is_passed_over(junk: list[bytes]) -> None:
    """Records come from others."""
    authorities, cryptos, records = _chained(2)
    mixed = tuple(wire for pair in zip(records, junk, strict=False) for wire in pair)
    chain = admission_chain((*mixed, *records), cryptos[1].node_id, authorities.root)
    kinds = [type(decode_record(wire)) for wire in chain]
    assert kinds == [Invite, Admission, Invite, Admission]


def test_a_chain_fits_the_file(home: Home) -> None:
    """Written and read back, it is the same."""
    authorities, cryptos, records = _chained(32)
    chain = admission_chain(tuple(records), cryptos[-1].node_id, authorities.root)
    mesh = MeshFile(root=authorities.root, mesh_secret=b"s" * 32, records=chain)
    write_mesh(home, mesh)
    assert read_mesh(home) == mesh
