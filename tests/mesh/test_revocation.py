"""Who was revoked is out: within seconds, everywhere, for good; and who may decide that."""

import pathlib
import signal

import pytest

from tests.helpers.daemons import Daemon, Daemons, until, wait_offered, wait_whole

pytestmark = pytest.mark.processes

MODEL = "test:echo"
WITHIN_S = 15.0


def _knows(daemon: Daemon, *names: str) -> None:
    """Wait until it shows exactly these as alive, and nobody else in any state."""
    wanted = sorted(names)
    until(
        f"{daemon.name} knows {wanted} only",
        lambda: sorted(str(row["name"]) for row in _all_rows(daemon)) == wanted,
        WITHIN_S,
    )


def _all_rows(daemon: Daemon) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = daemon.cli_json("nodes", "--all")["nodes"]
    return rows


def test_a_revoked_node_is_out_everywhere_and_stays_out(tmp_path: pathlib.Path) -> None:
    """It ends and says why, also at the next start; who did not know yet learns it; its key gets no
    other invite, a new identity does.
    """
    with Daemons(tmp_path) as daemons:
        anna, bert, carl = daemons.mesh({"anna": "none", "bert": MODEL, "carl": "none"})
        carl.signal(signal.SIGKILL)  # away while it is decided
        carl.ended()
        answer = anna.cli_json("revoke", "bert")
        assert (answer["kind"], answer["id"], answer["evicted"]) == ("node", bert.id, ["bert"])
        assert bert.ended() == 1
        assert "this node was revoked" in bert.log_text()
        assert anna.chat("echo").status == 404
        bert.launch()
        assert bert.ended() == 1
        assert "--new-identity" in bert.last_words()
        token = anna.invite()
        assert bert.cli("join", token).returncode == 0  # it is a member in its own eyes
        carl.launch().ready()
        _knows(carl, "anna", "carl")
        _knows(anna, "anna", "carl")
        bert.launch("--new-identity", "--join", token).ready()
        wait_whole([anna, bert, carl])
        wait_offered([anna, bert, carl], "echo", "bert")


def test_who_comes_back_learns_it_from_whom_it_asks(tmp_path: pathlib.Path) -> None:
    """Revoked while it was off, without anybody to tell it: the first member that it meets does."""
    with Daemons(tmp_path) as daemons:
        anna, bert = daemons.mesh({"anna": "none", "bert": MODEL})
        bert.signal(signal.SIGKILL)
        bert.ended()
        anna.cli_json("revoke", bert.id[:12])
        bert.launch()
        assert bert.ended() == 1
        assert "this node was revoked" in bert.log_text()
        _knows(anna, "anna")


def test_an_admin_stands_in_for_the_founder(tmp_path: pathlib.Path) -> None:
    """Granted, it invites and revokes also when the founder's machine is gone; others may not."""
    with Daemons(tmp_path) as daemons:
        anna, bert, carl = daemons.mesh({"anna": "none", "bert": "none", "carl": "none"})
        refused = carl.cli("revoke", "bert")
        assert refused.returncode == 1
        assert "only admins may do that" in refused.stderr
        assert anna.cli_json("grant", "bert")["name"] == "bert"
        until("bert may invite", lambda: bert.cli("invite").returncode == 0, WITHIN_S)
        anna.signal(signal.SIGKILL)
        anna.ended()
        token = bert.invite()
        dora = daemons.add("dora", "--join", token, model="none").launch().ready()
        wait_whole([bert, carl, dora])
        refused = bert.cli("revoke", "anna")
        assert refused.returncode == 1
        assert "equals do not revoke each other" in refused.stderr
        assert bert.cli_json("revoke", "carl")["evicted"] == ["carl"]
        assert carl.ended() == 1
        assert dora.is_running


def test_who_was_out_by_another_is_told_and_comes_back(tmp_path: pathlib.Path) -> None:
    """Whom a revoked admin let in ends when it goes with it; whom it had revoked is back by itself,
    at the next start, once that does not count any more.
    """
    with Daemons(tmp_path) as daemons:
        anna, carl = daemons.mesh({"anna": "none", "carl": "none"})
        token = anna.cli_json("invite", "--role", "admin")["token"]
        bert = daemons.add("bert", "--join", token, model="none").launch().ready()
        dora = daemons.add("dora", "--join", bert.invite(), model="none").launch().ready()
        wait_whole([anna, bert, carl, dora])
        bert.cli_json("revoke", "carl")
        assert carl.ended() == 1
        answer = anna.cli_json("revoke", "bert", "--cascade")
        assert sorted(answer["evicted"]) == ["bert", "dora"]
        assert [name[:8] for name in answer["restored"]] == [carl.id[:8]]
        assert bert.ended() == 1
        assert dora.ended() == 1
        assert "this node was revoked" in dora.log_text()
        carl.launch().ready()
        wait_whole([anna, carl])
        _knows(anna, "anna", "carl")


def test_a_revoked_invite_lets_nobody_in(tmp_path: pathlib.Path) -> None:
    """Who came by it stays, or goes with --cascade; the newcomer is told why."""
    with Daemons(tmp_path) as daemons:
        anna = daemons.add("anna", model="none").launch().ready()
        made = anna.cli_json("invite", "--uses", "3", "--role", "client")
        bert = daemons.add("bert", "--join", made["token"], model="none").launch().ready()
        wait_whole([anna, bert])
        assert anna.cli_json("revoke", made["invite"])["evicted"] == []
        (row,) = (r for r in anna.cli_json("invites")["invites"] if r["invite"] == made["invite"])
        assert (row["used"], row["uses"], row["revoked"], row["role"]) == (1, 3, True, "client")
        late = daemons.add("late", "--join", made["token"], model="none").launch()
        assert late.ended() == 1
        assert "this invite was revoked" in late.last_words()
        assert bert.is_running
        assert anna.cli_json("revoke", made["invite"], "--cascade")["evicted"] == ["bert"]
        _knows(anna, "anna")
        assert bert.ended() == 1
        assert "this node was revoked" in bert.log_text()


def test_roles_are_what_the_invite_says(tmp_path: pathlib.Path) -> None:
    """A client asks and offers nothing, whatever model it has; an observer does not even ask."""
    with Daemons(tmp_path) as daemons:
        anna = daemons.add("anna", model=MODEL).launch().ready()
        others = []
        for role in ("client", "observer"):
            token = anna.cli_json("invite", "--role", role)["token"]
            others.append(daemons.add(role, "--join", token, model="test:other").launch().ready())
        client, observer = others
        wait_whole([anna, client, observer])
        wait_offered([anna, client, observer], "echo", "anna")
        assert client.chat("echo").status == 200
        refused = observer.chat("echo")
        assert refused.status in (400, 403)
        assert "role" in refused.body.decode()
        assert "other" not in anna.models()
        assert anna.chat("other").status == 404
        roles = {row["name"]: row["role"] for row in _all_rows(anna)}
        assert roles == {"anna": "admin", "client": "client", "observer": "observer"}


@pytest.mark.parametrize("revoked", ["bert", "cleo"])
def test_what_a_revoked_node_has_under_way_ends(tmp_path: pathlib.Path, revoked: str) -> None:
    """The stream that it serves, and the one that it asked for, are cut at once at both ends."""
    with Daemons(tmp_path) as daemons:
        slow = "test:words,delay_ms=100,slots=2"
        anna, bert, cleo = daemons.mesh({"anna": "none", "bert": slow, "cleo": "none"})
        with cleo.stream("words", max_tokens=1000) as stream:
            stream.first_text()
            assert bert.running_requests() == 1
            assert anna.cli_json("revoke", revoked)["evicted"] == [revoked]
            if revoked == "bert":
                events = list(stream.events())
                assert events[-1] == "[DONE]" or "error" in events[-1]
                assert any("error" in event for event in events if isinstance(event, dict))
        gone, stays = (bert, cleo) if revoked == "bert" else (cleo, bert)
        assert gone.ended() == 1
        assert stays.is_running
        if revoked == "cleo":
            until("bert has stopped working", lambda: bert.running_requests() == 0, WITHIN_S)
