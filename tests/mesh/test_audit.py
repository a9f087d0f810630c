"""The audit log of real daemons: who was let in, who was not, what was invited; and it holds."""

import json
import socket

import pytest

from meshd.trust.audit_check import last_lines
from tests.helpers.daemons import Daemon, Daemons, meshd, until

pytestmark = pytest.mark.processes


def _noted(daemon: Daemon, kind: str) -> list[dict[str, object]]:
    return [dict(line) for line in last_lines(daemon.home, 10_000) if line["type"] == kind]


def _verified(daemon: Daemon) -> dict[str, object]:
    return daemon.cli_json("audit", "verify", "--node", daemon.id)


def test_joins_refusals_and_invites_are_in_the_log(daemons: Daemons) -> None:
    """While it is written, and after the daemon has ended; no token ever is."""
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    token = anna.invite(uses=1)
    cleo = daemons.add("cleo").launch("--join", token).ready()
    late = daemons.add("late").launch("--join", token)
    assert late.ended(20.0) == 1
    with socket.create_connection(("127.0.0.1", anna.port), 5.0) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        stranger.recv(1)

    until("the stranger is noted", lambda: _noted(anna, "peer.refused"), 10.0)
    assert _verified(anna)["ok"] is True
    [founded] = _noted(anna, "mesh.founded")
    assert founded["mesh"] == anna.said["mesh"]
    admitted = [line for daemon in (anna, bert) for line in _noted(daemon, "member.admitted")]
    assert {line["node"] for line in admitted} == {bert.id, cleo.id}
    assert {line["address"] for line in admitted} == {"127.0.0.1"}
    invites = _noted(anna, "invite.made")
    assert {line["invite"] for line in admitted} <= {line["invite"] for line in invites}
    refused = [line for daemon in (anna, bert) for line in _noted(daemon, "join.refused")]
    assert [(line["reason"], line["address"]) for line in refused] == [("used_up", "127.0.0.1")]
    assert len(str(refused[0]["peer"])) == 52
    [stranger_line] = _noted(anna, "peer.refused")
    assert (stranger_line["reason"], stranger_line["address"]) == ("handshake", "127.0.0.1")
    [joined] = _noted(bert, "mesh.joined")
    assert joined["mesh"] == anna.said["mesh"]
    for daemon in (anna, bert, cleo):
        assert daemon.stop() == 0
        report = _verified(daemon)
        assert (report["ok"], report["unsigned"]) == (True, 0)
        shown = daemon.cli("audit", "show").stdout
        assert "node.started" in shown
        assert shown.splitlines()[-1].split()[3] == "node.stopped"
        assert "meshd1_" not in shown


def test_killed_and_started_again(daemons: Daemons) -> None:
    """The log of a daemon that was killed holds, and the next start goes on with it."""
    anna = daemons.add("anna")
    for _ in range(3):
        anna.launch().ready()
        anna.invite()
        anna.kill()
        assert _verified(anna)["ok"] is True
    anna.launch().ready()
    assert anna.stop() == 0
    report = _verified(anna)
    assert (report["ok"], report["unsigned"]) == (True, 0)
    assert len(_noted(anna, "node.started")) == 4
    assert len(_noted(anna, "node.stopped")) == 1


def test_a_changed_line_is_named(daemons: Daemons) -> None:
    """Exit code 1, one line with its number; a start on it does not hide it, and works."""
    anna = daemons.add("anna").launch().ready()
    anna.invite()
    assert anna.stop() == 0
    lines = anna.home.audit.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"type"', b'"tyqe"', 1)
    anna.home.audit.write_bytes(b"".join(lines))
    for _ in range(2):
        done = anna.cli("audit", "verify")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "line 2 (audit.jsonl:2)" in done.stderr
        done = anna.cli("audit", "verify", "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["line"] == 2
        anna.launch().ready()
        assert anna.stop() == 0


def test_a_home_without_a_log(daemons: Daemons) -> None:
    """One line that says what makes one; a wrong id is wrong usage."""
    home = ["--home", str(daemons.folder / "nobody")]
    for words, code in ((["verify"], 1), (["show"], 0), (["verify", "--node", "x"], 2)):
        done = meshd("audit", *words, *home)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
