"""`meshd explain`: why a request went where it went, as text and as JSON."""

import json
import pathlib
from typing import Any

import pytest

from meshd.cli.app import run
from meshd.home import Home
from tests.meshd.cli.running_daemon import Recorder, answering, daemon_on

CANDIDATE: dict[str, Any] = {
    "node": "desk",
    "id": "aaaa",
    "total_ms": 1234.5,
    "wait_ms": 0.0,
    "load_ms": 0.0,
    "prefill_ms": 200.0,
    "decode_ms": 1034.0,
    "round_trip_ms": 0.5,
    "retry_ms": 0.0,
    "is_speed_known": False,
    "had_conversation": True,
    "held_tokens": 512,
    "may_be_too_long": True,
    "failed_lately": False,
    "own_requests": 1,
    "load": None,
}
ATTEMPT: dict[str, Any] = {
    "node": "desk",
    "id": "aaaa",
    "is_continuation": False,
    "tokens_before": 0,
    "tokens": 7,
    "asked_s": 0.0,
    "started_s": 0.1,
    "first_token_s": None,
    "ended_s": 2.0,
    "failure": {"code": "unavailable", "reason": "it fell \x1b[2Jsilent"},
}
TOLD: dict[str, Any] = {
    "request": "ab",
    "model": "demo",
    "time": 1_700_000_000,
    "state": "done",
    "policy": "fastest",
    "expected": {"prompt_tokens": 10, "output_tokens": 200, "priority": 1},
    "candidates": [CANDIDATE],
    "left_out": [{"node": "far", "id": "bbbb", "reason": "it is under suspicion"}],
    "attempts": [
        ATTEMPT,
        {**ATTEMPT, "node": "attic", "is_continuation": True, "failure": None},
        {**ATTEMPT, "node": "shed", "ended_s": None, "failure": None},
    ],
    "attempts_forgotten": 0,
    "continuations": 1,
    "duration_s": 2.5,
    "usage": {
        "finish_reason": "stop",
        "prompt_tokens": 9,
        "completion_tokens": 11,
        "cached_tokens": 0,
    },
    "error": None,
}
NOTHING: dict[str, Any] = {
    **TOLD,
    "state": "failed",
    "policy": None,
    "expected": None,
    "candidates": [],
    "left_out": [],
    "attempts": [],
    "usage": None,
    "continuations": 0,
    "error": {"code": "model_not_found", "message": "No node offers the model 'x'."},
}


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return Home(tmp_path)


def _shown(home: Home, told: dict[str, Any], *options: str) -> int:
    with daemon_on(home, {"explain": answering(told)}):
        return run(["explain", "ab", "--home", str(home.path), *options])


def test_the_story_is_told_in_words(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Candidates with what was expected, who was left out, each attempt and how it ended."""
    assert _shown(home, TOLD) == 0
    story = capsys.readouterr().out
    for words in (
        "request ab for demo: done",
        "9 prompt and 11 completion tokens, ended by stop, after 2.50 s",
        "went on elsewhere once",
        "ranked by fastest",
        "speed unknown, has the conversation, holds 512 tokens",
        "not asked: far, it is under suspicion",
        "attic (continues)",
        "at work",
    ):
        assert words in story
    assert "\x1b" not in story, "what nodes say steers no terminal"


def test_a_request_that_went_nowhere_is_told_too(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """With why."""
    assert _shown(home, NOTHING) == 0
    assert capsys.readouterr().out == (
        "request ab for demo: failed\nmodel_not_found: No node offers the model 'x'.\n"
    )


def test_as_json_it_is_what_the_daemon_says(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """And the daemon is asked for that very request."""
    recorder = Recorder(TOLD)
    with daemon_on(home, {"explain": recorder}):
        assert run(["explain", "ab", "--home", str(home.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == TOLD
    assert recorder.asked == [{"request": "ab"}]
