"""Pairing by a short code between real daemons: found by mDNS or by address, on loopback."""

import json
import pathlib
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from meshd import posix
from meshd.cli.children import command
from meshd.trust.mesh import read_mesh
from tests.helpers.daemons import Daemon, Daemons, environment, meshd, until, wait_state, wait_whole
from tests.helpers.namespaces import needs_namespaces, two_namespaces

pytestmark = pytest.mark.processes

CODE_S = 20.0


class Offer:
    """A running `meshd pair --json`."""

    def __init__(self, daemon: Daemon, *options: str) -> None:
        self._said = daemon.home.path / f"pair{len(list(daemon.home.path.glob('pair*')))}.out"
        place = [*daemon.prefix, *command(), "pair", "--home", str(daemon.home.path), "--json"]
        with self._said.open("wb") as output:
            self.process = subprocess.Popen(
                [*place, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                env=environment(),
                preexec_fn=posix.dying_with_parent(),
            )

    @property
    def said(self) -> list[dict[str, Any]]:
        """What it printed so far."""
        return [json.loads(line) for line in self._said.read_bytes().splitlines()]

    def shown(self) -> tuple[str, str]:
        """The code, and the address for --at."""
        code = until("a code is shown", lambda: self.said, CODE_S)[0]
        return code["code"], code["addresses"][0]

    def outcome(self) -> tuple[int, str]:
        """Wait for its end: exit code, and what it complained of."""
        _, complaint = self.process.communicate(timeout=30)
        return self.process.returncode, complaint.decode()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)


@contextmanager
def offering(daemon: Daemon, *options: str) -> Iterator[Offer]:
    """An offer that is gone afterwards."""
    offer = Offer(daemon, *options)
    try:
        yield offer
    finally:
        offer.process.kill()
        offer.process.communicate()


def _other(code: str) -> str:
    """The same nameplate, another secret."""
    return code[:-1] + ("1" if code[-1] == "0" else "0")


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_machine_joins_by_a_code_that_mdns_finds(daemons: Daemons) -> None:
    """Without a daemon of its own; then `meshd up` is a member, with what the offer granted."""
    anna = daemons.add("anna", lan=True)
    anna.launch().ready()
    with offering(anna, "--owner", "Zoë", "--trusted") as offer:
        code, _ = offer.shown()
        bert = daemons.add("bert")
        joined = bert.cli("join", code, "--json")
        assert joined.returncode == 0, joined.stderr
        assert json.loads(joined.stdout) == {"mesh": anna.said["mesh"], "changed": True}
        assert offer.outcome() == (0, "")
    bert.launch().ready()
    assert [news["event"] for news in offer.said] == ["code", "code_accepted", "joined"]
    assert offer.said[-1]["node"] == bert.id
    wait_whole([anna, bert])
    assert bert.status()["owner"] == "Zoë"


@pytest.mark.namespaces
@needs_namespaces
def test_two_machines_find_each_other(tmp_path: pathlib.Path) -> None:
    """Across a cable, everything by default: the one waits on port 7702, the other finds it."""
    with two_namespaces() as machines, Daemons(tmp_path) as daemons:
        anna, bert = (
            daemons.add(name, listen=None, gateway=None, lan=True, prefix=machine.prefix)
            for name, machine in zip(("anna", "bert"), machines, strict=True)
        )
        anna.launch().ready()
        with offering(anna) as offer:
            code, address = offer.shown()
            assert address == f"{machines[0].address}:7702"
            joined = bert.cli("join", code)
            assert joined.returncode == 0, joined.stderr
            assert offer.outcome() == (0, "")


def test_a_running_daemon_joins_by_a_code(daemons: Daemons) -> None:
    """It starts anew in the mesh that it found, and the offer says its name."""
    anna, bert = daemons.add("anna"), daemons.add("bert")
    anna.launch()
    bert.launch()
    with offering(anna.ready()) as offer:
        code, address = offer.shown()
        joined = bert.ready().cli("join", code, "--at", address)
        assert joined.returncode == 0, joined.stderr
        assert offer.outcome()[0] == 0
    wait_whole([anna, bert])
    assert (offer.said[-1]["node"], offer.said[-1]["name"]) == (bert.id, "bert")
    with offering(anna) as offer:  # a member has no use for another one, and leaves it alone
        code, address = offer.shown()
        again = bert.cli("join", code, "--at", address)
        assert (again.returncode, "is in that mesh already" in again.stderr) == (1, True)
        assert offer.process.poll() is None
        assert len(offer.said) == 1


def test_three_wrong_codes_end_the_offer(daemons: Daemons, tmp_path: pathlib.Path) -> None:
    """Both sides say so, the daemon counts them, and the right code is of no use any more."""
    anna = daemons.add("anna")
    anna.launch().ready()
    with offering(anna) as offer:
        code, address = offer.shown()
        for left in (2, 1, 0):
            wrong = meshd("join", _other(code), "--at", address, "--home", str(tmp_path / "x"))
            assert wrong.returncode == 1
            assert "the code does not fit" in wrong.stderr
            assert ("the offer ended" in wrong.stderr) == (left == 0)
        returned, complaint = offer.outcome()
        assert returned == 1
        assert complaint.startswith("meshd: the offer has ended: 3 wrong codes were tried")
    late = meshd("join", code, "--at", address, "--home", str(tmp_path / "x"))
    assert late.returncode == 1
    assert anna.status()["refusals"] == {"pairing_wrong_code": 3}
    assert code not in anna.log_text()
    assert [news["event"] for news in offer.said] == ["code"] + ["wrong_code"] * 3


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_whoever_ends_the_command_withdraws_the_offer(
    daemons: Daemons, tmp_path: pathlib.Path, ending: signal.Signals
) -> None:
    """Nobody listens any more, whether it is Ctrl-C or the terminal is gone."""
    anna = daemons.add("anna")
    anna.launch().ready()
    with offering(anna) as offer:
        code, address = offer.shown()
        assert _listens(address)
        offer.process.send_signal(ending)
        assert offer.outcome()[0] == (130 if ending == signal.SIGINT else -signal.SIGKILL)
        until("nobody listens", lambda: not _listens(address), 5.0)
    late = meshd("join", code, "--at", address, "--home", str(tmp_path / "x"))
    assert (late.returncode, "is meshd pair waiting there" in late.stderr) == (1, True)


def test_two_offers_at_once_do_not_disturb_each_other(daemons: Daemons) -> None:
    """Two meshes on one network: each code leads into its own, and uses no try of the other up."""
    anna, bert = (daemons.add(name, lan=True) for name in ("anna", "bert"))
    for daemon in (anna, bert):
        daemon.launch()
    for daemon in (anna, bert):
        daemon.ready()
    with offering(anna) as first, offering(bert) as second:
        codes = {anna: first.shown()[0], bert: second.shown()[0]}
        if codes[anna][:2] == codes[bert][:2]:
            pytest.skip("one in a hundred: both drew one nameplate")
        for founder, name in ((bert, "dora"), (anna, "cleo")):
            newcomer = daemons.add(name)
            joined = newcomer.cli("join", codes[founder], "--json")
            assert joined.returncode == 0, joined.stderr
            assert json.loads(joined.stdout)["mesh"] == founder.said["mesh"]
        assert [offer.outcome() for offer in (first, second)] == [(0, ""), (0, "")]
    for offer in (first, second):
        assert [news["event"] for news in offer.said] == ["code", "code_accepted", "joined"]
    for founder in (anna, bert):
        assert not any("pairing" in reason for reason in founder.status()["refusals"])


def test_a_code_that_nobody_offers_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    """After some seconds, with what to do; and the home is as it was."""
    done = meshd("join", "47-3915-8206", "--home", str(tmp_path / "x"))
    assert done.returncode == 1
    assert done.stderr.startswith("meshd: no offer of code 47 was found")
    assert "--at HOST:PORT" in done.stderr
    assert not (tmp_path / "x" / "mesh.msgpack").exists()


class Listener:
    """Stands between a joiner and an offer, and keeps all that it passes on, perhaps changed."""

    def __init__(self, address: str, change: tuple[str, int] | None = None) -> None:
        """`change`: from whom (`offer` or `joiner`), and the place of a byte to change."""
        self._change = change
        host, _, port = address.rpartition(":")
        self._there = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.heard = {"offer": b"", "joiner": b""}

    def __enter__(self) -> "Listener":
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.join(20)
        self._listening.close()
        assert not self._thread.is_alive()

    def _pass_on(self) -> None:
        self._listening.settimeout(20)
        joiner, _ = self._listening.accept()
        with joiner, socket.create_connection(self._there) as offer:
            back = threading.Thread(target=self._copy, args=("joiner", joiner, offer))
            back.start()
            self._copy("offer", offer, joiner)
            back.join()

    def _changed(self, name: str, data: bytes) -> bytes:
        if self._change is None or self._change[0] != name:
            return data
        at = self._change[1] - len(self.heard[name])
        if not 0 <= at < len(data):
            return data
        return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]

    def _copy(self, name: str, source: socket.socket, to: socket.socket) -> None:
        try:
            while data := source.recv(4_096):
                to.sendall(self._changed(name, data))
                self.heard[name] += data
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # either end may close at once


@pytest.mark.parametrize("change", [("offer", 20), ("offer", 80), ("joiner", 20), ("joiner", 60)])
def test_who_stands_between_and_changes_a_bit_gets_nothing(
    daemons: Daemons, change: tuple[str, int]
) -> None:
    """Of hello's mesh or message, of the joiner's message or proof: both refuse, no invite is made,
    and without somebody between them they join by the same code.
    """
    anna, bert = daemons.add("anna"), daemons.add("bert")
    anna.launch().ready()
    with offering(anna) as offer:
        code, address = offer.shown()
        with Listener(address, change) as listener:
            refused = bert.cli("join", code, "--at", listener.address)
        assert refused.returncode == 1
        assert not bert.home.mesh.exists()
        joined = bert.cli("join", code, "--at", address)
        assert joined.returncode == 0, joined.stderr
        assert offer.outcome()[0] == 0
    assert sum(anna.status()["refusals"].values()) == 1


def test_an_eavesdropper_hears_neither_code_nor_token(daemons: Daemons) -> None:
    """All bytes of an exchange that worked, in both directions."""
    anna, bert = daemons.add("anna"), daemons.add("bert")
    anna.launch().ready()
    with offering(anna) as offer:
        code, address = offer.shown()
        with Listener(address) as listener:
            joined = bert.cli("join", code, "--at", listener.address)
        assert joined.returncode == 0, joined.stderr
        assert offer.outcome()[0] == 0
    assert all(len(heard) > 60 for heard in listener.heard.values())
    mesh = read_mesh(bert.home)
    assert mesh is not None
    digits = code.replace("-", "")
    for heard in listener.heard.values():
        for never in (
            b"meshd1_",
            mesh.mesh_secret,
            code.encode(),
            digits.encode(),
            digits[2:].encode(),
        ):
            assert never not in heard


def test_members_that_are_no_admins_cannot_pair(daemons: Daemons) -> None:
    """They say where it can be done, before they show a code."""
    _, bert = daemons.mesh({"anna": "none", "bert": "none"})
    done = bert.cli("pair")
    assert (done.returncode, done.stdout) == (1, "")
    assert "only admins may do that" in done.stderr
    wait_state([bert], "anna", "alive", 5.0)
