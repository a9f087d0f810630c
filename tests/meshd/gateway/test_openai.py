"""The shapes of answers in the OpenAI dialect."""

import json

from meshd.gateway.openai import ChatCompletion, ChoiceAnswer, model_object
from runtimes.base import Finished
from runtimes.reply_delta import Content
from tests.meshd.gateway.fake_mesh import MODEL_ROW

COMPLETION = ChatCompletion(request_id="ab12", created=5, model="m")


def test_model_object() -> None:
    """A model names its owners and carries what the mesh knows of it."""
    model = model_object(MODEL_ROW, created=7)
    assert model == {
        "id": "org/demo",
        "object": "model",
        "created": 7,
        "owned_by": "anna,bert",
        "meshd": {
            "nodes": ["anna", "bert"],
            "context_tokens": 2048,
            "quantization": "F16",
            "size_bytes": 240_000,
            "runtime": "test",
            "hash": "ab" * 32,
            "tasks": ["generate"],
        },
    }


def test_whole_completion_counts_tokens_as_the_runtime_did() -> None:
    """Usage and finish reason are Finished's, never counted again."""
    deltas = [Content("te"), Content("xt")]
    whole = COMPLETION.whole([ChoiceAnswer(deltas, (), Finished("length", 11, 22))])
    assert whole["id"] == "chatcmpl-ab12"
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": "text",
        "refusal": None,
    }
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 22,
        "total_tokens": 33,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_events_are_one_line_whatever_the_text() -> None:
    """No line separator of any kind, and no half character, breaks an event."""
    text = "a\n\r\u2028\u2029\x85\x0b\ud800"
    event = COMPLETION.events([Content(text)]).decode("ascii")
    assert event.endswith("\n\n")
    assert len(event.splitlines()) == 2
    assert json.loads(event[len("data: ") :])["choices"][0]["delta"] == {"content": text}


def test_usage_comes_only_when_asked_for() -> None:
    """Without include_usage there is no trace of it; with it all other chunks have a null."""
    finished = Finished("stop", 1, 2)
    assert b"usage" not in COMPLETION.opening() + COMPLETION.closing(finished)
    assert COMPLETION.counts([finished]) == b""
    counting = ChatCompletion(request_id="ab12", created=5, model="m", with_usage=True)
    assert b'"usage":null' in counting.opening()
    assert b'"choices":[],"usage":{"prompt_tokens":1' in counting.counts([finished])
