"""`meshd chat`: prompts from everywhere, answers as they come, failures as one line."""

import contextlib
import hashlib
import io
import json
import pathlib
import ssl
import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshd.cli import chat, terminal
from meshd.cli.app import run
from meshd.home import Home
from tests.helpers.certificates import make_certificate
from tests.meshd.cli.fake_gateway import DONE, FakeGateway, gateway_running, text_event
from tests.meshd.cli.running_daemon import answering, daemon_on

TIMEOUT_S = 20.0
EMBEDDER = {"name": "bert", "tasks": ["embed"]}


def door(url: str) -> dict[str, str | None]:
    """What a daemon says of a gateway that needs neither key nor certificate."""
    return {"url": url, "key": None, "fingerprint": None}


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def gateway(home: Home) -> Iterator[FakeGateway]:
    """A daemon on `home` with a gateway, two models, and one that does not chat."""
    with gateway_running() as gateway:
        handlers = {
            "gateway": answering(door(gateway.url)),
            "models": answering(
                {
                    "models": [
                        EMBEDDER,
                        {"name": "demo", "ready_in_s": 0.0},
                        {"name": "qwen", "ready_in_s": 41},
                    ]
                }
            ),
        }
        with daemon_on(home, handlers):
            yield gateway


def _chat(home: Home, *arguments: str) -> int:
    return run(["chat", "--home", str(home.path), *arguments])


def test_an_answer_is_printed_and_its_node_named_beside(
    home: Home, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text alone is standard output; who gave it is a remark; the first that chats is asked."""
    assert _chat(home, "Hi there") == 0
    assert gateway.asked == [
        {
            "model": "demo",
            "messages": [{"role": "user", "content": "Hi there"}],
            "stream": True,
        }
    ]
    said = capsys.readouterr()
    assert said.out == "Hello\n"
    assert said.err == "(demo on far)\n"


@pytest.mark.parametrize("model", ["demo", "unheard-of"])
def test_the_model_can_be_chosen(home: Home, gateway: FakeGateway, model: str) -> None:
    """--model goes to the gateway as it is; the gateway knows what there is."""
    assert _chat(home, "Hi", "--model", model) == 0
    assert gateway.asked[0]["model"] == model


def test_who_waits_for_a_load_is_told_so(
    home: Home, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """And how long it takes, before the answer."""
    assert _chat(home, "Hi", "--model", "qwen") == 0
    assert gateway.asked[0]["model"] == "qwen"
    said = capsys.readouterr()
    assert said.out == "Hello\n"
    assert said.err.startswith("(qwen is loaded first, which takes about 41 s)\n")


def test_json_is_one_object(
    home: Home, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs get the whole answer, and who gave it, in one line."""
    assert _chat(home, "Hi", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": "demo",
        "node": "far",
        "text": "Hello",
        "finish_reason": "stop",
    }


def test_a_pipe_is_the_prompt(home: Home, gateway: FakeGateway) -> None:
    """Standard input that is no terminal is the prompt, in a real process."""
    done = subprocess.run(
        [sys.executable, "-m", "meshd", "chat", "--home", str(home.path)],
        input=b"Hi\xff\nthere\n",
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"Hello\n")
    assert gateway.asked[0]["messages"] == [{"role": "user", "content": "Hi\ufffd\nthere\n"}]


@pytest.mark.parametrize("arguments", [[""], [" \n"], ["--json", ""]])
def test_an_empty_prompt_is_wrong_usage(home: Home, arguments: list[str]) -> None:
    """Nothing to say is said before the daemon is asked."""
    assert _chat(home, *arguments) == 2


def _type(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `text` be typed on a terminal."""
    typed = io.StringIO(text)
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)


@pytest.mark.parametrize("end", ["/quit\nnever\n", ""])
def test_a_conversation_remembers_its_turns(
    end: str,
    home: Home,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each turn carries those before it; /quit and the end of input end it, with 0."""
    _type(f"one\n\ntwo\n{end}", monkeypatch)
    assert _chat(home) == 0
    assert [len(asked["messages"]) for asked in gateway.asked] == [1, 3]
    assert gateway.asked[1]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "two"},
    ]
    assert capsys.readouterr().out.count("Hello\n") == 2


def test_a_conversation_forgets_its_oldest_turns(
    home: Home, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory has a limit, and what stays begins with something the person said."""
    monkeypatch.setattr(chat, "TURNS_MAX", 2)
    _type("1\n2\n3\n4\n", monkeypatch)
    assert _chat(home) == 0
    assert [message["content"] for message in gateway.asked[3]["messages"]] == [
        *("2", "Hello", "3", "Hello", "4")
    ]


def test_a_failed_turn_does_not_end_the_conversation(
    home: Home,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A refusal is said and the turn forgotten."""
    gateway.status = 503
    gateway.body = b'{"error":{"message":"no node is free"}}'
    _type("one\ntwo\n", monkeypatch)
    assert _chat(home) == 0
    assert [len(asked["messages"]) for asked in gateway.asked] == [1, 1]
    assert capsys.readouterr().err.count("meshd: no node is free\n") == 2


def test_ctrl_c_stops_an_answer_only(
    home: Home,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An interrupted answer is forgotten with its question; the next one works."""
    answer = chat._answer

    def interrupted(*arguments: object) -> str:
        monkeypatch.setattr(chat, "_answer", answer)
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "_answer", interrupted)
    _type("one\ntwo\n", monkeypatch)
    assert _chat(home) == 0
    assert [asked["messages"][0]["content"] for asked in gateway.asked] == ["two"]
    assert "(stopped)" in capsys.readouterr().err


def test_a_conversation_has_no_json(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """--json wants a prompt."""
    _type("", monkeypatch)
    assert _chat(home, "--json") == 2


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b'{"error":{"message":"no model x; there are: demo"}}', "no model x; there are"),
        (500, b"<html>", "HTTP status 500"),
        (200, text_event("Hel"), "broke off: the gateway closed the connection"),
        (200, text_event("Hel") + b'data: {"error":{"message":"far died"}}\n\n', "far died"),
        (200, b"data: {\n\n", "broke off"),
        (200, b"data: " + b"[" * 100_000 + b"\n\n", "broke off"),
    ],
)
def test_a_broken_answer_is_one_line_and_1(
    status: int,
    body: bytes,
    said: str,
    home: Home,
    gateway: FakeGateway,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """However it breaks, the person reads why."""
    gateway.status, gateway.body = status, body
    assert _chat(home, "Hi") == 1
    error = capsys.readouterr().err
    assert error.startswith("meshd: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_cut_connection_is_one_line_and_1(
    home: Home, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has come is shown, then why there is no more."""
    gateway.cut = True
    gateway.body = text_event("Hel")
    assert _chat(home, "Hi") == 1
    said = capsys.readouterr()
    assert said.out == "Hel\n"
    assert "broke off" in said.err


@pytest.mark.parametrize(
    "body", [b"data: []\n\n", b'data: {"choices":3}\n\n', b'data: {"choices":[7,{"delta":7}]}\n\n']
)
def test_events_without_text_are_passed_over(
    body: bytes, home: Home, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a later gateway may send besides text does no harm."""
    gateway.body = body + text_event("Hi") + DONE
    assert _chat(home, "Hi") == 0
    assert capsys.readouterr().out == "Hi\n"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "nonsense", "http://127.0.0.1:99999", "https://127.0.0.1:1"]
)
def test_a_gateway_out_of_reach_is_one_line_and_1(
    url: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon may be wrong about its gateway; the person reads which address failed."""
    with daemon_on(home, {"gateway": answering(door(url)), "models": answering({"models": []})}):
        assert _chat(home, "Hi", "--model", "x") == 1
    assert url in capsys.readouterr().err


def test_a_mesh_without_models_says_what_to_do(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """No model anywhere: the line has the command that offers one."""
    handlers = {"gateway": answering(door("x")), "models": answering({"models": [EMBEDDER]})}
    with daemon_on(home, handlers):
        assert _chat(home, "Hi") == 1
    assert "meshd up --model demo" in capsys.readouterr().err


def test_generated_text_cannot_steer_the_terminal(
    home: Home,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a terminal, control characters are replaced; in a pipe, the text is as it came."""
    gateway.body = text_event("a\x1b[2J\tb\n") + DONE
    assert _chat(home, "Hi") == 0
    assert capsys.readouterr().out == "a\x1b[2J\tb\n\n"
    monkeypatch.setattr(terminal, "output_is_terminal", lambda: True)
    assert _chat(home, "Hi") == 0
    assert capsys.readouterr().out == "a\ufffd[2J\tb\n\n"


def test_a_closed_pipe_during_an_answer_is_quiet(home: Home, gateway: FakeGateway) -> None:
    """`meshd chat ... | head -c 1` says nothing about its reader's leaving."""
    gateway.body = text_event("x" * 100_000) * 3 + DONE
    process = subprocess.Popen(
        [sys.executable, "-m", "meshd", "chat", "Hi", "--home", str(home.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with contextlib.ExitStack() as stack:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        stack.enter_context(process.stderr)
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == 1


def test_the_owners_key_is_shown_to_the_gateway_that_the_daemon_names(
    home: Home, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By TLS to whoever has the certificate, its name and dates aside; to nobody else."""
    certificate, key = make_certificate(tmp_path, names=["elsewhere.example"], days=-1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    right = hashlib.sha256(der).hexdigest()
    with gateway_running(context) as gateway:
        for fingerprint, code in ((right, 0), ("ab" * 32, 1), (None, 1)):
            told = {"url": gateway.url, "key": "meshd-sk-x", "fingerprint": fingerprint}
            with daemon_on(home, {"gateway": answering(told), "models": answering({"models": []})}):
                assert _chat(home, "Hi", "--model", "demo") == code
    assert gateway.keys == ["Bearer meshd-sk-x"]
    said = capsys.readouterr()
    assert said.out == "Hello\n"
    assert said.err.count("another program answers there") == 2
    assert "meshd-sk-x" not in said.err
