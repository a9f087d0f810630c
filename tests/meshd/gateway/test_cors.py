"""Pages of other sites: closed by default, and what opens for those that are named."""

import json

import pytest
import trio

from meshd.gateway.access import Access, make_access
from meshd.gateway.keyring import Keyring
from meshd.gateway_options import GatewayOptions
from tests.meshd.gateway.fake_mesh import FakeMesh
from tests.meshd.gateway.raw_http import CHAT, Reply, Running, gateway

PAGE = "https://chat.example.org"
CHAT_PATH = "/v1/chat/completions"
BODY = json.dumps(CHAT).encode()


def opened(*origins: str, require_key: bool = False) -> Access:
    """A loopback gateway that these origins may use."""
    options = GatewayOptions(cors_origins=origins, require_key=require_key)
    return make_access(options, None, "127.0.0.1")


async def preflight(running: Running, origin: str, **headers: str) -> Reply:
    """What a browser asks before it lets a page ask."""
    return await running.ask(
        "OPTIONS", CHAT_PATH, b"", origin=origin, access_control_request_method="POST", **headers
    )


def cors_headers(reply: Reply) -> dict[str, str]:
    """Those that speak to browsers."""
    return {name: value for name, value in reply.headers.items() if "access-control" in name}


def test_closed_by_default() -> None:
    """No answer tells a browser anything, not even to pages of this machine, and a foreign page
    reaches no model.
    """

    async def main() -> None:
        mesh = FakeMesh()
        async with gateway(mesh) as running:
            for origin in (PAGE, "null", "http://localhost:3000"):
                for reply in (
                    await preflight(running, origin),
                    await running.ask("GET", "/v1/models", origin=origin),
                    await running.ask("GET", "/nope", origin=origin),
                ):
                    assert not cors_headers(reply)
                    assert "vary" not in reply.headers
            assert (await preflight(running, PAGE)).status == 403
            assert (await running.ask("POST", CHAT_PATH, BODY, origin=PAGE)).status == 403
            assert not mesh.requests

    trio.run(main)


def test_a_preflight_is_answered_for_the_origins_that_are_named() -> None:
    """With the methods and whatever headers it asks for; it needs no key, and runs nothing."""

    async def main() -> None:
        mesh = FakeMesh()
        access = opened(PAGE, require_key=True)
        async with gateway(mesh, access=access, keyring=Keyring(is_required=True)) as running:
            asked = "authorization, content-type, x-stainless-os"
            reply = await preflight(running, PAGE, access_control_request_headers=asked)
            assert (reply.status, reply.body) == (204, b"")
            assert reply.headers["access-control-allow-origin"] == PAGE
            assert reply.headers["vary"] == "origin"
            assert "POST" in reply.headers["access-control-allow-methods"]
            assert reply.headers["access-control-allow-headers"] == asked
            assert "access-control-allow-private-network" not in reply.headers
            assert "access-control-allow-credentials" not in reply.headers
            private = await preflight(running, PAGE, access_control_request_private_network="true")
            assert private.headers["access-control-allow-private-network"] == "true"
            assert not mesh.requests

    trio.run(main)


@pytest.mark.parametrize(
    "origin",
    [
        "http://chat.example.org",
        "https://chat.example.org:8443",
        "https://chat.example.org.evil.example",
        "https://evil.example",
        "https://chat.example.org/",
        "null",
        "",
    ],
)
def test_every_other_origin_stays_out(origin: str) -> None:
    """Another scheme, port, or a name that only begins alike is another site."""

    async def main() -> None:
        mesh = FakeMesh()
        async with gateway(mesh, access=opened(PAGE)) as running:
            for reply in (
                await preflight(running, origin),
                await running.ask("POST", CHAT_PATH, BODY, origin=origin),
            ):
                assert (reply.status, reply.error["code"]) == (403, "forbidden_origin")
                assert "access-control-allow-origin" not in reply.headers
            assert not mesh.requests

    trio.run(main)


def test_every_answer_can_be_read_by_the_page() -> None:
    """Whole, streamed and refused ones; also the headers that say who served."""

    async def main() -> None:
        keyring = Keyring(is_required=True)
        key = f"Bearer {keyring.owner_key}"
        access = opened(PAGE, require_key=True)
        stream = json.dumps({**CHAT, "stream": True}).encode()
        async with gateway(FakeMesh(), access=access, keyring=keyring) as running:
            for status, reply in (
                (401, await running.ask("POST", CHAT_PATH, BODY, origin=PAGE)),
                (200, await running.ask("POST", CHAT_PATH, BODY, origin=PAGE, authorization=key)),
                (200, await running.ask("POST", CHAT_PATH, stream, origin=PAGE, authorization=key)),
                (400, await running.ask("POST", CHAT_PATH, b"{", origin=PAGE, authorization=key)),
                (404, await running.ask("GET", "/nope", origin=PAGE, authorization=key)),
                (200, await running.ask("GET", "/healthz", origin=PAGE)),
            ):
                assert reply.status == status
                assert reply.headers["access-control-allow-origin"] == PAGE
                assert "x-meshd-node" in reply.headers["access-control-expose-headers"]

    trio.run(main)


def test_all_origins_can_be_allowed() -> None:
    """Then a page of any site can ask, and the key decides."""

    async def main() -> None:
        access = opened("*", require_key=True)
        async with gateway(FakeMesh(), access=access, keyring=Keyring(is_required=True)) as running:
            for origin in (PAGE, "null"):
                reply = await preflight(running, origin)
                assert (reply.status, reply.headers["access-control-allow-origin"]) == (204, "*")
                reply = await running.ask("POST", CHAT_PATH, BODY, origin=origin)
                assert (reply.status, reply.headers["access-control-allow-origin"]) == (401, "*")

    trio.run(main)


def test_a_foreign_host_stays_out_whatever_the_origin() -> None:
    """DNS rebinding is no way around, not even for a page that is allowed."""

    async def main() -> None:
        async with gateway(FakeMesh(), access=opened(PAGE)) as running:
            reply = await running.ask("GET", "/v1/models", host="evil.example", origin=PAGE)
            assert (reply.status, reply.error["code"]) == (403, "forbidden_host")

    trio.run(main)
