"""A cloned home folder becomes a member of its own: `meshd up --new-identity --join TOKEN`."""

import pathlib
import shutil

import pytest

from meshd.home import IDENTITY_FILES
from tests.helpers.daemons import Daemon, Daemons, until, wait_whole

pytestmark = pytest.mark.processes


def _clone(original: Daemon, daemons: Daemons, name: str) -> Daemon:
    """A daemon, to be started, on a copy of a home whose daemon may be running."""
    copy = daemons.add(name)
    shutil.copytree(
        original.home.path, copy.home.path, ignore=shutil.ignore_patterns("control.*", "*.tmp-*")
    )
    return copy


def _identity(daemon: Daemon) -> dict[str, bytes]:
    paths: list[pathlib.Path] = [daemon.home.path / name for name in IDENTITY_FILES]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def test_a_clone_becomes_a_member_of_its_own(daemons: Daemons) -> None:
    """Two members, two ids, while the original runs; later starts need no option, and bear it."""
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    clone = _clone(bert, daemons, "clone")
    token = anna.invite()
    clone.launch("--new-identity", "--join", token).ready()
    wait_whole([anna, bert, clone])
    ids = {row["id"] for row in anna.get("/mesh/v1/nodes")["nodes"]}
    assert ids == {anna.id, bert.id, clone.id}
    assert len(ids) == 3
    assert "new identity" in clone.log_text()
    assert str(clone.home.path / "old-identity-1.tar") in clone.log_text()

    new_id = clone.id
    for options in ([], ["--new-identity", "--join", token]):
        assert clone.stop() == 0
        clone.launch(*options).ready()
        assert clone.id == new_id
        wait_whole([anna, bert, clone])
    assert [path.name for path in clone.home.path.glob("old-*")] == ["old-identity-1.tar"]


def test_a_founders_clone_is_no_second_founder(daemons: Daemons) -> None:
    """Only the original can invite; the copy of the root key is put away with the rest."""
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    clone = _clone(anna, daemons, "clone")
    clone.launch("--new-identity", "--join", anna.invite()).ready()
    wait_whole([anna, bert, clone])
    assert not clone.home.root_key.exists()
    refused = clone.cli("invite")
    assert refused.returncode == 1
    assert "only admins may do that" in refused.stderr
    assert anna.invite()


def test_a_failure_leaves_the_old_identity(daemons: Daemons) -> None:
    """No invite: wrong usage. A bad or used-up token: failed. The home starts as what it was."""
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    assert bert.stop() == 0
    before, old_id = _identity(bert), bert.id
    used_up = anna.invite()
    daemons.add("carl").launch("--join", used_up).ready()
    for options, code, words in (
        (["--new-identity"], 2, "needs an invite"),
        (["--new-identity", "--join", "meshd1_nonsense"], 1, "no valid token"),
        (["--new-identity", "--join", used_up], 1, "used up"),
    ):
        bert.launch(*options)
        assert bert.ended(20.0) == code
        assert words in bert.last_words()
        assert _identity(bert) == before
    assert not list(bert.home.path.glob("*identity*"))
    assert bert.launch().ready().id == old_id


def test_killed_at_many_moments_it_starts_as_one_or_the_other(daemons: Daemons) -> None:
    """kill -9 as each file appears; a second start with the same invite, good for one machine, is
    the new node.
    """
    anna = daemons.add("anna").launch().ready()
    bert = daemons.add("bert").launch("--join", anna.invite()).ready()
    assert bert.stop() == 0
    moments = (
        "identity.new", "identity.new/node.key", "identity.new/tls.pem",
        "identity.new/mesh.msgpack",
        "identity.next", "old-identity-1.tar", "numbers.msgpack",
    )  # fmt: skip
    clones = [_clone(bert, daemons, f"c{number}") for number in range(len(moments))]
    tokens = [anna.invite() for _ in clones]
    for clone, token, moment in zip(clones, tokens, moments, strict=True):
        clone.home.numbers.unlink()
        clone.launch("--new-identity", "--join", token)
        path = clone.home.path / moment
        _kill_when_there(clone, path)
        # By itself it is a member again, old or new.
        clone.launch("--name", bert.name).ready()
        assert clone.said["mesh"] == anna.said["mesh"]
        clone.kill()
        clone.launch("--new-identity", "--join", token).ready()
        assert clone.id != bert.id
    wait_whole([anna, *clones], 30.0)


def _kill_when_there(daemon: Daemon, path: pathlib.Path) -> None:
    """Or has been: what comes after it shows that."""
    after = daemon.home.numbers
    until(f"{path} is there", lambda: path.exists() or after.exists(), 20.0)
    daemon.kill()
