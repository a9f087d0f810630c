"""What an upstream's refusals mean."""

import json

import pytest

from runtimes.openai.failures import from_status, one_line

LONG = "This model's maximum context length is 4096 tokens."


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "temperature must be positive", "bad_request"),
        (422, "field required", "bad_request"),
        (400, LONG, "context_too_long"),
        (400, "Requested tokens (9) exceed context window of 8", "context_too_long"),
        (500, "the request exceeds the available context size", "context_too_long"),
        (413, "", "context_too_long"),
        (401, "Bad key sk-secret", "unavailable"),
        (403, "", "unavailable"),
        (404, "model 'x' not found", "unavailable"),
        (408, "", "unavailable"),
        (307, "", "unavailable"),
        (429, "slow down", "queue_full"),
        (503, "Loading model", "queue_full"),
        (500, "boom", "crashed"),
        (502, LONG, "crashed"),
        (599, "", "crashed"),
        (204, "", "unavailable"),
    ],
)
def test_status_and_words(status: int, message: str, code: str) -> None:
    """OpenAI's error object, and what stands there of it."""
    failure = from_status(status, json.dumps({"error": {"message": message}}).encode())
    assert failure.code == code
    assert failure.message.isprintable()
    if status not in (401, 403):
        assert message in failure.message


def test_a_wrong_key_has_its_mend_and_not_the_upstreams_words() -> None:
    """Some servers repeat the key."""
    failure = from_status(401, b'{"error":{"message":"Incorrect key: sk-secret"}}')
    assert "MESHD_UPSTREAM_KEY" in failure.message
    assert "sk-secret" not in failure.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":"plain"}', "plain"),
        (b'{"message":"top"}', "top"),
        (b'{"detail":[{"msg":"fastapi","loc":["body"]}]}', "fastapi"),
        (b'{"detail":"starlette"}', "starlette"),
        (b"just text\x1b[2J\n", "just text"),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_words_are_found_and_harmless(body: bytes, words: str) -> None:
    """In whatever form servers have them."""
    message = from_status(400, body).message
    assert words in message
    assert message.isprintable()
    assert len(message) < 400


def test_a_page_explains_nothing() -> None:
    """HTML is not shown."""
    assert "<" not in from_status(502, b"<html><h1>Bad Gateway</h1>").message


def test_one_line() -> None:
    """Whatever it was."""
    assert one_line(" a\n\tb\0 ") == "a b"
    assert len(one_line("x" * 10_000)) == 300
