"""A new identity for a home that has one: the old one stays until the new one is a member."""

import pathlib
import tarfile

import pytest

from meshd import joining
from meshd.failures import UserError
from meshd.home import IDENTITY_FILES, Home
from meshd.joining import JoinRefused, join, join_anew
from meshd.persistence import Numbers, write_numbers
from meshd.trust.certificates import ensure_certificates
from meshd.trust.keys import node_seed
from meshd.trust.mesh import found_mesh, read_mesh
from protocol.crypto import SodiumCrypto
from protocol.identity import Address, NodeId
from tests.helpers.nodes import WALL_S
from tests.meshd.founder import Founder, is_member, run

STEPS = 60
"""More than there are steps at which the process may be killed."""


class Killed(BaseException):
    """The process is gone; nothing of ours may catch this."""


@pytest.fixture
def founder(tmp_path: pathlib.Path) -> Founder:
    """A mesh with an invite for one machine."""
    return Founder(tmp_path)


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    """A home that founded a mesh and has run."""
    return _of_a_founder(tmp_path / "copy")


def _of_a_founder(path: pathlib.Path) -> Home:
    home = Home(path)
    home.create()
    mesh = found_mesh(home, node_seed(home), WALL_S)
    ensure_certificates(home, mesh.mesh_secret, node_seed(home))
    write_numbers(home, Numbers(7, 7, 7))
    return home


def _content(home: Home) -> dict[str, bytes]:
    files = (path for path in home.path.rglob("*") if path.is_file())
    return {path.relative_to(home.path).as_posix(): path.read_bytes() for path in files}


def _id(home: Home) -> NodeId:
    return SodiumCrypto(node_seed(home)).node_id


def test_a_copy_becomes_a_member_of_its_own(founder: Founder, home: Home) -> None:
    """Another key, nothing of the old membership; all of that, root key included, in one file."""
    before, old_id = _content(home), _id(home)

    async def test() -> None:
        async with founder.serving() as token:
            kept = await join_anew(home, token)
            assert kept == home.path / "old-identity-1.tar"
            with tarfile.open(kept) as archive:
                assert {name: _read(archive, name) for name in archive.getnames()} == before

    run(test)
    assert _id(home) != old_id
    assert founder.admitted == [_id(home)]
    assert is_member(home, founder.mesh.authorities.root)
    assert not home.root_key.exists()
    assert not home.numbers.exists()
    assert set(before) <= {*IDENTITY_FILES}


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def test_the_same_invite_again_changes_nothing(founder: Founder, home: Home) -> None:
    """The options may stay in a service's command line."""

    async def test() -> None:
        async with founder.serving() as token:
            await join_anew(home, token)
            before = _content(home)
            assert await join_anew(home, token) is None
            assert _content(home) == before

    run(test)
    assert len(founder.admitted) == 1


def test_a_copy_of_a_member_takes_the_invite_that_the_member_had(tmp_path: pathlib.Path) -> None:
    """An invite for two machines: that its member joined by it does not make the copy one."""
    founder = Founder(tmp_path, uses=2)
    home = Home(tmp_path / "copy")
    home.create()

    async def test() -> None:
        async with founder.serving() as token:
            await join(home, token)
            assert await join_anew(home, token) is not None

    run(test)
    assert len(set(founder.admitted)) == 2


def test_an_empty_home_just_joins(founder: Founder, tmp_path: pathlib.Path) -> None:
    """There is nothing to keep."""
    home = Home(tmp_path / "empty")
    home.create()

    async def test() -> None:
        async with founder.serving() as token:
            assert await join_anew(home, token) is None

    run(test)
    assert is_member(home, founder.mesh.authorities.root)
    assert not list(home.path.glob("old-identity-*"))


def test_a_damaged_identity_is_replaced_too(founder: Founder, home: Home) -> None:
    """It is kept as it is; what cannot be read need not be."""
    home.mesh.write_bytes(b"\xc1")
    home.node_key.write_bytes(b"")

    async def test() -> None:
        async with founder.serving() as token:
            assert await join_anew(home, token) is not None

    run(test)
    assert is_member(home, founder.mesh.authorities.root)


@pytest.mark.parametrize("is_reachable", [False, True])
def test_a_failure_leaves_the_home_as_it_was(
    tmp_path: pathlib.Path, home: Home, is_reachable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds that are not there, or say no: to the last byte."""
    founder = Founder(tmp_path, expires_in_s=-1)
    before = _content(home)

    async def test() -> None:
        async with founder.serving() as token:
            if is_reachable:
                with pytest.raises(JoinRefused, match="expired"):
                    await join_anew(home, token)
                return
        monkeypatch.setattr(joining, "SEEDS_S", 0.2)
        monkeypatch.setattr(joining, "RETRY_S", 0.05)
        with pytest.raises(UserError, match="could be reached"):
            await join_anew(home, founder.token(Address("127.0.0.1", 1)))

    run(test)
    assert _content(home) == before


def test_what_was_begun_for_another_mesh_is_begun_anew(
    founder: Founder, tmp_path: pathlib.Path, home: Home
) -> None:
    """A membership that a killed attempt left is used for its own invite only."""
    found_mesh(home.next_identity(), node_seed(home.next_identity()), WALL_S)
    begun = _id(home.next_identity())

    async def test() -> None:
        async with founder.serving() as token:
            await join_anew(home, token)

    run(test)
    assert is_member(home, founder.mesh.authorities.root)
    assert not home.root_key.exists()
    assert _id(home) != begun


def _killing(patch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Kill the process before it changes a name on disk for the time of that number."""
    done: list[str] = []

    def counting(name: str) -> None:
        real = getattr(pathlib.Path, name)

        def call(self: pathlib.Path, *arguments: object, **named: object) -> object:
            if len(done) == step:
                raise Killed
            done.append(f"{name} {self.name}")
            return real(self, *arguments, **named)

        patch.setattr(pathlib.Path, name, call)

    for name in ("replace", "rename", "unlink"):
        counting(name)
    return done


def test_killed_at_any_step_it_can_start_and_try_again(
    founder: Founder, tmp_path: pathlib.Path
) -> None:
    """The home is the old node or the new one; a second attempt ends as one new node, with the
    key that was admitted already: the invite is for one machine.
    """
    root = founder.mesh.authorities.root
    outcomes: list[bool] = []

    async def killed_at(step: int) -> bool:
        fresh = Founder(tmp_path / f"mesh{step}")
        home = _of_a_founder(tmp_path / f"home{step}")
        old = {name: data for name, data in _content(home).items() if name in IDENTITY_FILES}
        was_killed = False
        async with fresh.serving() as token:
            with pytest.MonkeyPatch.context() as patch:
                _killing(patch, step)
                try:
                    await join_anew(home, token)
                except Killed:
                    was_killed = True
            with home.locked():
                now = {n: data for n, data in _content(home).items() if n in IDENTITY_FILES}
                outcomes.append(now != old)
                assert now == old or is_member(home, root)
                await join_anew(home, token)
            assert is_member(home, root)
            assert set(fresh.admitted) == {_id(home)}
            assert [path.name for path in home.path.glob("*identity*")] == ["old-identity-1.tar"]
        return was_killed

    async def test() -> None:
        for step in range(STEPS):
            if not await killed_at(step):
                return
        pytest.fail("there are more steps")

    run(test)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_a_membership_says_that_it_is_a_new_identitys(founder: Founder, home: Home) -> None:
    """Only that of a new identity; and it is read back as it was written."""
    mesh = read_mesh(home)
    assert mesh is not None
    assert not mesh.is_renewed

    async def test() -> None:
        async with founder.serving() as token:
            await join_anew(home, token)

    run(test)
    mesh = read_mesh(home)
    assert mesh is not None
    assert mesh.is_renewed
