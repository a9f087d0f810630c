"""Routes, methods, guards and limits, over real TCP."""

import contextlib
import json
import logging

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.failures import RequestFailed
from meshd.gateway.access import Access
from meshd.gateway.guard import Guard
from meshd.gateway.limits import Limits
from tests.meshd.gateway.fake_mesh import MODEL_ROW, FakeMesh
from tests.meshd.gateway.raw_http import CHAT, chat_bytes, gateway, read_reply, request_bytes


def test_models_are_listed_and_found_by_name() -> None:
    """The list and the single model agree; names with a slash work, also percent-encoded."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            listed = (await running.ask("GET", "/v1/models")).json
            assert listed["object"] == "list"
            [model] = listed["data"]
            assert model["id"] == MODEL_ROW["name"]
            for path in ("/v1/models/org/demo", "/v1/models/org%2Fdemo"):
                assert (await running.ask("GET", path)).json == model
            missing = await running.ask("GET", "/v1/models/%ff%00%22x")
            assert missing.status == 404
            assert missing.error["code"] == "model_not_found"

    trio.run(main)


def test_mesh_routes() -> None:
    """Nodes, old nodes on demand, status."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            nodes = (await running.ask("GET", "/mesh/v1/nodes")).json
            assert [row["name"] for row in nodes["nodes"]] == ["anna"]
            nodes = (await running.ask("GET", "/mesh/v1/nodes?all=1")).json
            assert [row["name"] for row in nodes["nodes"]] == ["anna", "carl"]
            wrong = await running.ask("GET", "/mesh/v1/nodes?all=maybe")
            assert (wrong.status, wrong.error["param"]) == (400, "all")
            assert (await running.ask("GET", "/mesh/v1/status")).json["node"] == "anna"
            jobs = (await running.ask("GET", "/mesh/v1/jobs")).json
            assert jobs == {"jobs": [{"id": "j1", "state": "done"}]}
            models = (await running.ask("GET", "/mesh/v1/models")).json["models"]
            assert all({"name", "hash", "nodes"} <= row.keys() for row in models)
            assert models

    trio.run(main)


def test_requests_are_explained_by_their_id() -> None:
    """One that nobody remembers is 404."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            told = (await running.ask("GET", "/mesh/v1/explain/ab")).json
            assert told == {"request": "ab", "model": MODEL_ROW["name"]}
            unknown = await running.ask("GET", "/mesh/v1/explain/%1b[2J")
            assert (unknown.status, unknown.error["code"]) == (404, "unknown_url")

    trio.run(main)


def test_probes() -> None:
    """A node that is not ready is still healthy."""

    async def main() -> None:
        mesh = FakeMesh(ready=False)
        async with gateway(mesh) as running:
            health = await running.ask("GET", "/healthz")
            assert (health.status, health.json) == (200, {"status": "ok"})
            assert (await running.ask("GET", "/readyz")).status == 503
            mesh.ready = True
            assert (await running.ask("GET", "/readyz")).status == 200
            assert (await running.ask("HEAD", "/healthz")).body == b""

    trio.run(main)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("DELETE", "/v1/models", 405, "GET, HEAD"),
        ("POST", "/healthz", 405, "GET, HEAD"),
        ("BREW", "/v1/chat/completions", 405, "POST"),
        ("GET", "/", 404, None),
        ("GET", "/v1/models/", 404, None),
        ("GET", "/v1//chat/completions", 404, None),
        ("POST", "/v1/chat/completions/", 404, None),
        ("GET", "http://localhost/healthz", 404, None),
        ("GET", "/../../etc/passwd", 404, None),
        ("OPTIONS", "*", 404, None),
        ("CONNECT", "localhost:22", 404, None),
    ],
)
def test_wrong_method_and_unknown_path(
    method: str, path: str, status: int, allow: str | None
) -> None:
    """Both are errors in the API's own shape; a wrong method says which are right."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            reply = await running.ask(method, path)
            assert reply.status == status
            assert reply.headers.get("allow") == allow
            assert reply.error["type"] == "invalid_request_error"

    trio.run(main)


def test_dns_rebinding_and_foreign_pages_are_refused() -> None:
    """A foreign Host or Origin reaches no route, not even the probes."""

    async def main() -> None:
        async with gateway(FakeMesh(), access=Access(guard=Guard(["box.lan"]))) as running:
            for path in ("/healthz", "/v1/models", "/nope"):
                reply = await running.ask("GET", path, host="evil.example")
                assert (reply.status, reply.error["code"]) == (403, "forbidden_host")
            reply = await running.ask("GET", "/v1/models", origin="https://evil.example")
            assert (reply.status, reply.error["code"]) == (403, "forbidden_origin")
            body = json.dumps(CHAT).encode()
            reply = await running.ask(
                "POST", "/v1/chat/completions", body, origin="null", content_type="text/plain"
            )
            assert reply.status == 403
            assert (await running.ask("GET", "/healthz", host="box.lan:80")).status == 200

    trio.run(main)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"", 400, None),
        (json.dumps({"messages": CHAT["messages"]}).encode(), 400, "model"),
        (json.dumps({**CHAT, "max_tokens": -1}).encode(), 400, "max_tokens"),
        (json.dumps({**CHAT, "model": "absent"}).encode(), 404, None),
    ],
)
def test_bad_bodies(body: bytes, status: int, param: str | None) -> None:
    """Errors of the parser and of the mesh arrive in the API's shape."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            reply = await running.ask("POST", "/v1/chat/completions", body)
            assert reply.status == status
            assert reply.error["param"] == param

    trio.run(main)


def test_wrong_content_type_is_tolerated() -> None:
    """JSON is JSON, whatever the client calls it; absent is fine too."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            body = json.dumps(CHAT).encode()
            for kind in (None, "text/plain", "application/x-www-form-urlencoded", "\xff"):
                reply = await running.ask("POST", "/v1/chat/completions", body, content_type=kind)
                assert reply.status == 200

    trio.run(main)


@pytest.mark.parametrize(
    ("failure", "status", "retry_after"),
    [
        (RequestFailed("queue_full", "full"), 503, "1"),
        (RequestFailed("unavailable", "none", retry_after_s=3), 503, "3"),
        (RequestFailed("timeout", "late"), 504, None),
        (RequestFailed("context_too_long", "long"), 400, None),
        (ExceptionGroup("", [RequestFailed("interrupted", "broken")]), 502, None),
    ],
)
def test_failures_of_the_mesh(failure: Exception, status: int, retry_after: str | None) -> None:
    """Each has its status, streamed or not, and says when to come back."""

    async def main() -> None:
        async with gateway(FakeMesh(refuse=failure)) as running:
            for stream in (False, True):
                reply = await running.chat(stream=stream)
                assert reply.status == status
                assert reply.headers.get("retry-after") == retry_after
                assert reply.headers["content-type"] == "application/json"
                assert reply.error["message"]

    trio.run(main)


def test_surprises_are_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is a 500 with the request's id; the traceback is in the log only."""

    async def main() -> None:
        async with gateway(FakeMesh(refuse=KeyError("secret"))) as running:
            reply = await running.chat()
            assert (reply.status, reply.error["code"]) == (500, "internal_error")
            assert b"secret" not in reply.body
            request_id = reply.headers["x-meshd-request"]
            assert request_id in reply.error["message"]
            [record] = [record for record in caplog.records if record.exc_info]
            assert request_id in record.getMessage()
            assert (await running.ask("GET", "/healthz")).status == 200

    with caplog.at_level(logging.WARNING):
        trio.run(main)


def test_prompts_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not even at debug level does the log hold what was asked or answered."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            await running.chat(messages=[{"role": "user", "content": "private words"}])

    with caplog.at_level(logging.DEBUG, logger="meshd"):
        trio.run(main)
    assert "gateway.request" in caplog.text
    assert "private" not in caplog.text
    assert "Hel" not in caplog.text


def test_too_many_requests_at_one_time() -> None:
    """Beyond the limit: 503 with Retry-After; probes are still answered; places come back."""

    async def main() -> None:
        gate = trio.Event()
        mesh = FakeMesh(accept_after=gate)
        async with gateway(mesh, Limits(requests_max=1, linger_s=0.2)) as running:
            async with await running.connect() as first:
                await first.send_all(chat_bytes())
                await mesh.entered.wait()
                reply = await running.chat()
                assert (reply.status, reply.headers["retry-after"]) == (503, "1")
                assert reply.error["code"] == "overloaded"
                assert (await running.ask("GET", "/healthz")).status == 200
                gate.set()
                assert (await read_reply(first)).status == 200
            assert (await running.chat()).status == 200

    trio.run(main)


def test_many_requests_over_one_connection() -> None:
    """Connections are kept alive through answers of every kind."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running, await running.connect() as stream:
            for request, status in [
                (chat_bytes(), 200),
                (request_bytes("GET", "/v1/models"), 200),
                (chat_bytes(stream=True), 200),
                (request_bytes("GET", "/nope"), 404),
                (chat_bytes(model=""), 400),
                (chat_bytes(), 200),
            ]:
                await stream.send_all(request)
                reply = await read_reply(stream)
                assert reply.status == status
                assert reply.headers.get("connection") != "close"

    trio.run(main)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_any_body_over_http(bodies: list[bytes]) -> None:
    """Whatever is posted: an error of the API's shape or an answer, never a 500."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            for body in bodies:
                reply = await running.ask("POST", "/v1/chat/completions", body)
                assert reply.status == 200 or (reply.status < 500 and reply.error)

    trio.run(main)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_any_bytes_on_the_socket(inputs: list[bytes]) -> None:
    """What is no HTTP closes its own connection and nothing else, without a warning."""

    async def main() -> None:
        async with gateway(FakeMesh(), Limits(linger_s=0.1)) as running:
            for data in [*inputs, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01" * 99]:
                async with await running.connect() as stream:
                    with contextlib.suppress(trio.BrokenResourceError):
                        await stream.send_all(data)
                        await stream.send_eof()
                        while await stream.receive_some(65536):
                            pass
            assert (await running.ask("GET", "/healthz")).status == 200

    trio.run(main)
