"""Two real models on a node with memory for one, asked through another node."""

import functools
import importlib.util
import pathlib
from typing import Any

import pytest

from tests.helpers.daemons import Daemon, Daemons, start_together, until, wait_whole
from tests.helpers.gateway_client import text_of_event

pytestmark = [
    pytest.mark.processes,
    pytest.mark.llama,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None, reason="needs the extra [llama]"
    ),
]
MEMORY = "100MB"
"""One of the models needs about 65 MB."""


@pytest.fixture
def pair(daemons: Daemons, tmp_path: pathlib.Path) -> list[Daemon]:
    """Anna has two models, of which `first` is loaded, `second` is not, and a file that is none;
    Bert has none.
    """
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build

    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("first", "second"):
        build.write(folder / f"{name}.gguf")
    (folder / "third.gguf").write_bytes(b"no model")
    anna = daemons.add("anna", "--model-memory", MEMORY, model=f"{folder}")
    nodes = [anna, daemons.add("bert")]
    start_together(anna, nodes[1:])
    wait_whole(nodes)
    until("bert knows both", functools.partial(_knows_both, nodes[1]), 40.0)
    until("the first is loaded", lambda: states(anna)["first"] == "ready", 40.0)
    return nodes


def _knows_both(daemon: Daemon) -> bool:
    return sorted(daemon.models()) == ["first", "second"]


def states(daemon: Daemon) -> dict[str, str]:
    """How its models are doing, by name."""
    return {row["name"]: row["state"] for row in daemon.cli_json("models", "--local")["models"]}


def loaded(daemon: Daemon) -> dict[str, list[str]]:
    """Where each model is in memory, as it sees the mesh."""
    return {row["name"]: row["loaded"] for row in daemon.get("/mesh/v1/models")["models"]}


def test_a_cold_model_is_loaded_when_it_is_asked_for(pair: list[Daemon]) -> None:
    """Over two hops, in place of the idle one, which comes back in the same way; a file that is no
    model says why.
    """
    anna, bert = pair
    rows: dict[str, dict[str, Any]] = {
        row["name"]: row for row in anna.cli_json("models", "--local")["models"]
    }
    assert {name: row["state"] for name, row in rows.items()} == {
        "first": "ready",
        "second": "cold",
        "third": "unusable",
    }
    assert "is no GGUF file" in rows["third"]["reason"]
    assert rows["second"]["quantization"] == rows["first"]["quantization"] == "F16"
    assert rows["second"]["needed_bytes"] == rows["first"]["needed_bytes"] > 40_000_000
    answers = [bert.chat(name, seed=3, max_tokens=9) for name in ("first", "second", "first")]
    assert [answer.status for answer in answers] == [200] * 3
    assert answers[0].text == answers[1].text == answers[2].text
    assert states(anna) == {"first": "ready", "second": "cold", "third": "unusable"}
    until("bert knows it", lambda: loaded(bert) == {"first": ["anna"], "second": []}, 10.0)
    table = anna.cli("models", "--local").stdout
    assert "is no GGUF file" in table


def test_who_does_not_wait_gets_503_and_finds_it_loaded_later(pair: list[Daemon]) -> None:
    """With the time that it takes."""
    anna, bert = pair
    body = {"model": "second", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    ask = functools.partial(bert.request, "POST", "/v1/chat/completions", body)
    refused = ask(**{"x-meshd-wait": "0"})
    assert refused.status == 503
    assert refused.json["error"]["code"] == "model_loading"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    until("it is loaded", lambda: states(anna)["second"] == "ready", 20.0)
    assert ask(**{"x-meshd-wait": "0"}).status == 200
    assert ask(**{"x-meshd-wait": "maybe"}).status == 400


def test_no_answer_is_broken_off_for_another_model(pair: list[Daemon]) -> None:
    """Who asks for the other one meanwhile waits until it has ended, or is refused at once."""
    anna, bert = pair
    with bert.stream("first", max_tokens=400, ignore_eos=True) as stream:
        stream.first_text()
        body = {"model": "second", "messages": [{"role": "user", "content": "Hi"}]}
        hurried = bert.request("POST", "/v1/chat/completions", body, **{"x-meshd-wait": "0"})
        assert (hurried.status, hurried.json["error"]["code"]) == (503, "model_loading")
        assert bert.chat("second", max_tokens=2).status == 200
        events = list(stream.events())
    assert any(map(text_of_event, events))
    assert stream.comments[-1].endswith("continuations=0")
    assert states(anna) == {"first": "cold", "second": "ready", "third": "unusable"}
