"""What a streamed answer's events mean."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import Finished, RuntimeFailure
from runtimes.openai.reply import Reply
from tests.runtimes.openai.upstream import delta_of, said

END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def take(*events: object) -> tuple[str, Finished]:
    """All text, and the end."""
    reply = Reply()
    text = "".join(reply.take(json.dumps(event).encode()) or "" for event in events)
    return text, reply.finished()


def test_the_upstreams_own_counts_count() -> None:
    """From `usage`, wherever it stands; the last one is right."""
    usage = {"prompt_tokens": 7, "completion_tokens": 9}
    last = {"choices": [], "usage": usage}
    early = {**said("b"), "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    assert take(said("a"), early, END, last) == ("ab", Finished("stop", 7, 9))
    assert take(said("a"), {**said("b"), "usage": None}, {**END, "usage": usage})[1] == Finished(
        "stop", 7, 9
    )


def test_llama_servers_timings_count_where_there_is_no_usage() -> None:
    """What came from its cache is part of the prompt."""
    timings = {"prompt_n": 3, "cache_n": 4, "predicted_n": 2, "predicted_ms": 1.5}
    assert take(said("a"), {**END, "timings": timings})[1] == Finished("stop", 7, 2)
    usage = {"prompt_tokens": 1, "completion_tokens": 5}
    assert take({**END, "usage": usage}, {"timings": timings})[1] == Finished("stop", 1, 5)


@pytest.mark.parametrize("usage", [None, {}, {"completion_tokens": -1}, {"completion_tokens": "9"}])
def test_deltas_are_counted_where_nothing_is_stated(usage: object) -> None:
    """Nonsense is nothing; the opening delta without text is no token."""
    opening = delta_of({"role": "assistant", "content": ""})
    assert take(opening, said("a"), said("b"), {**END, "usage": usage})[1] == Finished("stop", 0, 2)


def test_thoughts_are_tokens_without_text() -> None:
    """They show that the answer is coming."""
    reply = Reply()
    for field in ("reasoning_content", "reasoning"):
        assert reply.take(json.dumps(delta_of({field: "hm"})).encode()) == ""


@pytest.mark.parametrize(
    ("reason", "ours"),
    [("stop", "stop"), ("length", "length"), ("max_tokens", "length"), ("tool_calls", "stop")],
)
def test_reasons(reason: str, ours: str) -> None:
    """Ours are two."""
    assert take({"choices": [{"text": "x", "finish_reason": reason}]})[1].finish_reason == ours


def test_half_characters_are_mended_or_replaced() -> None:
    """Text is always valid Unicode."""
    payload = b'{"choices":[{"delta":{"content":"\\ud83d\\ude00 \\ud83d"}}]}'
    assert Reply().take(payload) == "\N{GRINNING FACE} \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"{", b"[]", b"1", b"null", b"\xff", b"[" * 100_000, b'{"choices":{}}'),
        *(b'{"choices":[1]}', b'{"choices":[{"delta":1}]}', b'{"choices":[{"text":1}]}'),
        *(b'{"error":"x"}', b'{"error":{"message":null}}', b'{"x":' + b"9" * 5000 + b"}"),
    ],
)  # fmt: skip
def test_nonsense_is_crashed(payload: bytes) -> None:
    """One line, whatever came."""
    with pytest.raises(RuntimeFailure) as failed:
        Reply().take(payload)
    assert failed.value.code == "crashed"
    assert failed.value.message.isprintable()


@pytest.mark.parametrize("events", [[], [said("a")], [{"choices": [{"finish_reason": "abort"}]}]])
def test_an_answer_that_has_no_end_is_crashed(events: list[object]) -> None:
    """Half an answer is never taken for a whole one."""
    with pytest.raises(RuntimeFailure) as failed:
        take(*events)
    assert failed.value.code == "crashed"


def test_an_error_in_the_stream_has_its_meaning() -> None:
    """By the code in it, or by its words."""
    for error, code in [
        ({"code": 400, "message": "no"}, "bad_request"),
        ({"code": 429, "message": "no"}, "queue_full"),
        ({"message": "exceeds the available context size"}, "context_too_long"),
        ({"code": "weird", "message": "boom"}, "crashed"),
    ]:
        with pytest.raises(RuntimeFailure) as failed:
            Reply().take(json.dumps({"error": error}).encode())
        assert failed.value.code == code


@given(
    st.dictionaries(st.sampled_from(["choices", "usage", "timings", "error"]), JSON),
    st.lists(st.dictionaries(st.sampled_from(["delta", "text", "finish_reason"]), JSON)),
)
def test_any_event_is_text_or_a_failure(event: dict[str, Any], choices: list[object]) -> None:
    """Nothing else is raised."""
    for content in (event, {"choices": choices}):
        try:
            text = Reply().take(json.dumps(content).encode())
        except RuntimeFailure:
            continue
        assert text is None or text.encode() is not None
