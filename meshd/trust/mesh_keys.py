"""The one place for API keys that every gateway of the mesh accepts: signed records, not files.

The key's text is as of a home's own keys (`api_keys.py`); the mesh is told its hash and policy.
"""

from typing import Any, Final

from meshd.failures import ExitCode, UserError
from meshd.trust.api_keys import (
    GLOB_CHARS_MAX,
    KeyPolicy,
    Priority,
    RateLimit,
    hash_of,
    new_key_text,
    write_policy,
)
from meshd.trust.decisions import Decisions
from protocol import records
from protocol.authority import Authority
from protocol.issuing import Turn, make_api_key, make_revocation
from protocol.records import ApiKey, Revocation, Target

_PRIORITIES: Final = {
    records.Priority.LOW: Priority.LOW,
    records.Priority.NORMAL: Priority.NORMAL,
    records.Priority.HIGH: Priority.HIGH,
}


class MeshKeys:
    """The API keys that the mesh's records tell of."""

    def __init__(self, authority: Authority, decisions: Decisions) -> None:
        self._authority = authority
        self._decisions = decisions

    def policy(self, key_hash: bytes, wall_s: int) -> KeyPolicy | None:
        """What the key with this hash may do; None when it is unknown, revoked or expired."""
        key = self._authority.api_key(key_hash)
        return None if key is None or _has_expired(key, wall_s) else _policy_of(key)

    def rows(self, wall_s: int) -> list[dict[str, Any]]:
        """The keys as commands show them, by name."""
        rows = [
            {
                **write_policy(_policy_of(key)),
                "created_at_s": None,
                "expires_at_s": key.expires_at_s or None,
                "expired": _has_expired(key, wall_s),
            }
            for key in self._authority.api_keys()
        ]
        return sorted(rows, key=lambda row: str(row["name"]))

    async def create(self, policy: KeyPolicy, *, wall_s: int, expires_at_s: int | None) -> str:
        """A new key's text, in force at this node. Raises UserError."""
        if any(k.name == policy.name for k in self._named(policy.name, wall_s)):
            raise UserError(
                f"the mesh has a key named {policy.name} already; choose another name, or revoke "
                f"that one: meshd key revoke {policy.name} --mesh"
            )
        models = ",".join(policy.models)
        if len(models) > GLOB_CHARS_MAX or any("," in glob for glob in policy.models):
            raise UserError(
                f"--models: a key of the mesh has {GLOB_CHARS_MAX} characters of patterns at most, "
                "and no commas in them",
                ExitCode.WRONG_USAGE,
            )
        text = new_key_text()
        key_hash = hash_of(text)
        assert key_hash is not None
        decider = await self._decisions.ready()
        (priority,) = (ours for ours, theirs in _PRIORITIES.items() if theirs is policy.priority)

        def make(turn: Turn) -> ApiKey:
            return make_api_key(
                decider.seed,
                self._authority.mesh,
                key_hash=key_hash,
                turn=turn,
                name=policy.name,
                requests=policy.limit.requests if policy.limit is not None else 0,
                period_s=policy.limit.period_s if policy.limit is not None else 1,
                priority=priority,
                models=models,
                is_trusted=policy.is_trusted,
                expires_at_s=expires_at_s or 0,
            )

        await self._decisions.put(self._decisions.sign(decider, make))
        return text

    async def revoke(self, name: str, *, wall_s: int) -> None:
        """Refuse all keys of this name from now on, everywhere. Raises UserError."""
        named = self._named(name, wall_s)
        if not named:
            raise UserError(f"the mesh has no key named {name[:80]!a}; see: meshd key list")
        decider = await self._decisions.ready()
        for key in named:

            def make(turn: Turn, key_hash: bytes = key.key_hash) -> Revocation:
                return make_revocation(
                    decider.seed,
                    self._authority.mesh,
                    target=Target.API_KEY,
                    subject=key_hash,
                    turn=turn,
                )

            await self._decisions.put(self._decisions.sign(decider, make))

    def _named(self, name: str, wall_s: int) -> list[ApiKey]:
        keys = self._authority.api_keys()
        return [key for key in keys if key.name == name and not _has_expired(key, wall_s)]


def _has_expired(key: ApiKey, wall_s: int) -> bool:
    return 0 < key.expires_at_s <= wall_s


def _policy_of(key: ApiKey) -> KeyPolicy:
    return KeyPolicy(
        name=key.name,
        priority=_PRIORITIES[key.priority],
        models=tuple(filter(None, key.models.split(","))),
        is_trusted=key.is_trusted,
        limit=RateLimit(key.requests, key.period_s) if key.requests else None,
    )
