"""A real OpenAI-compatible server whose models join a mesh of real daemons, until it is killed."""

import contextlib
import http.client
import importlib.util
import json
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from meshd import posix
from runtimes.llama.settings import DEMO_FILE
from tests.helpers.daemons import Daemon, Daemons, until, wait_offered, wait_whole

MISSING = [
    name
    for name in (
        *("llama_cpp", "uvicorn", "fastapi", "sse_starlette", "starlette_context"),
        "pydantic_settings",
    )
    if importlib.util.find_spec(name) is None
]
pytestmark = [
    pytest.mark.processes,
    pytest.mark.llama,
    pytest.mark.skipif(
        bool(MISSING), reason=f"llama-cpp-python[server] is not installed: {MISSING}"
    ),
]

MODEL = "upstream-demo"
GONE_S = 20.0
"""From the upstream's death until its models are gone everywhere."""
BACK_S = 40.0
"""From its return; looks are five to ten seconds apart then."""


class Server:
    """`python -m llama_cpp.server` with the model in the package."""

    def __init__(self, log: pathlib.Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "--model": str(DEMO_FILE),
            "--model_alias": MODEL,
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--n_threads": "1",
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "llama_cpp.server",
                    *(x for o in options.items() for x in o),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=posix.dying_with_parent(),
            )
        until("the upstream listens", self._is_up, 30.0)

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self._log.read_text("utf-8", "replace")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; after SIGKILL it is gone."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped in its tracks, as if every token took for ever."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def ask(self, **fields: object) -> str:
        """A chat completion without any meshd."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        messages = [{"role": "user", "content": "What is meshd?"}]
        body = json.dumps({"model": MODEL, "messages": messages, **fields})
        connection.request(
            "POST", "/v1/chat/completions", body, {"content-type": "application/json"}
        )
        text = json.loads(connection.getresponse().read())["choices"][0]["message"]["content"]
        connection.close()
        return str(text)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running upstream."""
    server = Server(tmp_path_factory.mktemp("server") / "server.log")
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="module")
def two(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Anna has the upstream, Bert has nothing."""
    with Daemons(tmp_path_factory.mktemp("upstream")) as daemons:
        anna = daemons.add("anna", "--upstream", f"{server.url}/v1").launch().ready()
        bert = daemons.add("bert").launch("--join", anna.invite()).ready()
        wait_whole([anna, bert])
        wait_offered([anna, bert], MODEL, "anna")
        yield [anna, bert]
        daemons.check_logs()


def wait_gone(daemons: list[Daemon]) -> None:
    """Wait until nobody lists the model."""

    def is_gone() -> bool:
        return all(MODEL not in daemon.models() for daemon in daemons)

    until("the model is gone", is_gone, GONE_S)


def test_its_models_are_the_meshs(two: list[Daemon]) -> None:
    """Both nodes list it, and say that it is a foreign one."""
    for daemon in two:
        [row] = daemon.get("/mesh/v1/models")["models"]
        assert (row["name"], row["runtime"], row["nodes"]) == (MODEL, "openai", ["anna"])
        assert row["hash"].startswith("upstream-")


def test_its_streams_are_relayed(server: Server, two: list[Daemon]) -> None:
    """Through the other node comes, piece by piece, what the upstream itself says."""
    _, bert = two
    sampling = {"temperature": 0.0, "max_tokens": 24}
    with bert.stream(MODEL, "What is meshd?", **sampling) as stream:
        pieces = [
            event["choices"][0]["delta"].get("content") or ""
            for event in stream.events()
            if event != "[DONE]" and event["choices"]
        ]
        assert stream.headers["x-meshd-node"] == "anna"
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == server.ask(**sampling)
    reply = bert.chat(MODEL, "What is meshd?", **sampling)
    assert reply.text == "".join(pieces)
    assert reply.json["usage"]["completion_tokens"] >= len([piece for piece in pieces if piece])


def test_requests_at_the_same_time_do_not_cut_each_other_short(
    server: Server, two: list[Daemon]
) -> None:
    """This server ends an answer when a second request comes; through the mesh none comes."""
    sampling = {"temperature": 0.0, "max_tokens": 24}
    expected = server.ask(**sampling)
    with ThreadPoolExecutor(6) as pool:
        answers = [
            pool.submit(daemon.chat, MODEL, "What is meshd?", **sampling) for daemon in two * 3
        ]
        assert [answer.result(30.0).text for answer in answers] == [expected] * 6


def test_a_client_that_leaves_frees_the_upstream(server: Server, two: list[Daemon]) -> None:
    """The slot is free while the upstream still sleeps, and the next request is answered."""
    anna, bert = two
    with server.frozen(), ThreadPoolExecutor(1) as pool:
        connection = http.client.HTTPConnection(bert.url.removeprefix("http://"), timeout=10)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        pool.submit(connection.getresponse)
        until("it works", lambda: anna.running_requests() == 1, 15.0)
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        until("nobody works any more", lambda: anna.running_requests() == 0, 10.0)
        connection.close()
    assert bert.chat(MODEL, max_tokens=4).text


def test_its_death_is_noticed_and_so_is_its_return(server: Server, two: list[Daemon]) -> None:
    """Killed with a request inside: that fails at once, and the models leave both lists."""
    anna, bert = two
    with server.frozen(), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(bert.chat, MODEL)
        until("it works", lambda: anna.running_requests() == 1, 15.0)
        server.signal(signal.SIGKILL)
        reply = answer.result(GONE_S)
        assert reply.status in (502, 503)
        assert reply.error["code"] == "unavailable"
        wait_gone(two)
    assert bert.chat(MODEL).error["code"] == "unavailable"  # it may be back soon
    server.start()
    wait_offered(two, MODEL, "anna", BACK_S)
    assert bert.chat(MODEL, max_tokens=4).text


def test_an_idle_upstreams_death_is_noticed(server: Server, two: list[Daemon]) -> None:
    """Nobody asks anything, and yet its models leave both lists in time."""
    server.signal(signal.SIGKILL)
    wait_gone(two)
