"""API keys that every gateway of the mesh accepts, until one admin takes them back."""

import pathlib

import pytest

from tests.helpers.daemons import Daemon, Daemons, until

pytestmark = pytest.mark.processes

WITHIN_S = 15.0


def _status(daemon: Daemon, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return daemon.request("GET", "/v1/models", **headers).status


def test_a_key_of_the_mesh_opens_every_gateway(tmp_path: pathlib.Path) -> None:
    """Made on one machine, good on another within seconds, its policy with it; revoked by name,
    refused everywhere; another member that is no admin makes none.
    """
    with Daemons(tmp_path) as daemons:
        anna = daemons.add("anna", model="test:echo").launch().ready()
        token = anna.invite()
        bert = daemons.add("bert", "--require-key", "--join", token, model="none")
        bert.launch().ready()
        until("anna sees bert", lambda: anna.nodes().get("bert") == "alive", 15.0)
        made = anna.cli_json("key", "create", "lab", "--mesh", "--models", "ech*", "--limit", "9/m")
        key = made["key"]
        assert key.startswith("meshd-sk-")
        until("bert's gateway takes it", lambda: _status(bert, key) == 200, WITHIN_S)
        (row,) = bert.cli_json("key", "list")["keys"]
        assert (row["name"], row["mesh"], row["limit"], row["models"]) == (
            "lab",
            True,
            "9/m",
            ["ech*"],
        )
        refused = bert.cli("key", "create", "mine", "--mesh")
        assert refused.returncode == 1
        assert "only admins may do that" in refused.stderr
        again = anna.cli("key", "create", "lab", "--mesh")
        assert "has a key named lab already" in again.stderr
        bert.stop()
        bert.launch().ready()
        assert _status(bert, key) == 200
        assert _status(bert, key[:-1] + ("a" if key[-1] != "a" else "b")) == 401
        assert anna.cli("key", "revoke", "lab", "--mesh").returncode == 0
        until("bert's gateway refuses it", lambda: _status(bert, key) == 401, WITHIN_S)
        assert key not in anna.log_text() + bert.log_text()
        for daemon in (anna, bert):
            verified = daemon.cli("audit", "verify")
            assert verified.returncode == 0, verified.stderr
        kinds = [line["type"] for line in _audit(anna)]
        assert {"key.created", "key.revoked"} <= set(kinds)
        assert "key.used" in [line["type"] for line in _audit(bert)]


def _audit(daemon: Daemon) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = daemon.cli_json("audit", "show", "--last", "200")["lines"]
    return lines
