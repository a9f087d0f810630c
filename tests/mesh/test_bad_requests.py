"""What apps may send by mistake to a real gateway: the right status, and OpenAI's error object."""

import json
from typing import Any

import pytest

from tests.helpers.daemons import Daemon, chat_body

pytestmark = pytest.mark.processes

PATH = "/v1/chat/completions"


def body(**fields: object) -> dict[str, object]:
    """A good request with these fields in it."""
    return chat_body("words", "Hi", {"max_tokens": 2, **fields})


BAD: dict[str, tuple[object, int, str]] = {
    "malformed JSON": (b'{"model": "words", ', 400, "invalid_json"),
    "no JSON at all": (b"\xff\xfe\x00hello", 400, "invalid_json"),
    "nothing": (b"", 400, "invalid_json"),
    "an array": ([1, 2, 3], 400, "bad_request"),
    "no messages": ({"model": "words"}, 400, "bad_request"),
    "empty messages": (body(messages=[]), 400, "bad_request"),
    "no model": ({"messages": [{"role": "user", "content": "Hi"}]}, 400, "bad_request"),
    "an unknown model": (body(model="absent"), 404, "model_not_found"),
    "a text as number": (body(max_tokens="5"), 400, "bad_request"),
    "no tokens": (body(max_tokens=0), 400, "bad_request"),
    "absurd tokens": (body(max_tokens=2**63), 400, "bad_request"),
    "absurd temperature": (body(temperature=1e308), 400, "bad_request"),
    "nine choices": (body(n=9), 400, "bad_request"),
    "a long prompt": (body(messages=[{"role": "user", "content": "x" * 5000}]), 400, "context"),
    "many messages": (body(messages=[{"role": "user", "content": ""}] * 5000), 400, "bad_request"),
    "deep nesting": (b'{"model":' + b"[" * 100_000, 400, "invalid_json"),
    "many values": (b"[" + b"0," * 300_000 + b"0]", 400, "bad_request"),
    "a huge body": (b" " * (9 * 1024 * 1024), 413, "body_too_large"),
}


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("name", BAD)
def test_bad_bodies(standing: list[Daemon], name: str, index: int) -> None:
    """Where the model is, and where it is not: the same error, which names what is wrong."""
    content, status, code = BAD[name]
    reply = standing[index].request("POST", PATH, content)
    assert reply.status == status, reply
    assert code in reply.error["code"]
    assert reply.error["message"]
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", PATH, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/mesh/v1/nodes", 405, "method_not_allowed"),
        ("BREW", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/models/absent", 404, "model_not_found"),
        ("GET", "/mesh/v1/nodes?all=perhaps", 400, "bad_request"),
    ],
)
def test_wrong_methods_and_paths(
    standing: list[Daemon], method: str, path: str, status: int, code: str
) -> None:
    """Also what is no chat is refused in the same shape."""
    reply = standing[2].request(method, path)
    assert reply.status == status, reply
    assert reply.error["code"] == code
    assert (status == 405) == ("allow" in reply.headers)


def test_strangers_from_the_browser(standing: list[Daemon]) -> None:
    """Another Host (DNS rebinding) and another Origin are refused."""
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        reply = standing[2].request("POST", PATH, body(), **headers)
        assert reply.status == 403
        assert reply.error["type"] == "permission_error"


def test_it_serves_on(standing: list[Daemon]) -> None:
    """After all of it each node still answers."""
    for daemon in standing:
        reply = daemon.request("POST", PATH, json.dumps(body()).encode())
        assert reply.status == 200, reply
        content: dict[str, Any] = reply.json
        assert content["usage"]["completion_tokens"] == 2
