"""The one place for API keys: a key's text, what it may do, and the keys that a home knows.

    text = "meshd-sk-" + base32, lower case ( 21 random bytes + 4-byte BLAKE2b of them )

A key is shown once. Kept is its BLAKE2b-256, which is enough: of 168 random bits nothing can be
guessed, so a slow hash would only cost time. The sum tells a mistyped key without any look-up, and
lets scanners for lost secrets know one when they see it.
"""

import base64
import dataclasses
import enum
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from meshd.failures import ExitCode, UserError
from meshd.home import Home

KEY_PREFIX: Final = "meshd-sk-"
KEYS_MAX: Final = 1_000
MODELS_MAX: Final = 16
GLOB_CHARS_MAX: Final = 128
REQUESTS_MAX: Final = 1_000_000
"""Of a limit, in its period."""
PERIODS_S: Final = {"s": 1, "m": 60, "h": 3_600}
_RANDOM_BYTES: Final = 21
_SUM_BYTES: Final = 4
_FILE_BYTES_MAX: Final = 16 * 1024 * 1024
_VERSION: Final = 1
_TEXT: Final = re.compile(KEY_PREFIX + "[a-z2-7]{40}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_RATE: Final = re.compile(r"([0-9]{1,7})/([smh])", re.ASCII)


class Priority(enum.StrEnum):
    """Whose requests go first where they wait."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclasses.dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests at once, and so many in each period on average."""

    requests: int
    period_s: int

    def __str__(self) -> str:
        """As it is typed: `10/s`."""
        units = {seconds: unit for unit, seconds in PERIODS_S.items()}
        return f"{self.requests}/{units.get(self.period_s, f'{self.period_s}s')}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyPolicy:
    """What a request may do that shows a key; it goes with the request."""

    name: str
    """The key's, for people."""
    priority: Priority = Priority.NORMAL
    models: tuple[str, ...] = ()
    """Patterns with `*`, `?` and `[abc]`; empty: every model."""
    is_trusted: bool = False
    """Its requests only go to nodes whose invite was marked trusted."""
    limit: RateLimit | None = None

    def may_use(self, model: str) -> bool:
        """Whether the key is for this model."""
        return not self.models or any(fnmatch.fnmatchcase(model, glob) for glob in self.models)


PolicySource = Callable[[bytes], KeyPolicy | None]
"""The policy of the key with this hash, None when it is unknown, revoked or expired."""


def no_policies(key_hash: bytes) -> KeyPolicy | None:
    """A PolicySource that knows no keys."""
    del key_hash
    return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key that this home knows: all but its text."""

    key_hash: bytes = dataclasses.field(repr=False)
    policy: KeyPolicy
    created_at_s: int
    """Unix time."""
    expires_at_s: int | None
    """Unix time from which on it is refused; None: never."""

    def has_expired(self, wall_s: int) -> bool:
        """Whether its time is over."""
        return self.expires_at_s is not None and wall_s >= self.expires_at_s


# ---- the text ----


def new_key_text() -> str:
    """A new key."""
    secret = os.urandom(_RANDOM_BYTES)
    return KEY_PREFIX + base64.b32encode(secret + _sum(secret)).decode("ascii").lower()


def hash_of(text: str) -> bytes | None:
    """The 32 bytes under which a key is known; None for what is no key, or a mistyped one."""
    if _TEXT.fullmatch(text) is None:
        return None
    data = base64.b32decode(text.removeprefix(KEY_PREFIX).upper())
    if data[_RANDOM_BYTES:] != _sum(data[:_RANDOM_BYTES]):
        return None
    return hashlib.blake2b(text.encode("ascii"), digest_size=32, person=b"meshd api key").digest()


def _sum(secret: bytes) -> bytes:
    return hashlib.blake2b(secret, digest_size=_SUM_BYTES, person=b"meshd key sum").digest()


# ---- what people say of a key ----


def parse_rate(text: str) -> RateLimit:
    """`10/s`, `100/m` or `1000/h`. Raises UserError (wrong usage)."""
    match = _RATE.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= REQUESTS_MAX:
        raise _wrong(f"--limit {text[:40]!a}: write requests per s, m or h, such as 10/s")
    return RateLimit(int(match[1]), PERIODS_S[match[2]])


def read_policy(told: Mapping[str, Any]) -> KeyPolicy:
    """A policy from its JSON form, as a command asks for it and as the file keeps it.

    Raises UserError (wrong usage) with what is wrong in it.
    """
    name, priority, models = told.get("name"), told.get("priority"), told.get("models")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise _wrong(
            f"key name {str(name)[:80]!a}: use 1 to 63 letters, digits and . _ -, a letter or digit"
            " first"
        )
    if not isinstance(priority, str) or priority not in list(Priority):
        raise _wrong(f"--priority {str(priority)[:40]!a}: choose from {', '.join(Priority)}")
    if not isinstance(models, list) or len(models) > MODELS_MAX:
        raise _wrong(f"--models: a key has at most {MODELS_MAX} patterns")
    for glob in models:
        if not isinstance(glob, str) or not 0 < len(glob) <= GLOB_CHARS_MAX:
            raise _wrong(f"--models: a pattern has 1 to {GLOB_CHARS_MAX} characters")
        if not glob.isprintable():
            raise _wrong("--models: a pattern has unprintable characters")
    is_trusted, limit = told.get("trusted"), told.get("limit")
    if not isinstance(is_trusted, bool):
        raise _wrong("a key is trusted, or is not")
    if limit is not None and not isinstance(limit, str):
        raise _wrong("--limit: write requests per s, m or h, such as 10/s")
    return KeyPolicy(
        name=name,
        priority=Priority(priority),
        models=tuple(models),
        is_trusted=is_trusted,
        limit=None if limit is None else parse_rate(limit),
    )


def write_policy(policy: KeyPolicy) -> dict[str, Any]:
    """The JSON form of a policy."""
    return {
        "name": policy.name,
        "priority": str(policy.priority),
        "models": list(policy.models),
        "trusted": policy.is_trusted,
        "limit": None if policy.limit is None else str(policy.limit),
    }


# ---- the home's keys ----


class ApiKeys:
    """The keys of one home. Whoever changes them holds the home's lock: the daemon that runs on
    it, or a command when none does.
    """

    def __init__(self, home: Home) -> None:
        """Raises UserError when the file is there and makes no sense."""
        self._home = home
        self._keys: Mapping[bytes, ApiKey] = {key.key_hash: key for key in _read(home)}

    def policy(self, key_hash: bytes, wall_s: int) -> KeyPolicy | None:
        """What the key with this hash may do; None when it is unknown or has expired."""
        key = self._keys.get(key_hash)
        return None if key is None or key.has_expired(wall_s) else key.policy

    def count(self, wall_s: int) -> int:
        """How many keys have not expired."""
        return sum(not key.has_expired(wall_s) for key in self._keys.values())

    def rows(self, wall_s: int) -> list[dict[str, Any]]:
        """The keys as commands show them, by name."""
        rows = [
            {
                **write_policy(key.policy),
                "created_at_s": key.created_at_s,
                "expires_at_s": key.expires_at_s,
                "expired": key.has_expired(wall_s),
            }
            for key in self._keys.values()
        ]
        return sorted(rows, key=lambda row: str(row["name"]))

    def create(self, policy: KeyPolicy, *, wall_s: int, expires_at_s: int | None) -> str:
        """A new key's text, which nobody can find out again. Raises UserError.

        An expired key of the same name makes room for it.
        """
        kept = [key for key in self._keys.values() if key.policy.name != policy.name]
        if any(
            key.policy.name == policy.name and not key.has_expired(wall_s)
            for key in self._keys.values()
        ):
            raise UserError(
                f"there is a key named {policy.name} already; choose another name, or revoke that "
                f"one: meshd key revoke {policy.name}"
            )
        if len(kept) >= KEYS_MAX:
            raise UserError(f"there are {KEYS_MAX} keys already; first meshd key revoke NAME")
        text = new_key_text()
        key_hash = hash_of(text)
        assert key_hash is not None
        key = ApiKey(
            key_hash=key_hash, policy=policy, created_at_s=wall_s, expires_at_s=expires_at_s
        )
        self._replace([*kept, key])
        return text

    def revoke(self, name: str) -> None:
        """Refuse a key from now on. Raises UserError."""
        kept = [key for key in self._keys.values() if key.policy.name != name]
        if len(kept) == len(self._keys):
            raise UserError(
                f"this gateway has no key named {name[:80]!a}; see: meshd key list (a key of the "
                "mesh is revoked with --mesh)"
            )
        self._replace(kept)

    def _replace(self, keys: Sequence[ApiKey]) -> None:
        """On disk first: what is counted on here survives a crash. Raises UserError."""
        content = {"version": _VERSION, "keys": [_to_json(key) for key in keys]}
        try:
            self._home.write(self._home.keys, json.dumps(content).encode(), secret=True)
        except OSError as error:
            raise UserError(
                f"cannot write {self._home.keys}: {error.strerror or error}; nothing has changed"
            ) from error
        self._keys = {key.key_hash: key for key in keys}


def _to_json(key: ApiKey) -> dict[str, Any]:
    return {
        **write_policy(key.policy),
        "hash": key.key_hash.hex(),
        "created_at_s": key.created_at_s,
        "expires_at_s": key.expires_at_s,
    }


def _read(home: Home) -> list[ApiKey]:
    try:
        with home.keys.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {home.keys}: {error.strerror}") from error
    try:
        content = json.loads(data)
        if content["version"] != _VERSION:
            raise UserError(f"{home.keys} was written by another version of meshd; update it")
        return [_from_json(row) for row in content["keys"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(home) from error


def _from_json(row: Mapping[str, Any]) -> ApiKey:
    """Raises ValueError, KeyError or TypeError for what `_to_json` did not make."""
    try:
        policy = read_policy(row)
    except UserError as failure:
        raise ValueError(failure.message) from failure
    key_hash, expires_at_s = bytes.fromhex(row["hash"]), row["expires_at_s"]
    if len(key_hash) != 32 or type(row["created_at_s"]) is not int:
        raise ValueError("no key")
    if expires_at_s is not None and type(expires_at_s) is not int:
        raise ValueError("no time")
    return ApiKey(
        key_hash=key_hash,
        policy=policy,
        created_at_s=row["created_at_s"],
        expires_at_s=expires_at_s,
    )


def _damaged(home: Home) -> UserError:
    return UserError(
        f"{home.keys} is damaged; restore it from a backup, or move it away and make new keys with "
        "meshd key create NAME"
    )


def _wrong(message: str) -> UserError:
    return UserError(message, ExitCode.WRONG_USAGE)
