"""The commands of membership on real daemons: who is in, who is out, and what is printed."""

import contextlib

import pytest

from tests.helpers.daemons import Daemon, Daemons, until, wait_offered, wait_state, wait_whole
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes


def test_a_lonely_founder_joins(daemons: Daemons) -> None:
    """A mesh that never had a second member is replaced; the daemon goes on, on the same ports,
    with its model; joining again changes nothing and uses nothing up.
    """
    anna, bert = daemons.add("anna"), daemons.add("bert", model=WORDS)
    for daemon in (anna, bert):
        daemon.launch()
    for daemon in (anna, bert):
        daemon.ready()
    assert anna.said["mesh"] != bert.said["mesh"]
    invite = anna.cli_json("invite", "--uses", "1", "--owner", "bertha")
    assert set(invite) == {"token", "invite"}
    token = invite["token"]
    assert bert.cli_json("join", token) == {"mesh": anna.said["mesh"], "changed": True}
    _wait_for_the_new_mesh(bert, anna.said["mesh"])
    wait_whole([anna, bert])
    wait_offered([anna, bert], "words", "bert")
    assert anna.chat("words", max_tokens=2).headers["x-meshd-node-id"] == bert.id
    status = bert.status()
    assert (status["mesh"], status["node"]) == (anna.said["mesh"], bert.id)
    assert (status["listen"], status["gateway"]) == (bert.said["listen"], bert.said["gateway"])
    [row] = [row for row in anna.get("/mesh/v1/nodes")["nodes"] if row["name"] == "bert"]
    assert row["owner"] == status["owner"] == "bertha"

    assert bert.cli_json("join", token) == {"mesh": anna.said["mesh"], "changed": False}
    assert "Already in" in bert.cli("join", token).stdout
    assert bert.stop() == 0
    bert.launch("--join", token).ready()
    wait_whole([anna, bert])
    assert not bert.home.root_key.exists()
    assert "only admins may do that" in bert.cli("invite").stderr


def _wait_for_the_new_mesh(daemon: Daemon, mesh: str) -> None:
    """Its gateway is the same one, and soon answers again."""

    def has_changed() -> bool:
        with contextlib.suppress(OSError):
            return bool(daemon.status()["mesh"] == mesh)
        return False

    until(f"{daemon.name} is in the new mesh", has_changed, 10.0)


def test_joining_without_a_daemon(daemons: Daemons) -> None:
    """The home becomes a member; the node comes up later without a token."""
    anna = daemons.add("anna", model=WORDS).launch().ready()
    bert = daemons.add("bert")
    token = anna.invite()
    assert bert.cli_json("join", token) == {"mesh": anna.said["mesh"], "changed": True}
    assert bert.cli_json("join", token) == {"mesh": anna.said["mesh"], "changed": False}
    bert.launch().ready()
    wait_whole([anna, bert])


def test_leaving_and_coming_back(daemons: Daemons) -> None:
    """Leaving ends the daemon and the membership; a new invite, not the old, brings it back."""
    anna, bert, cleo = daemons.mesh({"anna": WORDS, "bert": "none", "cleo": "none"})
    mesh, node_id = anna.said["mesh"], bert.id
    assert bert.cli_json("leave") == {"mesh": mesh}
    assert bert.ended() == 0
    wait_state([anna, cleo], "bert", "left", 6.0)
    assert not bert.home.mesh.exists()
    assert bert.cli("leave").returncode == 1

    bert.launch().ready()
    assert bert.said["mesh"] != mesh
    assert bert.nodes() == {"bert": "alive"}
    assert bert.cli_json("join", anna.invite())["changed"] is True
    _wait_for_the_new_mesh(bert, mesh)
    wait_whole([anna, bert, cleo])
    assert bert.status()["node"] == node_id

    assert cleo.stop() == 0
    assert cleo.cli_json("leave") == {"mesh": mesh}
    cleo.launch("--join", bert_cannot_invite(anna, bert)).ready()
    wait_whole([anna, bert, cleo])


def bert_cannot_invite(anna: Daemon, bert: Daemon) -> str:
    """A token of the founder, after one that is no founder said who can give one."""
    refused = bert.cli("invite")
    assert refused.returncode == 1
    assert "only admins may do that" in refused.stderr
    return anna.invite()


def test_invites_for_many(daemons: Daemons) -> None:
    """One token for three machines, which join through any member at the same time."""
    anna = daemons.add("anna").launch().ready()
    token = anna.cli_json("invite", "--uses", "3")["token"]
    others = [daemons.add(f"n{number}").launch("--join", token) for number in range(3)]
    for daemon in others:
        daemon.ready()
    wait_whole([anna, *others])
    late = daemons.add("late").launch("--join", token)
    assert late.ended(20.0) == 1
    assert "used up" in late.last_words()


def test_joining_through_another_member(daemons: Daemons) -> None:
    """The founder is off: a member that knows the invite's mesh admits the newcomer."""
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    token = anna.invite()
    assert anna.stop() == 0
    carl = daemons.add("carl").launch("--join", token).ready()
    wait_whole([bert, carl])
    anna.launch().ready()
    wait_whole([anna, bert, carl])


def test_what_is_printed(standing: list[Daemon]) -> None:
    """`nodes`, `models`, `status` and `chat` say what the gateway says, as JSON and in words."""
    anna, bert = standing[:2]
    rows = bert.cli_json("nodes")["nodes"]
    assert [row["name"] for row in rows] == ["bert", "anna", "cleo", "dora", "emil"]
    assert set(rows[0]) == set(bert.get("/mesh/v1/nodes")["nodes"][0])
    assert len(bert.cli_json("nodes", "--all")["nodes"]) == 5
    [model] = bert.cli_json("models")["models"]
    assert (model["name"], model["nodes"]) == ("words", ["anna"])
    assert bert.cli_json("models", "--local") == {"models": []}
    [local] = anna.cli_json("models", "--local")["models"]
    assert {key: local[key] for key in model} == model
    assert (local["state"], local["reason"]) == ("ready", "")
    status = bert.cli_json("status")
    assert status["gateway"] == bert.url
    assert set(status) == set(bert.status())
    answer = bert.cli_json("chat", "--model", "words", "Hi")
    assert (answer["model"], answer["node"]) == ("words", "anna")
    assert answer["text"] == bert.chat("words").text
    for words in (["nodes"], ["models"], ["status"], ["chat", "Hi"]):
        done = bert.cli(*words)
        assert done.returncode == 0
        assert "Traceback" not in done.stderr
        assert "anna" in done.stdout + done.stderr or words == ["status"]


def test_errors_of_chat(standing: list[Daemon]) -> None:
    """What the gateway refuses is one line and exit code 1."""
    done = standing[1].cli("chat", "--model", "absent", "Hi")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "absent" in done.stderr


def test_the_ready_line(standing: list[Daemon]) -> None:
    """Exactly the fields of the interface."""
    for daemon in standing:
        assert set(daemon.said) == {"event", "node", "name", "mesh", "listen", "gateway"}
        assert daemon.said["event"] == "ready"


def test_one_place_that_two_took_apart(daemons: Daemons) -> None:
    """A token for one lets one machine in on each side of a cut; healed, everybody agrees who of
    the two stays, and the other is told.
    """
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    made = anna.cli_json("invite")

    def invites_of_bert() -> list[str]:
        return [row["invite"] for row in bert.cli_json("invites")["invites"]]

    until("bert knows the invite", lambda: made["invite"] in invites_of_bert(), 15.0)
    bert.kill()
    carl = daemons.add("carl").launch("--join", made["token"]).ready()
    for daemon in (anna, carl):
        daemon.kill()
    bert.launch().ready()
    dora = daemons.add("dora").launch("--join", made["token"]).ready()
    wait_whole([bert, dora])
    for daemon in (anna, carl):
        daemon.launch().ready()
    wait_whole([anna, bert, carl])
    until("the other is told", lambda: "its invite was used up elsewhere" in dora.log_text(), 10.0)
