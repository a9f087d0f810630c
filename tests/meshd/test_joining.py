"""Joining and leaving: what a home is before, after, and after a crash in between."""

import contextlib
import pathlib

import pytest

from meshd.failures import ExitCode, UserError
from meshd.home import Home
from meshd.joining import (
    check_joinable,
    give_up,
    join,
    join_offline,
    leave_offline,
    read_token,
)
from meshd.persistence import read_snapshot, write_snapshot
from meshd.trust.audit_check import last_lines
from meshd.trust.certificates import ensure_certificates
from meshd.trust.keys import node_seed, read_key
from meshd.trust.mesh import found_mesh, read_mesh
from meshd.trust.token import Token, encode_token
from protocol.authority import Authority
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.identity import Address, key_text
from protocol.issuing import Turn, make_invite, make_join_proof
from protocol.joining import JoinRefusal, admit
from protocol.records import NO_ACT, Role
from protocol.snapshot import Snapshot
from tests.helpers.nodes import WALL_S, Authorities, seed_of
from tests.meshd.founder import INVITE_SEED, Founder, is_member, run
from tests.meshd.members import SECRET


class Killed(BaseException):
    """The process is gone; nothing of ours may catch this."""


@pytest.fixture
def founder(tmp_path: pathlib.Path) -> Founder:
    return Founder(tmp_path)


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path / "newcomer")
    home.create()
    return home


def _content(home: Home) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.path.iterdir()}


# ---- joining ----


def test_a_newcomer_becomes_a_member(founder: Founder, home: Home) -> None:
    """With its admission, the mesh's secret, and the addresses of whom it may look for."""

    async def test() -> None:
        async with founder.serving() as token:
            assert check_joinable(home, token)
            await join(home, token)

    run(test)
    assert is_member(home, founder.mesh.authorities.root)
    mesh = read_mesh(home)
    assert mesh is not None
    assert mesh.mesh_secret == SECRET
    snapshot = read_snapshot(home)
    assert len(snapshot.lives) == 1
    assert set(mesh.records) <= set(snapshot.records)
    assert founder.mesh[0].authority.role_of(SodiumCrypto(node_seed(home)).node_id) is Role.WORKER


def test_joining_the_same_mesh_again_changes_nothing(founder: Founder, home: Home) -> None:
    """Nothing is asked, written or used up."""

    async def test() -> None:
        async with founder.serving() as token:
            text = encode_token(token)
            assert (await join_offline(home, text))["changed"]
            before = _content(home)
            assert await join_offline(home, text) == {
                "mesh": key_text(token.mesh),
                "changed": False,
            }
            assert _content(home) == before

    run(test)
    assert len(founder.admitted) == 1


def test_a_lonely_founder_may_join_another_mesh(founder: Founder, home: Home) -> None:
    """Its own mesh is replaced, and the root key that nobody needs is gone."""
    found_mesh(home, node_seed(home), WALL_S)

    async def test() -> None:
        async with founder.serving() as token:
            assert (await join_offline(home, encode_token(token)))["changed"]

    run(test)
    assert is_member(home, founder.mesh.authorities.root)
    assert not home.root_key.exists()


def _with_company(home: Home) -> None:
    """Found a mesh on this home, and admit a second member."""
    mesh = found_mesh(home, node_seed(home), WALL_S)
    authority = Authority(SodiumCrypto(node_seed(home)), mesh.root)
    for wire in mesh.records:
        authority.add(wire)
    root_seed, token = read_key(home.root_key), seed_of("company's token")
    assert root_seed is not None
    invite = make_invite(
        root_seed,
        mesh.mesh,
        key=public_key_of(token),
        turn=Turn(2, NO_ACT),
        role=Role.WORKER,
        expires_at_s=WALL_S + 9,
        uses=1,
        is_trusted=False,
        owner="x",
    )
    authority.add(invite.wire)
    crypto, other = SodiumCrypto(node_seed(home)), SodiumCrypto(seed_of("company"))
    proof = make_join_proof(token, other, mesh.mesh)
    admission = admit(authority, crypto, proof, WALL_S)
    assert not isinstance(admission, JoinRefusal)
    authority.add(admission.wire)
    write_snapshot(home, Snapshot(tuple(record.wire for record in authority.records())))


def test_a_member_of_another_mesh_is_refused(founder: Founder, home: Home) -> None:
    """A mesh with others in it is left by word, never by the way; founder or not."""
    token = founder.token(Address("127.0.0.1", 1))
    _with_company(home)
    with pytest.raises(UserError, match=r"member of another mesh .* meshd leave"):
        check_joinable(home, token)
    home.root_key.unlink()
    with pytest.raises(UserError, match="meshd leave"):
        check_joinable(home, token)


def test_a_running_node_knows_of_company_that_is_not_on_disk_yet(
    founder: Founder, home: Home
) -> None:
    """What it says counts, both ways."""
    token = founder.token(Address("127.0.0.1", 1))
    found_mesh(home, node_seed(home), WALL_S)
    assert check_joinable(home, token)
    assert check_joinable(home, token, has_company=False)
    with pytest.raises(UserError, match="meshd leave"):
        check_joinable(home, token, has_company=True)


def test_a_lost_member_list_does_not_make_an_ordinary_member_lonely(
    founder: Founder, home: Home
) -> None:
    """Whoever was admitted by another has company, whatever else is lost."""

    async def test() -> None:
        async with founder.serving() as token:
            await join(home, token)

    run(test)
    home.members.unlink()
    other = Authorities("other mesh")
    token = Token(
        root=other.root,
        mesh_secret=SECRET,
        invite_seed=INVITE_SEED,
        invite=other.issue(INVITE_SEED),
        seeds=(Address("127.0.0.1", 1),),
    )
    with pytest.raises(UserError, match="meshd leave"):
        check_joinable(home, token)


# ---- crashes ----

STEPS = 6
"""More than joining writes and removes."""


def _killing(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Kill the process before its write or removal number `step`; returns what was done."""
    done: list[str] = []
    write, unlink = Home.write, pathlib.Path.unlink

    def count(name: str) -> None:
        if len(done) == step:
            raise Killed
        done.append(name)

    def counting_write(
        self: Home, path: pathlib.Path, content: bytes, *, secret: bool = False
    ) -> None:
        count(path.name)
        write(self, path, content, secret=secret)

    def counting_unlink(self: pathlib.Path, missing_ok: bool = False) -> None:
        if ".tmp-" not in self.name:
            count(f"-{self.name}")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Home, "write", counting_write)
    monkeypatch.setattr(pathlib.Path, "unlink", counting_unlink)
    return done


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("is_founder", [False, True])
def test_killed_at_any_step_it_can_start_or_join_again(
    founder: Founder, home: Home, step: int, is_founder: bool
) -> None:
    """The invite is for one use: the same node gets the same admission again."""
    if is_founder:
        found_mesh(home, node_seed(home), WALL_S)
    node_seed(home)
    root = founder.mesh.authorities.root

    async def test() -> None:
        async with founder.serving() as token:
            with pytest.MonkeyPatch.context() as patch:
                done = _killing(patch, step)
                try:
                    await join(home, token)
                except Killed:
                    pass
                else:
                    assert len(done) <= step < STEPS, "every step was tried"
            with home.locked():
                if check_joinable(home, token):
                    assert read_mesh(home) is None or read_mesh(home).root != root  # type: ignore[union-attr]  # just read
                    await join(home, token)
            assert is_member(home, root)
            assert read_snapshot(home).lives

    run(test)


def test_the_membership_is_written_last(founder: Founder, home: Home) -> None:
    """And removing the old root key comes after it."""
    found_mesh(home, node_seed(home), WALL_S)

    async def test() -> None:
        async with founder.serving() as token:
            with pytest.MonkeyPatch.context() as patch:
                done = _killing(patch, 99)
                await join(home, token)
            assert done == ["tls.pem", "members.msgpack", "mesh.msgpack", "-root.key"]

    run(test)


@pytest.mark.parametrize("step", range(4))
def test_killed_while_leaving_it_is_in_no_mesh_or_still_in_it(home: Home, step: int) -> None:
    """Never in half a one; leaving again, or founding anew, works."""
    seed = node_seed(home)
    found_mesh(home, seed, WALL_S)
    root = home.root_key.read_bytes()
    write_snapshot(home, Snapshot())
    ensure_certificates(home, SECRET, seed)
    with pytest.MonkeyPatch.context() as patch:
        _killing(patch, step)
        with contextlib.suppress(Killed):
            give_up(home)
    if read_mesh(home) is not None:
        give_up(home)
    assert read_mesh(home) is None
    mesh = found_mesh(home, seed, WALL_S)
    assert read_mesh(home) == mesh
    assert root in _content(home).values(), "the old mesh's root key is lost"


# ---- tokens, leaving, locks ----


def test_a_bad_token_fails_before_anything_is_touched(home: Home) -> None:
    """In words for a person."""
    with pytest.raises(UserError, match=r"no valid token: .*copy the whole line"):
        read_token("meshd1_nonsense")

    async def test() -> None:
        with pytest.raises(UserError, match="no valid token"):
            await join_offline(home, "nonsense")

    run(test)
    assert _content(home) == {}


def test_leaving_keeps_the_nodes_own_key(home: Home) -> None:
    """Mesh, members and certificate go; a founder's root key is put aside, not destroyed; that it
    left is in the audit log.
    """
    seed = node_seed(home)
    mesh = found_mesh(home, seed, WALL_S)
    root = home.root_key.read_bytes()
    write_snapshot(home, Snapshot())
    ensure_certificates(home, mesh.mesh_secret, seed)

    async def test() -> None:
        assert await leave_offline(home) == {"mesh": key_text(mesh.mesh)}
        with pytest.raises(UserError, match="in no mesh") as caught:
            await leave_offline(home)
        assert caught.value.exit_code is ExitCode.FAILED

    run(test)
    kept = f"root-{key_text(mesh.mesh)[:8]}.key"
    log = {"audit.jsonl", "audit.head"}
    assert set(_content(home)) == {"node.key", kept, "daemon.lock", *log}
    assert [line["type"] for line in last_lines(home, 9)] == ["mesh.left"]
    assert (home.path / kept).read_bytes() == root
    assert node_seed(home) == seed
    with pytest.raises(UserError, match="in no mesh"):
        give_up(home)


def test_a_running_daemons_home_is_not_touched(founder: Founder, home: Home) -> None:
    """Without the lock neither joining nor leaving does anything."""
    found_mesh(home, node_seed(home), WALL_S)

    async def test() -> None:
        before = {name: data for name, data in _content(home).items() if name != "daemon.lock"}
        with home.locked():
            with pytest.raises(UserError, match="already runs"):
                await leave_offline(Home(home.path))
            with pytest.raises(UserError, match="already runs"):
                await join_offline(
                    Home(home.path), encode_token(founder.token(Address("127.0.0.1", 1)))
                )
        after = {name: data for name, data in _content(home).items() if name != "daemon.lock"}
        assert after == before

    run(test)
