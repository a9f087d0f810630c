"""The one place that finds out which key a request shows, and whether it may go on.

A key comes as `Authorization: Bearer KEY` (OpenAI's clients) or `x-api-key: KEY` (Anthropic's).
Rule 1: one answer to every key that does not count, whether it is wrong, revoked or expired.
Rule 2: a key that counts is never refused for the failures of others at the same address: behind a
proxy or a router, everybody has one.
Rule 3: where no key is needed, what does not look like one of ours is no key: many clients must be
given some text, such as "none".
"""

import ipaddress
from collections.abc import Callable, Mapping
from typing import Final

import trio

from meshd import clock
from meshd.gateway.errors import Refusal
from meshd.gateway.token_bucket import TokenBuckets
from meshd.trust.api_keys import (
    KEY_PREFIX,
    ApiKeys,
    KeyPolicy,
    PolicySource,
    hash_of,
    new_key_text,
    no_policies,
)

FAILURES_BURST: Final = 10
FAILURES_PER_S: Final = 0.2
"""Of one address: as many as a person mistypes, and no more."""
_REFUSED: Final = (
    "This gateway needs a valid API key: send it as 'Authorization: Bearer KEY'; "
    "its owner makes one with: meshd key create NAME"
)


class Keyring:
    """All keys that one gateway accepts, and how much each has been used."""

    def __init__(
        self,
        keys: ApiKeys | None = None,
        *,
        is_required: bool = False,
        mesh_policy: PolicySource = no_policies,
        note: Callable[..., None] = lambda kind, **fields: None,
        now: Callable[[], float] = trio.current_time,
        wall_s: Callable[[], int] = clock.wall_s,
    ) -> None:
        """`mesh_policy` is asked for what is not among `keys`, and judges expiry itself; `note`
        writes to the audit log.
        """
        self._keys = keys
        self._is_required = is_required
        self._mesh_policy = mesh_policy
        self._note = note
        self._now = now
        self._wall_s = wall_s
        self._used = TokenBuckets()
        self._failures = TokenBuckets()
        self.owner_key = new_key_text()
        """For commands of the node's owner, who gets it through the control socket; it lives as
        long as this gateway and has no limits."""
        self._owner_hash = hash_of(self.owner_key)

    def admit(self, headers: Mapping[str, str], source: str | None) -> KeyPolicy | None:
        """What the request with these headers from that address may do; None: everything.

        Raises Refusal: no valid key, too many of those, or too many requests with this one.
        """
        shown = _shown_key(headers)
        if shown is None or not (self._is_required or shown.startswith(KEY_PREFIX)):
            if self._is_required:
                raise self._failure(source)
            return None
        key_hash = hash_of(shown)
        if key_hash is None:
            raise self._failure(source)
        if key_hash == self._owner_hash:
            return None
        policy = self._policy(key_hash)
        if policy is None:
            raise self._failure(source)
        self._count(key_hash, policy)
        self._note("key.used", name=policy.name)
        return policy

    def _policy(self, key_hash: bytes) -> KeyPolicy | None:
        known = None if self._keys is None else self._keys.policy(key_hash, self._wall_s())
        return known if known is not None else self._mesh_policy(key_hash)

    def _count(self, key_hash: bytes, policy: KeyPolicy) -> None:
        """Raises Refusal when the key's limit is reached."""
        limit = policy.limit
        if limit is None:
            return
        wait_s = self._used.take(
            key_hash, self._now(), burst=limit.requests, per_s=limit.requests / limit.period_s
        )
        if wait_s > 0.0:
            raise Refusal(
                "rate_limited",
                f"This API key may make {limit} requests; try again shortly.",
                retry_after_s=wait_s,
            )

    def _failure(self, source: str | None) -> Refusal:
        """What to raise when there is no valid key."""
        self._note("key.refused", address=_neighbourhood(source))
        wait_s = self._failures.take(
            _neighbourhood(source), self._now(), burst=FAILURES_BURST, per_s=FAILURES_PER_S
        )
        if wait_s > 0.0:
            message = "Too many requests without a valid API key came from this address."
            return Refusal("too_many_failures", message, retry_after_s=wait_s)
        return Refusal("unauthorized", _REFUSED, headers=[("www-authenticate", "Bearer")])


def _shown_key(headers: Mapping[str, str]) -> str | None:
    """The key that the request shows; of two, the one that looks like ours."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    bearer = credentials.strip() if scheme.lower() == "bearer" else ""
    other = headers.get("x-api-key", "").strip()
    if other and not bearer.startswith(KEY_PREFIX):
        return other
    return bearer or None


def _neighbourhood(source: str | None) -> str:
    """The address, or of IPv6 its /64: within that, anybody has as many as they like."""
    try:
        address = ipaddress.ip_address((source or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)
