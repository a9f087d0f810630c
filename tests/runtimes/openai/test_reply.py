"""What a streamed answer's events mean."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import Finished, RuntimeFailure
from runtimes.openai.reply import Reply
from runtimes.reply_delta import CallArguments, CallBegin, Content, Thoughts
from runtimes.reply_form import ReplyForm
from runtimes.reply_parser import ReplyParser
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


def marked(*deltas: dict[str, Any], reason: str = "tool_calls") -> str:
    """All text of an answer where markers are wanted."""
    reply = Reply(with_markers=True)
    events = [*map(delta_of, deltas), {"choices": [{"delta": {}, "finish_reason": reason}]}]
    return "".join(reply.take(json.dumps(event).encode()) or "" for event in events)


def call(name: str | None, arguments: str, index: int = 0) -> dict[str, Any]:
    """A delta with some of a call."""
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": f"c{index}", "function": function}]}


def read(text: str) -> tuple[str, str, list[list[str]]]:
    """Thoughts, content and calls in a text, as the gateway reads them."""
    thoughts = content = ""
    calls: list[list[str]] = []
    parser = ReplyParser(ReplyForm("hermes", "may"), {"look": "{}", "put": "{}"})
    for delta in [*parser.push(text), *parser.finish()]:
        match delta:
            case Thoughts(more):
                thoughts += more
            case Content(more):
                content += more
            case CallBegin(_, name):
                calls.append([name, ""])
            case CallArguments(index, more):
                calls[index][1] += more
    return thoughts, content, calls


def test_thoughts_and_calls_are_written_as_hermes_writes_them() -> None:
    """So the gateway reads them as those of any model."""
    text = marked(
        {"role": "assistant", "content": None},
        {"reasoning_content": "Wh"},
        {"reasoning": "ere?"},
        {"content": "Let me "},
        {"content": "see."},
        call("look", ""),
        call(None, '{"at": "'),
        call(None, '}é"}'),
        call("put", "", 1),
        call("look", "{}", 2),
    )
    assert read(text) == (
        "Where?",
        "Let me see.",
        [["look", '{"at": "}é"}'], ["put", "{}"], ["look", "{}"]],
    )


@pytest.mark.parametrize(
    ("deltas", "found"),
    [
        (({"reasoning": "hm"},), ("hm", "", [])),
        (({"content": "a"}, {"reasoning": "hm"}, {"content": "b"}), ("", "ab", [])),
        (({"content": "a"},), ("", "a", [])),
        ((call("look", '{"a": '),), ("", "</tool_call>", [["look", '{"a": }']])),
        ((call("eat", "{}"),), ("", '<tool_call>{"name": "eat", "arguments": {}}</tool_call>', [])),
    ],
)
def test_what_comes_in_another_order_or_is_cut(
    deltas: tuple[dict[str, Any], ...], found: tuple[str, str, list[list[str]]]
) -> None:
    """Thoughts in the middle are none of the text; a call that is broken stays one."""
    assert read(marked(*deltas)) == found


def test_a_call_that_is_cut_short_stays_so() -> None:
    """No tokens were left: nothing is made up to close it."""
    cut = marked(call("look", '{"a": '), reason="length")
    assert read(cut) == ("", "", [["look", '{"a": ']])


def test_without_markers_calls_are_no_text() -> None:
    """As ever."""
    reply = Reply()
    assert reply.take(json.dumps(delta_of(call("look", "{}"))).encode()) is None


@pytest.mark.parametrize(
    "calls",
    [
        5,
        "x",
        {"a": 1},
        [5],
        [{}],
        [{"function": 5}],
        [{"function": {"name": 5}}],
        [{"function": {}}],
    ],
)
def test_calls_that_make_no_sense_are_crashed(calls: object) -> None:
    """One line, whatever came."""
    with pytest.raises(RuntimeFailure) as failed:
        marked({"tool_calls": calls})
    assert failed.value.code == "crashed"


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["content", "reasoning", "tool_calls", "function", "name"]), JSON
        )
    )
)
def test_any_deltas_are_text_or_a_failure(deltas: list[dict[str, Any]]) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(RuntimeFailure):
        marked(*deltas).encode()
