"""How a request is worded for an upstream."""

import json

from runtimes.base import ChatMessage, GenerateRequest
from runtimes.openai.body import body_of, path_of


def test_defaults_are_left_out() -> None:
    """A strict upstream sees only what it knows."""
    request = GenerateRequest(model="m", messages=(ChatMessage(role="user", content="é"),))
    assert path_of(request) == "/chat/completions"
    assert json.loads(body_of(request, "id/1")) == {
        "model": "id/1",
        "messages": [{"role": "user", "content": "é"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_everything_that_was_asked_is_named() -> None:
    """By the names of llama-server and vLLM."""
    request = GenerateRequest(
        model="m",
        prompt="Once",
        max_tokens=5,
        temperature=0.0,
        top_p=0.5,
        top_k=0,
        min_p=0.0,
        seed=0,
        stop=("a", "b"),
        ignore_eos=True,
    )
    assert path_of(request) == "/completions"
    assert json.loads(body_of(request, "m")) == {
        "model": "m",
        "prompt": "Once",
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 0,
        "min_p": 0.0,
        "seed": 0,
        "stop": ["a", "b"],
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
