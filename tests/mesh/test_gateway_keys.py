"""Gateways with keys and beyond loopback, on real daemons."""

import pathlib
import re
import socket
import subprocess

import pytest

from meshd.failures import ExitCode
from tests.helpers.certificates import make_certificate
from tests.helpers.daemons import Daemon, Daemons, chat_body, until, wait_offered
from tests.helpers.gateway_client import Reply, request
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

CHAT_PATH = "/v1/chat/completions"
SECRET_WORDS = "zwetschgenkuchen mit sahne"


def ask(daemon: Daemon, key: str | None, text: str = "Hi", **headers: str) -> Reply:
    """A chat request with a key."""
    shown = {} if key is None else {"authorization": f"Bearer {key}"}
    body = chat_body("words", text, {"max_tokens": 2})
    return daemon.request("POST", CHAT_PATH, body, **shown, **headers)


def make_key(daemon: Daemon, name: str, *options: str) -> str:
    """A new key, by the command line."""
    made = daemon.cli("key", "create", name, *options)
    assert made.returncode == 0, made.stderr
    assert re.fullmatch(r"meshd-sk-[a-z2-7]{40}\n", made.stdout)
    return made.stdout.strip()


def refused_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that was used wrongly."""
    assert done.returncode == ExitCode.WRONG_USAGE, done.stderr
    [line] = done.stderr.splitlines()
    return line


def own_address() -> str | None:
    """An address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith("127.") else address


def test_a_gateway_is_not_opened_by_accident(daemons: Daemons, tmp_path: pathlib.Path) -> None:
    """Beyond loopback it starts only with a key and a word about TLS; the line says what is
    missing, and no mesh is founded by the attempt.
    """
    anna = daemons.add("anna", gateway="0.0.0.0:0")
    up = ("up", "--name", "anna", *anna.options)
    line = refused_line(anna.cli(*up))
    for word in ("0.0.0.0:0", "meshd key create", "--tls-cert", "--insecure-http"):
        assert word in line
    assert "meshd key create" in refused_line(anna.cli(*up, "--insecure-http"))
    make_key(anna, "brief", "--expires", "1s")
    until("it has expired", lambda: "expired" in anna.cli("key", "list").stdout.split("(")[-1], 10)
    assert "meshd key create" in refused_line(anna.cli(*up, "--insecure-http"))
    make_key(anna, "long")
    assert "--tls-cert" in refused_line(anna.cli(*up))
    assert "--tls-key" in refused_line(anna.cli(*up, "--tls-cert", "c.pem"))
    done = anna.cli(*up, "--tls-cert", str(tmp_path / "no.pem"), "--tls-key", "no.key")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no.pem" in done.stderr
    assert not anna.home.mesh.exists()
    anna.launch("--insecure-http").ready()
    assert anna.url.startswith("http://0.0.0.0:")


def test_a_gateway_beyond_loopback(daemons: Daemons, tmp_path: pathlib.Path) -> None:
    """TLS, keys on every address, names of the certificate; keys come and go while it runs."""
    certificate, tls_key = make_certificate(tmp_path, names=["box.lan"])
    files = ("--tls-cert", str(certificate), "--tls-key", str(tls_key))
    anna = daemons.add("anna", *files, model=WORDS, gateway="0.0.0.0:0")
    key = make_key(anna, "laptop")  # while no daemon runs
    anna.launch().ready()
    assert anna.url.startswith("https://0.0.0.0:")
    port = anna.url.rpartition(":")[2]
    shown = {"authorization": f"Bearer {key}"}

    def is_listed() -> bool:
        reply = request(anna.url, "GET", "/v1/models", None, {"host": "localhost", **shown})
        return bool(reply.json["data"])

    until("the model is there", is_listed, 20.0)
    hosts = [f"127.0.0.1:{port}", "localhost", f"box.lan:{port}"]
    if (address := own_address()) is not None:
        hosts.append(f"{address}:{port}")
        url = f"https://{address}:{port}"
        assert request(url, "GET", "/v1/models", None, shown).status == 200
        assert request(url, "GET", "/v1/models", None, {}).status == 401
    for host in hosts[:3]:
        assert ask(anna, key, host=host).status == 200
        assert ask(anna, None, host=host).error["code"] == "invalid_api_key"
    for host in ("0.0.0.0", "evil.example", "box.lan.evil.example"):
        assert ask(anna, key, host=host).error["code"] == "forbidden_host"
    foreign = ask(anna, key, host="box.lan", origin="https://evil.example")
    assert foreign.error["code"] == "forbidden_origin"
    assert request(anna.url, "GET", "/healthz", None, {"host": "localhost"}).status == 200

    # The owner's own commands need no key.
    said = anna.cli("chat", "--model", "words", "Hi")
    assert (said.returncode, bool(said.stdout.strip())) == (0, True), said.stderr

    phone = make_key(anna, "phone")
    assert ask(anna, phone, host="localhost").status == 200
    assert "phone" in anna.cli("key", "list").stdout
    assert anna.cli("key", "revoke", "phone").returncode == 0
    assert ask(anna, phone, host="localhost").status == 401
    assert anna.cli("key", "revoke", "phone").returncode == 1

    # All of it after a crash too.
    anna.kill()
    anna.launch().ready()
    assert ask(anna, phone, host="localhost").status == 401
    assert (
        request(anna.url, "GET", "/v1/models", None, {"host": "localhost", **shown}).status == 200
    )


def test_keys_on_loopback(daemons: Daemons) -> None:
    """Not needed, but honoured; with --require-key needed there too, and by pages as by apps."""
    anna = daemons.add("anna", model=WORDS)
    anna.launch().ready()
    wait_offered([anna], "words", "anna")
    slow = make_key(anna, "slow", "--limit", "2/h")
    other = make_key(anna, "other", "--models", "nothing-*")
    assert ask(anna, None).status == 200
    assert ask(anna, "none").status == 200
    assert ask(anna, slow).status == 200
    assert anna.request("GET", "/v1/models", None, x_api_key=slow).status == 200
    reply = ask(anna, slow)
    assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
    assert 60 < int(reply.headers["retry-after"]) <= 1800
    assert (ask(anna, other).status, ask(anna, other).error["code"]) == (403, "model_not_found")
    assert ask(anna, slow[:-1] + ("a" if slow[-1] != "a" else "b")).status == 401
    assert anna.stop() == 0

    page = "https://chat.example.org"
    anna.launch("--require-key", "--cors-origin", page, "--gateway-host", "box.lan").ready()
    assert ask(anna, None).status == 401
    reply = anna.request(
        "OPTIONS", CHAT_PATH, None, origin=page, access_control_request_method="POST"
    )
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (204, page)
    reply = ask(anna, other, origin=page, host="box.lan")
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (403, page)
    reply = ask(anna, other, origin="https://evil.example")
    assert reply.error["code"] == "forbidden_origin"
    until("it is listed again", lambda: anna.cli("models").stdout.count("words"), 20.0)
    assert anna.cli("chat", "--model", "words", "Hi").returncode == 0


def test_secrets_stay_out_of_logs(
    daemons: Daemons, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After requests that went well and that failed, on every level, of the asking and of the
    serving node: no prompt, no key, no answer.
    """
    monkeypatch.setenv("MESHD_LOG", "debug")
    anna, bert = daemons.mesh({"anna": "none", "bert": f"{WORDS},fail_at=3"})
    key = make_key(anna, "laptop")
    wrong = "meshd-sk-" + "q" * 40
    replies = [
        ask(anna, key, SECRET_WORDS),
        ask(anna, wrong, SECRET_WORDS),
        ask(anna, key, SECRET_WORDS, origin="https://evil.example"),
        anna.request("POST", CHAT_PATH, f'{{"model": "{SECRET_WORDS}'.encode()),
        anna.request("POST", CHAT_PATH, chat_body("words", SECRET_WORDS * 500, {}), x_api_key=key),
        anna.request(
            "POST", CHAT_PATH, chat_body("words", SECRET_WORDS, {"temperature": SECRET_WORDS})
        ),
        anna.chat("words", SECRET_WORDS, max_tokens=10),
    ]
    assert [reply.status for reply in replies][:6] == [200, 401, 403, 400, 400, 400]
    assert replies[-1].status == 200  # its model fails after three tokens, and goes on
    anna.cli("key", "list")
    anna.cli("key", "revoke", "laptop")
    events = anna.cli("events", "--json", "--recent", "1000").stdout
    for daemon in (anna, bert):
        assert daemon.stop() == 0
    anna_log, bert_log = anna.log_text(), bert.log_text()
    assert "gateway.request" in anna_log
    assert "request.serving" in bert_log
    files = [path.read_bytes() for path in anna.home.path.rglob("*") if path.is_file()]
    kept = "\n".join([anna_log, bert_log, events, *(data.decode("latin-1") for data in files)])
    for secret in (SECRET_WORDS.split()[0], key, key[9:30], wrong):
        assert secret not in kept
