"""Which key a request shows, and whether it may go on."""

import pathlib
from collections.abc import Mapping

import pytest

from meshd.gateway.errors import Refusal, error_body, error_headers, meaning
from meshd.gateway.keyring import FAILURES_BURST, FAILURES_PER_S, Keyring
from meshd.gateway.token_bucket import BUCKETS_MAX
from meshd.home import Home
from meshd.trust.api_keys import ApiKeys, KeyPolicy, RateLimit, hash_of, new_key_text

START_S = 1_700_000_000


class Ring:
    """A keyring over a home's keys, and a clock."""

    def __init__(
        self, folder: pathlib.Path, *, is_required: bool = True, mesh: KeyPolicy | None = None
    ) -> None:
        home = Home(folder / "home")
        home.create()
        self.keys = ApiKeys(home)
        self.now = 0.0
        self.mesh_key = new_key_text()
        known = {hash_of(self.mesh_key): mesh}
        self.ring = Keyring(
            self.keys,
            is_required=is_required,
            mesh_policy=known.get,
            now=lambda: self.now,
            wall_s=lambda: START_S + int(self.now),
        )

    def make(self, name: str = "anna", limit: RateLimit | None = None, expires: int = 0) -> str:
        """A key."""
        policy = KeyPolicy(name=name, limit=limit)
        expires_at_s = START_S + expires if expires else None
        return self.keys.create(policy, wall_s=START_S, expires_at_s=expires_at_s)

    def admit(self, key: str | None, source: str | None = "10.0.0.1") -> str | None:
        """The name of the key's policy."""
        return self.show({} if key is None else {"authorization": f"Bearer {key}"}, source)

    def show(self, headers: Mapping[str, str], source: str | None = "10.0.0.1") -> str | None:
        """The name of the policy of what these headers show."""
        policy = self.ring.admit(headers, source)
        return None if policy is None else policy.name

    def refused(self, key: str | None, source: str | None = "10.0.0.1") -> Refusal:
        """The refusal that must come."""
        with pytest.raises(Refusal) as caught:
            self.admit(key, source)
        return caught.value


@pytest.fixture
def ring(tmp_path: pathlib.Path) -> Ring:
    return Ring(tmp_path)


def test_a_key_is_shown_as_openai_or_as_anthropic_clients_do(ring: Ring) -> None:
    """The scheme's case does not matter; of two texts the one that looks like a key counts."""
    key = ring.make()
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key} "},
        {"x-api-key": key},
        {"authorization": "Bearer none", "x-api-key": key},
        {"authorization": f"Bearer {key}", "x-api-key": "none"},
        {"authorization": f"Basic {key}", "x-api-key": key},
    ):
        assert ring.show(headers) == "anna"


def test_there_is_one_answer_to_every_key_that_does_not_count(ring: Ring) -> None:
    """Wrong, mistyped, revoked, expired, none, or in another scheme: nobody learns which."""
    revoked, expired = ring.make("revoked"), ring.make("expired", expires=5)
    ring.keys.revoke("revoked")
    ring.now = 5.0
    typo = expired[:-1] + ("a" if expired[-1] != "a" else "b")
    answers = set()
    for number, key in enumerate((new_key_text(), typo, revoked, expired, "none", "", "ü", None)):
        refusal = ring.refused(key, f"10.0.1.{number}")
        assert meaning(refusal).status == 401
        answers.add(str((error_body(refusal), error_headers(refusal))))
        if key:
            assert key not in refusal.message
    [answer] = answers
    assert "www-authenticate" in answer
    with pytest.raises(Refusal):
        ring.show({"authorization": f"Basic {ring.make('basic')}"}, "10.0.2.1")


def test_a_revoked_key_is_refused_from_the_next_request_on(ring: Ring) -> None:
    """Without a restart."""
    key = ring.make()
    assert ring.admit(key) == "anna"
    ring.keys.revoke("anna")
    assert ring.refused(key).code == "unauthorized"


def test_where_no_key_is_needed_one_that_is_shown_counts(tmp_path: pathlib.Path) -> None:
    """Its limits hold, and a wrong one is refused; what clients say for want of one is none."""
    ring = Ring(tmp_path, is_required=False)
    key = ring.make(limit=RateLimit(1, 60))
    for text in (None, "none", "ollama", "sk-proj-abc", ""):
        assert ring.admit(text) is None
    assert ring.admit(key) == "anna"
    assert ring.refused(key).code == "rate_limited"
    assert ring.refused(new_key_text()).code == "unauthorized"
    assert ring.refused("meshd-sk-x").code == "unauthorized"


def test_the_owners_key_may_do_everything(ring: Ring) -> None:
    """It is another one in each gateway, and in no table."""
    assert ring.admit(ring.ring.owner_key) is None
    assert Keyring().owner_key != Keyring().owner_key
    assert ring.keys.rows(START_S) == []


def test_the_mesh_is_asked_for_what_the_home_does_not_know(tmp_path: pathlib.Path) -> None:
    """Its policy counts, limits included."""
    ring = Ring(tmp_path, mesh=KeyPolicy(name="all-over", limit=RateLimit(1, 1)))
    assert ring.admit(ring.mesh_key) == "all-over"
    assert ring.refused(ring.mesh_key).code == "rate_limited"
    ring.now = 1.0
    assert ring.admit(ring.mesh_key) == "all-over"
    assert ring.refused(new_key_text()).code == "unauthorized"


def test_a_limit_says_when_to_come_back(ring: Ring) -> None:
    """A burst, then the rate; each key for itself; who comes back in time is served."""
    slow, free = ring.make("slow", RateLimit(3, 60)), ring.make("free")
    for _ in range(3):
        assert ring.admit(slow) == "slow"
    refusal = ring.refused(slow)
    assert meaning(refusal).status == 429
    assert error_body(refusal)["error"]["code"] == "rate_limit_exceeded"  # type: ignore[index]  # JSON
    assert dict(error_headers(refusal))["retry-after"] == "20"
    assert all(ring.admit(free) == "free" for _ in range(100))
    ring.now = 20.0
    assert ring.admit(slow) == "slow"
    assert ring.refused(slow).retry_after_s == pytest.approx(20.0)


def test_failures_have_a_limit_by_address(ring: Ring) -> None:
    """Others are not touched by it, nor is who has a key, though it has the same address."""
    key = ring.make()
    for _ in range(FAILURES_BURST):
        assert ring.refused("wrong").code == "unauthorized"
    refusal = ring.refused("wrong")
    assert meaning(refusal).status == 429
    assert int(dict(error_headers(refusal))["retry-after"]) == 1 / FAILURES_PER_S
    assert ring.refused(None).code == "too_many_failures"
    assert ring.refused("wrong", "10.0.0.2").code == "unauthorized"
    assert ring.admit(key) == "anna"
    ring.now = 1 / FAILURES_PER_S
    assert ring.refused("wrong").code == "unauthorized"


def test_an_address_is_what_one_machine_can_choose(ring: Ring) -> None:
    """All of an IPv6 /64 is one; IPv4 is the same on a socket of both kinds."""
    for number in range(FAILURES_BURST):
        ring.refused("wrong", f"2001:db8:1:2::{number:x}")
        ring.refused("wrong", "::ffff:10.0.0.1" if number % 2 else "10.0.0.1")
    assert ring.refused("wrong", "2001:db8:1:2:ffff::%eth0").code == "too_many_failures"
    assert ring.refused("wrong", "2001:db8:1:3::1").code == "unauthorized"
    assert ring.refused("wrong", "10.0.0.1").code == "too_many_failures"
    assert ring.refused("wrong", None).code == "unauthorized"


def test_a_flood_of_addresses_costs_bounded_memory(ring: Ring) -> None:
    """The table of failures does not grow beyond its limit."""
    for number in range(BUCKETS_MAX + 100):
        ring.refused("wrong", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(ring.ring._failures) == BUCKETS_MAX
