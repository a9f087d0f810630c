"""The demo model behind real daemons: the official client, llama.cpp's own counts, no orphans."""

import contextlib
import functools
import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest

from runtimes.llama.settings import read_settings
from tests.helpers.daemons import Daemon, Daemons, until
from tests.helpers.gateway_client import text_of_event

pytestmark = [
    pytest.mark.processes,
    pytest.mark.llama,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None, reason="needs the extra [llama]"
    ),
]

PROMPTS = ("Once upon a time", "Grüße, 世界! 👩‍👩‍👧", "the " * 200)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """A node with the demo model, and one without any."""
    with Daemons(tmp_path_factory.mktemp("llama")) as daemons:
        nodes = daemons.mesh({"anna": "demo", "bert": "none"}, is_whole=False)
        until("bert knows the model", nodes[1].models, 30.0)
        yield nodes
        daemons.check_logs()


@pytest.fixture(scope="module")
def model(pair: list[Daemon]) -> str:
    """The demo model's name."""
    [name] = pair[1].models()
    return name


@pytest.fixture(params=[0, 1], ids=["where it is", "where it is not"])
def client(pair: list[Daemon], request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """The official client, pointed at one of them."""
    url = f"{pair[request.param].url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """llama-cpp-python's own view of the demo model."""
    from llama_cpp import Llama

    path = str(read_settings("demo", {}).path)
    llama = Llama(path, n_ctx=2048, n_threads=1, n_batch=512, verbose=False)
    yield llama
    llama.close()


def own_prompt(reference: Any, text: str) -> list[int]:  # noqa: ANN401  # an untyped library
    """The tokens of a chat with one turn, by llama.cpp."""
    rendered = (
        "<|begin|><|system|>You answer questions about meshd.<|end|>"
        f"<|user|>{text.strip()}<|end|><|assistant|>"
    )
    tokens: list[int] = reference.tokenize(rendered.encode(), add_bos=False, special=True)
    return tokens


def test_models(client: openai.OpenAI, model: str) -> None:
    """Listed and retrieved, with its owner."""
    [listed] = client.models.list().data
    assert (listed.id, listed.owned_by) == (model, "anna")
    assert client.models.retrieve(model) == listed


@pytest.mark.parametrize("text", PROMPTS)
def test_usage_is_llama_cpps(
    client: openai.OpenAI,
    model: str,
    reference: Any,  # noqa: ANN401  # an untyped library
    text: str,
) -> None:
    """Counts of prompt and completion, streamed and not, ended by length and by the model."""
    prompt_tokens = len(own_prompt(reference, text))
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 17,
    }
    whole = client.chat.completions.create(**asked, extra_body={"ignore_eos": True})
    assert whole.usage is not None
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.model_dump(
        include={"prompt_tokens", "completion_tokens", "total_tokens"}
    ) == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 17,
        "total_tokens": prompt_tokens + 17,
    }
    stream = client.chat.completions.create(
        **asked,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    *chunks, last = stream
    assert all(chunk.usage is None for chunk in chunks)
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (prompt_tokens, 17)


def test_several_choices_compute_their_prompt_once(pair: list[Daemon], model: str) -> None:
    """The second and third know the first one's; each has its own seed, and the sum is told."""
    reply = pair[1].chat(model, "the " * 200, n=3, seed=5, max_tokens=12, ignore_eos=True)
    assert reply.status == 200
    answer = json.loads(reply.body)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(set(texts)) == 3
    assert answer["usage"]["completion_tokens"] == 36
    prompt_tokens = answer["usage"]["prompt_tokens"]
    for index in (1, 2):
        story = pair[1].get(f"/mesh/v1/explain/{reply.headers['x-meshd-request']}-{index}")
        assert story["usage"]["prompt_tokens"] == prompt_tokens > 200
        assert story["usage"]["cached_tokens"] >= prompt_tokens - 64


def test_a_node_tells_what_it_has_read(pair: list[Daemon], model: str) -> None:
    """Who asks another question about the same text knows that it lies there."""
    text = "the other man in the town " * 60

    def held(question: str) -> int:
        reply = pair[1].chat(model, text + question, max_tokens=1)
        assert reply.status == 200
        story = pair[1].get(f"/mesh/v1/explain/{reply.headers['x-meshd-request']}")
        return int(story["candidates"][0]["held_tokens"])

    until("what it has read is told", lambda: held("What did he do?") > 0, 30.0)
    assert held("And then?") >= 256


def test_greedy_text_and_its_count_are_llama_cpps(
    client: openai.OpenAI,
    model: str,
    reference: Any,  # noqa: ANN401  # an untyped library
) -> None:
    """At temperature 0: the text of llama.cpp's own tokens, and as many of them; streamed alike."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPTS[0]}],
        "max_tokens": 40,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    count = whole.usage.completion_tokens

    own: list[int] = []
    for token in reference.generate(own_prompt(reference, PROMPTS[0]), temp=0.0):
        own.append(token)
        if token == reference.token_eos() or len(own) == 40:
            break
    assert count == len(own)
    ended = own[-1] == reference.token_eos()
    assert whole.choices[0].finish_reason == ("stop" if ended else "length")
    expected = reference.detokenize(own[:-1] if ended else own).decode("utf-8", "replace")
    assert text.rstrip("\ufffd") == expected.rstrip("\ufffd")


def test_a_completion_goes_on_where_its_prompt_ends(
    client: openai.OpenAI,
    model: str,
    reference: Any,  # noqa: ANN401  # an untyped library
) -> None:
    """A chat that is written down by hand has the chat's answer, streamed and not; its logprobs
    list the tokens where they are in the text.
    """
    chat = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": PROMPTS[0]}],
        max_tokens=40,
        temperature=0,
    )
    tokens = own_prompt(reference, PROMPTS[0])
    prompt = reference.detokenize(tokens, special=True).decode()
    asked: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**asked, logprobs=2)
    choice = whole.choices[0]
    assert choice.text == chat.choices[0].message.content
    assert choice.finish_reason == chat.choices[0].finish_reason
    assert whole.usage is not None
    assert chat.usage is not None
    assert whole.usage.prompt_tokens == chat.usage.prompt_tokens == len(tokens)
    assert whole.usage.completion_tokens == chat.usage.completion_tokens
    told = choice.logprobs
    assert told is not None
    assert told.tokens
    assert told.text_offset
    placed = zip(told.tokens, told.text_offset, strict=True)
    assert all("\ufffd" in token or choice.text.startswith(token, at) for token, at in placed)
    streamed = client.completions.create(**asked, stream=True)
    assert "".join(piece.choices[0].text for piece in streamed) == choice.text
    short = client.completions.create(
        model=model, prompt="Once", n=2, seed=1, extra_body={"ignore_eos": True}
    )
    assert short.usage is not None
    assert short.usage.completion_tokens == 2 * 16
    assert len({each.text for each in short.choices}) == 2


def test_headers_name_the_node(client: openai.OpenAI, model: str, pair: list[Daemon]) -> None:
    """The client's raw response has them."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )
    assert (raw.headers["x-meshd-node"], raw.headers["x-meshd-node-id"]) == ("anna", pair[0].id)
    assert raw.parse().choices[0].message.role == "assistant"


def test_errors_are_the_clients_own_classes(client: openai.OpenAI, model: str) -> None:
    """Users catch what they always caught."""
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="absent", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=[])
    text = "word " * 100_000
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    assert caught.value.code == "context_length_exceeded"


def workers(daemon: Daemon) -> list[psutil.Process]:
    """The llama.cpp processes of a daemon."""
    found = []
    for child in psutil.Process(daemon.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # and its kind ZombieProcess
            if "runtimes.llama.worker" in child.cmdline():
                found.append(child)
    return found


def test_no_worker_outlives_its_daemon(daemons: Daemons) -> None:
    """kill -9, SIGTERM and SIGSTOP with kill -9: the worker goes too; a killed one comes back."""
    anna = daemons.add("anna", model="demo")
    for how in ("kill", "stop", "kill while it streams"):
        anna.launch().ready()
        until("the model is up", anna.models, 30.0)
        [worker] = workers(anna)
        if how == "kill while it streams":
            [name] = anna.models()
            with anna.stream(name, max_tokens=5_000, ignore_eos=True) as stream:
                stream.first_text()
                anna.kill()
        elif how == "kill":
            anna.kill()
        else:
            assert anna.stop() == 0
        until("the worker is gone", functools.partial(_is_gone, worker), 5.0)


@pytest.mark.parametrize("what", ["daemon", "worker"])
def test_a_broken_answer_goes_on(daemons: Daemons, what: str) -> None:
    """The daemon or its llama.cpp process is killed amid it: another node says to the letter what
    an unbroken run says. (Not up to rounding only: behind its natural end the model is uncertain.)
    """
    exact = "demo,reproducible=1"
    nodes = daemons.mesh({"anna": exact, "bert": exact, "cleo": "none"}, is_whole=False)
    cleo = nodes[2]
    until("both offer it", lambda: list(cleo.models().values()) == ["anna,bert"], 40.0)
    [name] = cleo.models()
    # More than comes before the kill does: so small a model says a token in a millisecond or two.
    asked: dict[str, Any] = {"max_tokens": 1_800, "temperature": 0, "ignore_eos": True}
    unbroken = cleo.chat(name, "What is meshd?", **asked)
    with cleo.stream(name, "What is meshd?", **asked) as stream:
        text = stream.first_text()
        [serving] = [node for node in nodes if node.name == stream.headers["x-meshd-node"]]
        if what == "daemon":
            serving.kill()
        else:
            workers(serving)[0].kill()
        text += "".join(map(text_of_event, stream.events()))
    assert text == unbroken.text
    assert stream.comments[-1].endswith("continuations=1")


def test_a_killed_worker_comes_back(daemons: Daemons) -> None:
    """The daemon lives on, the model is offered again, and chats are answered."""
    anna = daemons.add("anna", model="demo").launch().ready()
    until("the model is up", anna.models, 30.0)
    [name] = anna.models()
    [worker] = workers(anna)
    worker.kill()
    until("there is another one", lambda: workers(anna) not in ([], [worker]), 20.0)
    until("it answers", lambda: anna.chat(name, max_tokens=2).status == 200, 20.0)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it went between the two questions
        return True
