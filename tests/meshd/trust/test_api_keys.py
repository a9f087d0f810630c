"""API keys: their text, what may be said of them, and the file that keeps all but the text."""

import json
import os
import pathlib
import re
import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.failures import ExitCode, UserError
from meshd.home import Home
from meshd.trust import api_keys
from meshd.trust.api_keys import (
    KEY_PREFIX,
    ApiKeys,
    KeyPolicy,
    Priority,
    RateLimit,
    hash_of,
    new_key_text,
    parse_rate,
    read_policy,
    write_policy,
)

NOW = 1_700_000_000
TOLD: dict[str, Any] = {
    "name": "anna-laptop",
    "priority": "high",
    "models": ["qwen*", "demo"],
    "trusted": True,
    "limit": "10/s",
}
POLICY = KeyPolicy(
    name="anna-laptop",
    priority=Priority.HIGH,
    models=("qwen*", "demo"),
    is_trusted=True,
    limit=RateLimit(10, 1),
)


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


# ---- the text ----


def test_a_key_is_known_by_its_looks_and_never_comes_twice() -> None:
    """Scanners for lost secrets find it; 168 bits of it are chance."""
    texts = {new_key_text() for _ in range(1_000)}
    assert len(texts) == 1_000
    assert all(re.fullmatch(r"meshd-sk-[a-z2-7]{40}", text) for text in texts)
    assert len({hash_of(text) for text in texts}) == 1_000


@given(st.integers(len(KEY_PREFIX), len(KEY_PREFIX) + 39), st.sampled_from("abcxyz27"))
def test_a_mistyped_key_is_none(place: int, letter: str) -> None:
    """Any one character changed: the sum notices."""
    text = new_key_text()
    changed = text[:place] + letter + text[place + 1 :]
    assert (hash_of(changed) is not None) == (changed == text)


@given(st.text() | st.binary().map(lambda data: KEY_PREFIX + data.hex()))
def test_nothing_else_is_a_key(text: str) -> None:
    """Whatever comes, it has a hash only if it is one."""
    assert hash_of(text) is None


def test_case_and_blanks_make_no_second_spelling() -> None:
    """One key, one text."""
    text = new_key_text()
    for other in (text.upper(), f" {text}", f"{text}\n", text + "a", text[:-1]):
        assert hash_of(other) is None


# ---- what may be said ----


def test_a_policy_is_what_was_told() -> None:
    """To its JSON form and back."""
    assert read_policy(TOLD) == POLICY
    assert write_policy(POLICY) == TOLD
    plain = {"name": "x", "priority": "normal", "models": [], "trusted": False, "limit": None}
    assert read_policy(plain) == KeyPolicy(name="x")
    assert write_policy(KeyPolicy(name="x")) == plain


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": ""}, "letters, digits"),
        ({"name": "a b"}, "letters, digits"),
        ({"name": "-a"}, "letters, digits"),
        ({"name": "a" * 64}, "letters, digits"),
        ({"name": "a\n"}, "letters, digits"),
        ({"name": None}, "letters, digits"),
        ({"priority": "urgent"}, "low, normal, high"),
        ({"priority": None}, "low, normal, high"),
        ({"models": "demo"}, "patterns"),
        ({"models": ["x"] * 17}, "at most 16"),
        ({"models": [""]}, "1 to 128"),
        ({"models": ["x" * 129]}, "1 to 128"),
        ({"models": [7]}, "1 to 128"),
        ({"models": ["a\x1b"]}, "unprintable"),
        ({"trusted": "yes"}, "trusted"),
        ({"trusted": None}, "trusted"),
        ({"limit": "10"}, "10/s"),
        ({"limit": "0/s"}, "10/s"),
        ({"limit": "10/d"}, "10/s"),
        ({"limit": "9999999/s"}, "10/s"),
        ({"limit": "\u0661/s"}, "10/s"),
        ({"limit": 10}, "10/s"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(changed: dict[str, Any], said: str) -> None:
    """One line that says what is possible."""
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        read_policy({**TOLD, **changed})
    assert caught.value.exit_code is ExitCode.WRONG_USAGE
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "limit"),
    [("10/s", RateLimit(10, 1)), ("60/m", RateLimit(60, 60)), ("1000/h", RateLimit(1000, 3600))],
)
def test_rates_are_read_and_shown_alike(text: str, limit: RateLimit) -> None:
    """Per second, minute or hour."""
    assert parse_rate(text) == limit
    assert str(limit) == text


@pytest.mark.parametrize(
    ("globs", "allowed", "refused"),
    [
        ((), ["anything", "org/demo", ""], []),
        (("qwen*",), ["qwen", "qwen3-8b"], ["Qwen3", "org/qwen3", ""]),
        (("demo", "org/*"), ["demo", "org/a", "org/a/b"], ["demos", "organ"]),
        (("llama-?b",), ["llama-8b"], ["llama-70b"]),
    ],
)
def test_globs_say_which_models(
    globs: tuple[str, ...], allowed: list[str], refused: list[str]
) -> None:
    """Case counts; without any, all are allowed."""
    policy = KeyPolicy(name="x", models=globs)
    assert [name for name in (*allowed, *refused) if policy.may_use(name)] == allowed


# ---- the file ----


def test_a_key_that_was_made_is_known_also_after_a_restart(home: Home) -> None:
    """By its hash; the file holds neither its text nor what it could be found out from."""
    keys = ApiKeys(home)
    text = keys.create(POLICY, wall_s=NOW, expires_at_s=NOW + 60)
    key_hash = hash_of(text)
    assert key_hash is not None
    for known in (keys, ApiKeys(home)):
        assert known.policy(key_hash, NOW) == POLICY
        assert known.policy(key_hash, NOW + 59) == POLICY
        assert known.policy(key_hash, NOW + 60) is None
        assert known.count(NOW) == 1
        assert known.count(NOW + 60) == 0
        assert known.policy(bytes(32), NOW) is None
    content = home.keys.read_text()
    assert text not in content
    assert text.removeprefix(KEY_PREFIX) not in content
    assert text not in repr(keys) + repr(vars(keys))
    if os.name == "posix":
        assert stat.S_IMODE(home.keys.stat().st_mode) == 0o600


def test_rows_show_all_but_the_secret(home: Home) -> None:
    """By name, with what people want to know."""
    keys = ApiKeys(home)
    keys.create(KeyPolicy(name="zoe"), wall_s=NOW, expires_at_s=None)
    keys.create(POLICY, wall_s=NOW, expires_at_s=NOW + 1)
    first, second = keys.rows(NOW + 1)
    assert first == {**TOLD, "created_at_s": NOW, "expires_at_s": NOW + 1, "expired": True}
    assert (second["name"], second["expires_at_s"], second["expired"]) == ("zoe", None, False)


def test_a_revoked_key_is_gone_for_good(home: Home) -> None:
    """Here and after a restart; the others stay, and its name is free."""
    keys = ApiKeys(home)
    other = hash_of(keys.create(KeyPolicy(name="other"), wall_s=NOW, expires_at_s=None))
    text = keys.create(POLICY, wall_s=NOW, expires_at_s=None)
    keys.revoke(POLICY.name)
    for known in (keys, ApiKeys(home)):
        assert known.policy(hash_of(text) or b"", NOW) is None
        assert known.policy(other or b"", NOW) is not None
    assert keys.create(POLICY, wall_s=NOW, expires_at_s=None) != text
    with pytest.raises(UserError, match="no key named 'nobody'"):
        keys.revoke("nobody")


def test_names_are_given_once(home: Home) -> None:
    """Until the key has expired: then a new one takes its place."""
    keys = ApiKeys(home)
    old = hash_of(keys.create(POLICY, wall_s=NOW, expires_at_s=NOW + 10))
    with pytest.raises(UserError, match="meshd key revoke anna-laptop"):
        keys.create(POLICY, wall_s=NOW + 9, expires_at_s=None)
    keys.create(POLICY, wall_s=NOW + 10, expires_at_s=None)
    assert len(keys.rows(NOW)) == 1
    assert keys.policy(old or b"", NOW) is None


def test_there_is_a_limit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is one clear line."""
    monkeypatch.setattr(api_keys, "KEYS_MAX", 2)
    keys = ApiKeys(home)
    for name in ("a", "b"):
        keys.create(KeyPolicy(name=name), wall_s=NOW, expires_at_s=None)
    with pytest.raises(UserError, match="meshd key revoke"):
        keys.create(KeyPolicy(name="c"), wall_s=NOW, expires_at_s=None)


def test_what_cannot_be_written_has_not_happened(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: one line, and the keys are what they were."""
    keys = ApiKeys(home)
    key_hash = hash_of(keys.create(POLICY, wall_s=NOW, expires_at_s=None)) or b""

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Home, "write", full)
    with pytest.raises(UserError, match="No space left"):
        keys.create(KeyPolicy(name="b"), wall_s=NOW, expires_at_s=None)
    with pytest.raises(UserError, match="No space left"):
        keys.revoke(POLICY.name)
    assert [row["name"] for row in keys.rows(NOW)] == [POLICY.name]
    assert keys.policy(key_hash, NOW) == POLICY


def _damaged_rows() -> list[object]:
    row = {**TOLD, "hash": "ab" * 32, "created_at_s": NOW, "expires_at_s": None}
    return [
        {**row, "hash": "ab"},
        {**row, "hash": "xy" * 32},
        {**row, "hash": None},
        {**row, "priority": "urgent"},
        {**row, "created_at_s": "now"},
        {**row, "expires_at_s": 1.5},
        {**row, "limit": 7},
        {},
        [],
        None,
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        b'{"version": 1}',
        b'{"version": 1, "keys": 7}',
        b"[" * 100_000,
        *(json.dumps({"version": 1, "keys": [row]}).encode() for row in _damaged_rows()),
    ],
)
def test_a_damaged_file_is_said_and_kept(home: Home, content: bytes) -> None:
    """It is not taken for "no keys": one line says what to do."""
    home.keys.write_bytes(content)
    with pytest.raises(UserError, match=r"keys\.json is damaged"):
        ApiKeys(home)
    assert home.keys.read_bytes() == content


def test_a_file_of_a_later_version_is_said(home: Home) -> None:
    """Rather than misread."""
    home.keys.write_bytes(b'{"version": 2, "keys": []}')
    with pytest.raises(UserError, match="another version"):
        ApiKeys(home)
