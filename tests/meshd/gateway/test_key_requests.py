"""Requests with keys against the real gateway: what each may do, and what goes along with it."""

import json
import pathlib

import pytest
import trio

from meshd.gateway.access import Access
from meshd.gateway.keyring import Keyring
from meshd.home import Home
from meshd.trust.api_keys import ApiKeys, KeyPolicy, Priority, RateLimit
from tests.meshd.gateway.fake_mesh import FakeMesh
from tests.meshd.gateway.raw_http import CHAT, Reply, Running, gateway

CHAT_PATH = "/v1/chat/completions"
ROUTES = (
    "/v1/models",
    "/v1/models/org/demo",
    "/mesh/v1/nodes",
    "/mesh/v1/models",
    "/mesh/v1/status",
    "/mesh/v1/jobs",
    "/mesh/v1/events",
    "/mesh/v1/explain/ab",
    "/nope",
    "/",
)


@pytest.fixture
def keys(tmp_path: pathlib.Path) -> ApiKeys:
    home = Home(tmp_path / "home")
    home.create()
    return ApiKeys(home)


def make(keys: ApiKeys, policy: KeyPolicy) -> str:
    """What a client sends for a new key."""
    return f"Bearer {keys.create(policy, wall_s=0, expires_at_s=None)}"


async def chat(running: Running, key: str | None, **headers: str) -> Reply:
    """A chat request."""
    body = json.dumps(CHAT).encode()
    return await running.ask("POST", CHAT_PATH, body, authorization=key, **headers)


def test_everything_but_the_probes_needs_a_key(keys: ApiKeys) -> None:
    """What is there and what is not: without a key nobody learns the difference."""

    async def main() -> None:
        mesh = FakeMesh()
        keyring = Keyring(keys, is_required=True)
        async with gateway(mesh, keyring=keyring) as running:
            for method, path in [("POST", CHAT_PATH), *[("GET", path) for path in ROUTES[:9]]]:
                reply = await running.ask(method, path, b"{" if method == "POST" else b"")
                assert (reply.status, reply.error["code"]) == (401, "invalid_api_key"), path
                assert reply.headers["www-authenticate"] == "Bearer"
            for path in ("/healthz", "/readyz"):
                assert (await running.ask("GET", path)).status == 200
            key = make(keys, KeyPolicy(name="anna"))
            assert (await chat(running, key)).status == 200
            assert (await running.ask("GET", "/v1/models", authorization=key)).status == 200
            assert (await running.ask("GET", "/nope", authorization=key)).status == 404
            assert len(mesh.requests) == 1

    trio.run(main)


def test_the_policy_goes_with_the_request(keys: ApiKeys) -> None:
    """Routing learns the key's name, priority and trust; without a key there is no policy."""

    async def main() -> None:
        mesh = FakeMesh()
        plain = KeyPolicy(name="plain", priority=Priority.HIGH)
        trusted = KeyPolicy(name="trusted", is_trusted=True)
        async with gateway(mesh, keyring=Keyring(keys)) as running:
            for key, header, policy, is_trusted_only in [
                (None, None, None, False),
                (None, "1", None, True),
                (None, "TRUE", None, True),
                (None, "0", None, False),
                (make(keys, plain), None, plain, False),
                (make(keys, trusted), "0", trusted, True),
            ]:
                more = {} if header is None else {"x_meshd_trusted": header}
                assert (await chat(running, key, **more)).status == 200
                options = mesh.requests[-1][1]
                assert (options.policy, options.is_trusted_only) == (policy, is_trusted_only)

    trio.run(main)


def test_a_key_for_some_models_sees_only_those(keys: ApiKeys) -> None:
    """Others are not listed, and not found."""

    async def main() -> None:
        key = make(keys, KeyPolicy(name="small", models=("tiny*",)))
        wide = make(keys, KeyPolicy(name="wide", models=("tiny*", "org/*")))
        async with gateway(FakeMesh(), keyring=Keyring(keys)) as running:
            for path, name in (("/v1/models", "data"), ("/mesh/v1/models", "models")):
                assert (await running.ask("GET", path, authorization=key)).json[name] == []
                assert len((await running.ask("GET", path, authorization=wide)).json[name]) == 1
            told = await running.ask("GET", "/mesh/v1/explain/ab", authorization=key)
            assert (told.status, told.error["code"]) == (404, "unknown_url")
            assert (await running.ask("GET", "/mesh/v1/explain/ab", authorization=wide)).json
            reply = await running.ask("GET", "/v1/models/org/demo", authorization=key)
            assert (reply.status, reply.error["code"]) == (404, "model_not_found")
            assert (await running.ask("GET", "/v1/models/org/demo", authorization=wide)).json

    trio.run(main)


def test_a_key_that_is_used_too_often_waits(keys: ApiKeys) -> None:
    """429 with Retry-After; other keys go on."""

    async def main() -> None:
        mesh = FakeMesh()
        slow = make(keys, KeyPolicy(name="slow", limit=RateLimit(2, 3600)))
        other = make(keys, KeyPolicy(name="other"))
        async with gateway(mesh, keyring=Keyring(keys)) as running:
            assert (await chat(running, slow)).status == 200
            assert (await running.ask("GET", "/v1/models", authorization=slow)).status == 200
            reply = await chat(running, slow)
            assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
            assert reply.error["type"] == "rate_limit_error"
            assert 1700 < int(reply.headers["retry-after"]) <= 1800
            assert (await chat(running, other)).status == 200
            assert len(mesh.requests) == 2

    trio.run(main)


def test_guesses_have_a_limit(keys: ApiKeys) -> None:
    """From one address, many wrong keys come to 429; the right one is served all the same."""

    async def main() -> None:
        right = make(keys, KeyPolicy(name="anna"))
        async with gateway(FakeMesh(), keyring=Keyring(keys, is_required=True)) as running:
            statuses = [(await chat(running, "Bearer wrong")).status for _ in range(15)]
            assert (statuses[0], statuses[-1]) == (401, 429)
            assert int((await chat(running, None)).headers["retry-after"]) >= 1
            assert (await chat(running, right)).status == 200

    trio.run(main)


def test_a_body_without_a_key_is_not_waited_for(keys: ApiKeys) -> None:
    """Strangers cannot fill memory: they are refused by their headers."""

    async def main() -> None:
        access = Access(is_key_required=True)
        keyring = Keyring(keys, is_required=True)
        async with gateway(FakeMesh(), access=access, keyring=keyring) as running:
            reply = await running.ask("POST", CHAT_PATH, content_length=str(8_000_000))
            assert reply.status == 401
            assert reply.headers["connection"] == "close"

    trio.run(main)
