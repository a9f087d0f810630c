"""Real daemons whose keys lie under a passphrase, and a root key that moves."""

import os
import pathlib
import subprocess
import sys

import pytest

from meshd.cli.children import command
from meshd.trust.audit_check import last_lines
from tests.helpers.daemons import Daemon, Daemons, environment, until, wait_whole

pytestmark = pytest.mark.processes

WORDS = "one two three"


@pytest.fixture
def file(tmp_path: pathlib.Path) -> str:
    """A file with a passphrase."""
    path = tmp_path / "passphrase"
    path.write_text(f"{WORDS}\n")
    path.chmod(0o600)
    return str(path)


def _noted(daemon: Daemon) -> list[str]:
    return [line["type"] for line in last_lines(daemon.home, 10_000)]


def test_a_node_under_a_passphrase(
    daemons: Daemons, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made under it, it starts with it and not without, is the same node, invites and is joined;
    nothing in its home, its log or its environment has it or the keys.
    """
    anna = daemons.add("anna")
    anna.launch("--passphrase-file", file).ready()
    node_id, root = anna.id, anna.home.root_key.read_text()
    assert "ENCRYPTED" in root
    assert "ENCRYPTED" in anna.home.node_key.read_text()
    bert = daemons.add("bert").launch("--join", anna.invite()).ready()
    wait_whole([anna, bert])
    assert anna.stop() == 0
    anna.launch()
    assert anna.ended(20.0) != 0
    assert "--passphrase-file" in anna.last_words()

    monkeypatch.setenv("MESHD_PASSPHRASE", "wrong")
    anna.launch()
    assert anna.ended(20.0) == 1
    assert anna.last_words() == (
        f"meshd: this is not the passphrase of the key {anna.home.node_key}; try again"
    )
    monkeypatch.setenv("MESHD_PASSPHRASE", WORDS)
    anna.launch().ready()
    assert anna.id == node_id
    wait_whole([anna, bert])
    monkeypatch.delenv("MESHD_PASSPHRASE")
    assert anna.cli_json("audit", "verify")["node"] == node_id
    for path in anna.home.path.iterdir():
        if path.is_file():
            assert WORDS.encode() not in path.read_bytes(), path
            assert b"BEGIN PRIVATE KEY" not in path.read_bytes(), path
    assert WORDS not in anna.log_text()


def test_a_mesh_outlives_its_founder(daemons: Daemons, file: str, tmp_path: pathlib.Path) -> None:
    """The root key is exported beside the running daemon; another member, running or not, imports
    it when the founder is gone, and invites.
    """
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    export = tmp_path / "root.pem"
    words = [str(export), "--passphrase-file", file]
    done = anna.cli("root", "export", *words)
    assert done.returncode == 0, done.stderr
    assert anna.said["mesh"] in done.stdout
    assert anna.cli("root", "export", *words).returncode == 1
    until("the export is noted", lambda: "root.exported" in _noted(anna), 10.0)
    anna.kill()

    assert bert.cli("invite").returncode == 1
    assert bert.cli_json("root", "import", *words)["mesh"] == anna.said["mesh"]
    cleo = daemons.add("cleo").launch("--join", bert.invite()).ready()
    wait_whole([bert, cleo])
    until("the import is noted", lambda: "root.imported" in _noted(bert), 10.0)

    assert bert.cli_json("root", "remove", *words)["mesh"] == anna.said["mesh"]
    assert bert.cli("invite").returncode == 1
    assert bert.stop() == 0
    assert bert.cli_json("root", "import", *words)["file"] == str(export)
    assert bert.cli_json("audit", "verify")["ok"] is True
    assert _noted(bert)[-1] == "root.imported"
    stranger = daemons.add("stranger").launch().ready()
    refused = stranger.cli("root", "import", *words)
    assert refused.returncode == 1
    assert anna.said["mesh"] in refused.stderr
    assert stranger.said["mesh"] in refused.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of POSIX")
def test_it_is_asked_for_on_a_terminal(daemons: Daemons) -> None:
    """Twice for a new one, and typed unseen; wrong, it is one clear line."""
    anna = daemons.add("anna").launch().ready()
    assert anna.stop() == 0
    home = ["--home", str(anna.home.path)]
    said = _on_terminal(["passphrase", "set", *home], [("New", WORDS), ("Once more", WORDS)])
    assert "under the passphrase" in said
    assert WORDS not in said
    said = _on_terminal(["passphrase", "remove", *home], [("Passphrase of the keys", "wrong")])
    assert said.strip().endswith("try again")
    said = _on_terminal(["passphrase", "remove", *home], [("Passphrase of the keys", WORDS)])
    assert "without a passphrase" in said
    anna.launch().ready()


def _on_terminal(words: list[str], answers: list[tuple[str, str]]) -> str:
    """Run a command on a terminal of its own, and answer its questions; what was to be seen."""
    terminal, inside = os.openpty()
    program = subprocess.Popen(
        [*command(), *words], env=environment(), preexec_fn=lambda: os.login_tty(inside)
    )
    os.close(inside)
    seen = b""
    try:
        while True:
            if answers and answers[0][0].encode() in seen.rpartition(b"\n")[2]:
                os.write(terminal, answers.pop(0)[1].encode() + b"\n")
                seen += b"\n"
            seen += os.read(terminal, 4_096)
    except OSError:  # the end of a terminal whose program has gone
        pass
    finally:
        os.close(terminal)
        program.wait(30.0)
    assert not answers, seen
    return seen.decode()
