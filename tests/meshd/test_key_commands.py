"""The commands about keys, as the running daemon does them, and without one."""

import pathlib
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from meshd import clock
from meshd.failures import ExitCode, UserError
from meshd.home import Home
from meshd.key_commands import EXPIRES_S_MAX, KeyCommands, key_command_offline
from meshd.trust.api_keys import ApiKeys, hash_of

PLAIN: Mapping[str, Any] = {
    "name": "anna", "priority": "normal", "models": [], "trusted": False, "limit": None,
    "expires_s": None,
}  # fmt: skip


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return Home(tmp_path / "home")


def offline(home: Home, do: str, **arguments: object) -> Mapping[str, Any]:
    """One command without a daemon."""
    return trio.run(key_command_offline, home, do, arguments)


def test_the_life_of_a_key_without_a_daemon(home: Home) -> None:
    """Made, listed, revoked, each by a process of its own; a home is made if there is none."""
    made = offline(home, "key_create", **PLAIN)
    assert (made["name"], made["expires_at_s"]) == ("anna", None)
    key_hash = hash_of(made["key"])
    assert key_hash is not None
    assert ApiKeys(home).policy(key_hash, clock.wall_s()) is not None
    [row] = offline(home, "key_list")["keys"]
    assert row["name"] == "anna"
    assert made["key"] not in str(row)
    assert offline(home, "key_revoke", name="anna") == {"name": "anna"}
    assert offline(home, "key_list") == {"keys": []}
    assert ApiKeys(home).policy(key_hash, clock.wall_s()) is None


def test_a_daemon_and_a_command_do_not_write_over_each_other(home: Home) -> None:
    """Who holds the home changes the keys; the other one is told."""
    with home.locked(), pytest.raises(UserError, match="already runs"):
        offline(home, "key_create", **PLAIN)
    assert offline(home, "key_list") == {"keys": []}


def test_commands_at_one_time_lose_no_key(home: Home) -> None:
    """Many at once: each key that was told is known, and on disk."""
    home.create()
    commands = KeyCommands(ApiKeys(home))
    texts: list[str] = []

    async def make(number: int) -> None:
        made = await commands.create({**PLAIN, "name": f"key{number}"})
        texts.append(made["key"])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(make, number)

    trio.run(main)
    stored = ApiKeys(home)
    assert all(stored.policy(hash_of(text) or b"", clock.wall_s()) for text in texts)
    assert len(stored.rows(0)) == 20


def test_a_key_expires(home: Home) -> None:
    """So many seconds from now."""
    before = clock.wall_s()
    made = offline(home, "key_create", **{**PLAIN, "expires_s": 60})
    assert before + 60 <= made["expires_at_s"] <= clock.wall_s() + 60


@pytest.mark.parametrize(
    "changed",
    [
        {"expires_s": 0},
        {"expires_s": EXPIRES_S_MAX + 1},
        {"expires_s": "1h"},
        {"expires_s": True},
        {"name": 7},
        {"limit": "often"},
    ],
)
def test_what_makes_no_sense_is_one_clear_line(home: Home, changed: dict[str, object]) -> None:
    """Whoever asks: nothing is made."""
    with pytest.raises(UserError) as caught:
        offline(home, "key_create", **{**PLAIN, **changed})
    assert caught.value.exit_code is ExitCode.WRONG_USAGE
    assert offline(home, "key_list") == {"keys": []}
    for name in (None, 7, "nobody"):
        with pytest.raises(UserError):
            offline(home, "key_revoke", name=name)
