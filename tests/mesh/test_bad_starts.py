"""Starts that cannot be: one clear line, the right exit code, a home that is as good as before."""

import ctypes
import os
import pathlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from meshd.cli.children import command
from tests.helpers.daemons import Daemon, Daemons, environment, meshd, until, wait_state
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def founder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A mesh that others try to join."""
    with Daemons(tmp_path_factory.mktemp("founder")) as daemons:
        yield daemons.mesh({"anna": WORDS})[0]
        daemons.check_logs()


@pytest.fixture(scope="module", autouse=True)
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon, str]]:
    """A founder that was killed, and a node that tries to join it, for as long as it likes."""
    with Daemons(tmp_path_factory.mktemp("hopeless")) as daemons:
        bert = daemons.add("bert").launch().ready()
        token = bert.invite()
        bert.kill()
        yield bert, daemons.add("carl").launch("--join", token), token
        daemons.check_logs()


@pytest.fixture
def member(daemons: Daemons) -> Daemon:
    """A node that once ran, and is stopped: its home has everything that a home has."""
    daemon = daemons.add("bert")
    daemon.launch().ready()
    assert daemon.stop() == 0
    return daemon


def refused_line(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line of a command that failed, after checking that it is all there is."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("meshd: ")
    return lines[0]


def has_all(text: str, *parts: str) -> None:
    """Check that `text` names all of it."""
    assert not [part for part in parts if part not in text], text


def up(daemon: Daemon, *more: str, within_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run `meshd up` as that daemon would, to an end that must come."""
    return meshd(
        "up", "--json", "--home", str(daemon.home.path), *daemon.options, *more, within_s=within_s
    )


def starts_as_before(daemon: Daemon) -> None:
    """The home still makes the same node."""
    node_id = daemon.id
    daemon.launch().ready()
    assert daemon.id == node_id
    until("nothing is half-written", lambda: not list(daemon.home.path.glob("*.tmp-*")), 5.0)


def test_busy_ports(daemons: Daemons, founder: Daemon) -> None:
    """TCP, UDP and the gateway's: named with the option that mends it; no invite is used up."""
    bert = daemons.add("bert")
    token = founder.invite(uses=1)
    port = founder.port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        for option, taken in (
            ("--listen", f"127.0.0.1:{port}"),
            ("--listen", f"127.0.0.1:{udp.getsockname()[1]}"),
            ("--gateway", founder.url.removeprefix("http://")),
        ):
            line = refused_line(up(bert, option, taken, "--join", token))
            has_all(line, taken, "in use", option)
    assert not bert.home.mesh.exists()
    bert.launch("--join", token).ready()
    assert bert.said["mesh"] == founder.said["mesh"]


def test_what_is_wrong_is_found_before_a_mesh_is_joined(
    daemons: Daemons, founder: Daemon, tmp_path: pathlib.Path
) -> None:
    """A recording that cannot be, an address for nobody: no invite is used up, no mesh founded."""
    bert = daemons.add("bert")
    token = founder.invite(uses=1)
    for more in (("--record", str(tmp_path / "no" / "x")), ("--advertise", "[::]:7700")):
        assert more[1] in refused_line(up(bert, *more, "--join", token))
        refused_line(up(bert, *more))
    assert not bert.home.mesh.exists()
    bert.launch("--join", token).ready()


def test_addresses_that_are_not_ours(daemons: Daemons) -> None:
    """An address of another machine, a name that nobody has, and what is no address at all."""
    bert = daemons.add("bert")
    for option, code in (("--listen", 1), ("--gateway", 2)):  # this one needs keys, too
        assert "192.0.2.7" in refused_line(up(bert, option, "192.0.2.7:0"), code)
        line = refused_line(up(bert, option, "nobody.invalid:0"))
        has_all(line, "nobody.invalid", option)
        refused_line(up(bert, option, "127.0.0.1"), 2)
        refused_line(up(bert, option, "127.0.0.1:99999"), 2)
    assert not bert.home.mesh.exists()


def test_a_home_that_is_a_file(tmp_path: pathlib.Path) -> None:
    """Named, with how to choose another; the file stays what it is."""
    place = tmp_path / "home"
    place.write_text("not a folder")
    for words in (["up"], ["join", "meshd1_x"]):
        done = meshd(*words, "--home", str(place))
        assert str(place) in done.stderr or "token" in done.stderr
        refused_line(done)
    assert place.read_text() == "not a folder"


def test_a_home_that_may_not_be_read(tmp_path: pathlib.Path) -> None:
    """Named, and nothing is changed in it."""
    home = tmp_path / "home"
    home.mkdir(mode=0o000)
    done = subprocess.run(
        [*command(), "up", "--home", str(home), "--model", "none"],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        check=False,
        preexec_fn=_without_the_right_to_read_all,
    )
    home.chmod(0o700)
    assert str(home) in refused_line(done)
    assert list(home.iterdir()) == []


def _without_the_right_to_read_all() -> None:
    """Root obeys file modes without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (Linux)."""
    if os.geteuid() == 0:
        drop_from_bounding_set = 24
        for capability in (1, 2):
            ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


def test_a_damaged_key(member: Daemon) -> None:
    """Neither replaced nor used: the line says that a backup is needed."""
    key = member.home.node_key.read_bytes()
    for damaged in (key[:50], b"", b"\xff" * 119, key.replace(b"M", b"N")):
        member.home.node_key.write_bytes(damaged)
        line = refused_line(up(member))
        has_all(line, str(member.home.node_key), "damaged")
        assert member.home.node_key.read_bytes() == damaged
    member.home.node_key.write_bytes(key)
    member.home.node_key.chmod(0o600)
    starts_as_before(member)


def test_a_key_that_others_can_read(member: Daemon) -> None:
    """Refused with the chmod that mends it, which then does."""
    key = member.home.node_key
    for mode in (0o644, 0o640, 0o602):
        key.chmod(mode)
        assert f"chmod 600 {key}" in refused_line(up(member))
    key.chmod(0o600)
    starts_as_before(member)


def test_somebody_elses_key(member: Daemon, daemons: Daemons) -> None:
    """A key that does not fit the admission is said, not used."""
    other = daemons.add("carl")
    other.launch().ready()
    other.stop()
    key = member.home.node_key.read_bytes()
    member.home.node_key.write_bytes(other.home.node_key.read_bytes())
    assert "does not fit" in refused_line(up(member))
    member.home.node_key.write_bytes(key)
    starts_as_before(member)


def test_damaged_membership(member: Daemon) -> None:
    """Without it the node is in no mesh, so it is not passed over."""
    good = member.home.mesh.read_bytes()
    for damaged in (good[:-10], b"", b"\xc1", good + good):
        member.home.mesh.write_bytes(damaged)
        line = refused_line(up(member))
        has_all(line, str(member.home.mesh), "damaged")
    member.home.mesh.write_bytes(good)
    starts_as_before(member)


def test_damaged_memory(member: Daemon) -> None:
    """Members, own numbers, certificates and the last port can be lost: a warning at most."""
    home = member.home
    node_id = member.id
    for content in (b"", b"\xc1\xff garbage", os.urandom(5_000)):
        for path in (home.members, home.numbers, home.tls, home.last_port):
            path.write_bytes(content)
        member.launch().ready()
        assert member.id == node_id
        assert member.nodes() == {"bert": "alive"}
        member.kill()
    has_all(member.log_text(), "members.unreadable", "numbers.unreadable")


def test_bad_tokens(daemons: Daemons, founder: Daemon) -> None:
    """Mangled, cut, empty: refused at once, before anything is made."""
    token = founder.invite()
    middle = len(token) // 2
    mangled = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
    bert = daemons.add("bert")
    for bad in (mangled, token[:-5], token[: len("meshd1_")], "hello", "meshd1_" + "A" * 5_000):
        for done in (up(bert, "--join", bad), bert.cli("join", bad)):
            assert "token" in refused_line(done)
    assert not bert.home.mesh.exists()
    bert.launch("--join", token).ready()


def test_an_expired_token(daemons: Daemons, founder: Daemon) -> None:
    """Judged by the member that is asked; the line says how to get another."""
    bert = daemons.add("bert")
    token = str(founder.cli_json("invite", "--expires", "1s", "--uses", "100")["token"])

    def refusal() -> subprocess.CompletedProcess[str] | None:
        done = bert.cli("join", token)
        if done.returncode != 0:
            return done
        assert bert.cli("leave").returncode == 0
        (bert.home.node_key).unlink()  # a node that was admitted may come back by the same token
        return None

    assert "expired" in refused_line(until("it has expired", refusal, 10.0))
    assert "expired" in refused_line(up(bert, "--join", token))
    assert not bert.home.mesh.exists()
    bert.launch("--join", founder.invite()).ready()


def test_a_used_up_token(daemons: Daemons, founder: Daemon) -> None:
    """One use is one node; the same node may ask again."""
    bert, carl = daemons.add("bert"), daemons.add("carl")
    token = founder.invite(uses=1)
    assert bert.cli("join", token).returncode == 0
    for done in (carl.cli("join", token), up(carl, "--join", token)):
        assert "used up" in refused_line(done)
    assert not carl.home.mesh.exists()
    bert.home.mesh.unlink()  # as if it had crashed before its last step
    assert bert.cli("join", token).returncode == 0
    carl.launch("--join", founder.invite()).ready()


def test_a_member_of_another_mesh(daemons: Daemons, founder: Daemon) -> None:
    """A mesh that has two members is not dropped by a token; the line names `meshd leave`."""
    bert, carl = daemons.mesh({"bert": "none", "carl": "none"})
    token = founder.invite()
    for daemon in (bert, carl):
        assert "meshd leave" in refused_line(daemon.cli("join", token))
    assert carl.stop() == 0
    assert "meshd leave" in refused_line(up(carl, "--join", token))
    assert "meshd leave" in refused_line(carl.cli("join", token))
    wait_state([bert], "carl", "left", 10.0)
    assert bert.nodes()["bert"] == "alive"


@pytest.mark.parametrize("content", [b"", b"GGU", b"This is no model.", b"GGUF" + b"\xff" * 100])
def test_models_that_are_none(daemons: Daemons, founder: Daemon, content: bytes) -> None:
    """Files that are no GGUF: said before anything is bound, and no invite is used up."""
    bert = daemons.add("bert")
    file = daemons.folder / "model.gguf"
    file.write_bytes(content)
    bert.options = [option if option != "none" else str(file) for option in bert.options]
    token = founder.invite(uses=1)
    line = refused_line(up(bert, "--join", token))
    assert str(file) in line
    file.unlink()
    assert str(file) in refused_line(up(bert, "--join", token))
    assert not bert.home.mesh.exists()
    bert.options = [option if option != str(file) else "none" for option in bert.options]
    bert.launch("--join", token).ready()


def test_a_second_daemon_on_one_home(founder: Daemon) -> None:
    """Refused while the first runs on, unharmed."""
    assert "already runs" in refused_line(up(founder))
    assert founder.nodes()["anna"] == "alive"
    assert founder.cli("status").returncode == 0


def test_no_daemon(daemons: Daemons) -> None:
    """What needs a running daemon ends with 3, also after one was killed."""
    bert = daemons.add("bert")
    for command_line in (["nodes"], ["models"], ["status"], ["invite"], ["chat", "Hi"]):
        assert "meshd up" in refused_line(bert.cli(*command_line), 3)
    bert.launch().ready()
    bert.kill()
    for command_line in (["nodes"], ["chat", "--json", "Hi"]):
        assert "meshd up" in refused_line(bert.cli(*command_line), 3)


def test_wrong_usage(tmp_path: pathlib.Path) -> None:
    """Typing errors end with 2 before a home is made."""
    home = tmp_path / "home"
    for words in (
        ["up", "--name", "Not A Name"],
        ["up", "--label", "novalue"],
        ["up", "--model", "none", "--model", "demo"],
        ["up", "--advertise", "10.0.0.1:0"],
        ["up", "--frobnicate"],
        ["invite", "--expires", "never"],
        ["invite", "--uses", "0"],
        ["nonsense"],
    ):
        refused_line(meshd("--home", str(home), *words), 2)
    assert not home.exists()


def test_unreachable_seeds(hopeless: tuple[Daemon, Daemon, str]) -> None:
    """After 15 s it gave up, and said whom it asked; the token is as good as before."""
    bert, carl, token = hopeless
    assert carl.ended(25.0) == 1
    [line] = carl.log_text().splitlines()
    assert line.startswith("meshd: ")
    has_all(line, bert.said["listen"], "15 s")
    assert not carl.home.mesh.exists()
    bert.launch().ready()
    carl.launch("--join", token).ready()
