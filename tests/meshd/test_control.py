"""The control socket: what goes through it, who may use it, and what no bytes can do to it."""

import json
import pathlib
import socket
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd import control, posix
from meshd.control import Handler, Report, Streaming, Transport, argument, serve_control
from meshd.control_client import (
    ANSWER_BYTES_MAX,
    REQUEST_BYTES_MAX,
    _connected,
    ask,
    loopback_file,
)
from meshd.failures import ExitCode, UserError
from meshd.home import Home
from tests.meshd.cli.running_daemon import answering, daemon_on

TIMEOUT_S = 10.0

pytestmark = pytest.mark.skipif(not posix.has_unix_sockets(), reason="needs Unix sockets")


async def _echo(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"echo": dict(arguments)}


async def _refuse(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    raise UserError("the token is\nexpired", ExitCode.WRONG_USAGE)


async def _break(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    raise LookupError("a bug with a secret in it")


async def _count(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    for number in range(argument(arguments, "to", int)):
        await report({"number": number})
    return {"done": True}


HANDLERS: dict[str, Handler | Streaming] = {
    "echo": _echo,
    "refuse": _refuse,
    "break": _break,
    "no_json": answering({"set": {1, 2}}),
    "not_a_number": answering({"value": float("nan")}),
    "huge": answering({"text": "x" * (ANSWER_BYTES_MAX + 1)}),
    "big": answering({"text": "x" * 1_000_000}),
    "count": Streaming(_count),
}


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def served(home: Home) -> Iterator[Home]:
    with daemon_on(home, HANDLERS):
        yield home


def _connect(home: Home) -> socket.socket:
    return posix.connect_unix(home.control_socket, TIMEOUT_S)


def _exchange(home: Home, sent: bytes) -> list[dict[str, Any]]:
    """Everything the server says to `sent` until it closes."""
    with _connect(home) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            return [json.loads(line) for line in file]


def test_arguments_go_in_and_the_result_comes_out(served: Home) -> None:
    """What is asked arrives as it was, and the result comes back as it was."""
    result = ask(served, "echo", token="aé\n", uses=3, deep={"list": [1, None]})
    assert result == {"echo": {"token": "aé\n", "uses": 3, "deep": {"list": [1, None]}}}


def test_one_connection_takes_several_requests(served: Home) -> None:
    """Requests on one connection are answered one after the other, in order."""
    answers = _exchange(served, b'{"do":"echo","n":1}\n{"do":"refuse"}\n{"do":"echo","n":2}\n')
    assert [answer["ok"] for answer in answers] == [True, False, True]
    assert answers[2]["result"] == {"echo": {"n": 2}}


def test_progress_comes_before_the_result(served: Home) -> None:
    """A streaming handler's reports arrive in order, and the result last."""
    seen: list[Any] = []
    result = ask(served, "count", on_progress=seen.append, to=3)
    assert seen == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert result == {"done": True}


def test_a_large_result_arrives_whole(served: Home) -> None:
    """The limit on requests is no limit on answers."""
    assert len(ask(served, "big")["text"]) == 1_000_000


def test_a_user_error_crosses_as_one_line_with_its_code(served: Home) -> None:
    """A handler's UserError is raised by the client with its message and exit code."""
    with pytest.raises(UserError, match=r"^the token is expired$") as caught:
        ask(served, "refuse")
    assert caught.value.exit_code is ExitCode.WRONG_USAGE


@pytest.mark.parametrize("do", ["break", "no_json", "not_a_number"])
def test_a_bug_stays_inside_and_the_server_lives(
    served: Home, do: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is logged, its text is not told, and the next request works."""
    with pytest.raises(UserError, match="internal error") as caught:
        ask(served, do)
    assert "secret" not in caught.value.message
    assert "control.handler_failed" in caplog.text
    assert ask(served, "echo") == {"echo": {}}


def test_a_result_that_is_too_large_is_an_error(served: Home) -> None:
    """No answer exceeds what the client takes."""
    with pytest.raises(UserError, match="too large"):
        ask(served, "huge")


def test_an_unknown_command_is_an_error(served: Home) -> None:
    """A command that the daemon does not know names a possible reason."""
    with pytest.raises(UserError, match="no such command"):
        ask(served, "dance")


def test_a_wrong_argument_is_wrong_usage(served: Home) -> None:
    """`argument` refuses what is missing or of another kind, a bool for an int among it."""
    for wrong in ("3", True, None, 1.5):
        with pytest.raises(UserError, match="must be a int") as caught:
            ask(served, "count", to=wrong)
        assert caught.value.exit_code is ExitCode.WRONG_USAGE


def _serve_in_vain(home: Home) -> None:
    """Serve where it must fail to start."""

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            await serve_control(home, HANDLERS)

    trio.run(main)


def test_a_dead_daemons_socket_is_replaced(home: Home) -> None:
    """A start after kill -9 takes the path over."""
    home.create()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(home.control_socket))
    with daemon_on(home, HANDLERS):
        assert ask(home, "echo") == {"echo": {}}


def test_the_socket_is_the_owners_and_goes_with_the_server(home: Home) -> None:
    """Only the owner may connect, and a stopped server leaves no file."""
    with daemon_on(home, HANDLERS):
        assert stat.S_IMODE(home.control_socket.stat().st_mode) == 0o600
    assert not home.control_socket.exists()


def test_something_else_in_the_way_is_not_removed(home: Home) -> None:
    """A file that is no socket stays, and the error names the place."""
    home.create()
    home.control_socket.write_text("precious")
    with pytest.raises(UserError, match="not a socket"):
        _serve_in_vain(home)
    assert home.control_socket.read_text() == "precious"


def test_a_missing_home_is_one_clear_line() -> None:
    """A folder that is not there is a UserError that names it."""
    with pytest.raises(UserError, match="cannot open the control socket in /nonexistent"):
        _serve_in_vain(Home(pathlib.Path("/nonexistent/home")))


def _deep_home(tmp_path: pathlib.Path) -> Home:
    return Home(tmp_path / ("deep" * 20) / ("er" * 40))


@pytest.mark.skipif(not pathlib.Path("/proc/self/fd").exists(), reason="needs Linux's proc")
def test_a_path_too_long_for_a_socket_address_works(tmp_path: pathlib.Path) -> None:
    """On Linux a long home is reached through its folder's descriptor, from both ends."""
    home = _deep_home(tmp_path)
    with daemon_on(home, HANDLERS):
        assert stat.S_IMODE(home.control_socket.stat().st_mode) == 0o600
        assert ask(home, "echo", a=1) == {"echo": {"a": 1}}
    assert not home.control_socket.exists()


def test_a_path_too_long_elsewhere_is_one_clear_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no way round, the error says why and what to do."""
    home = _deep_home(tmp_path)
    home.create()
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(UserError, match=r"bytes long; .*--home"):
        _serve_in_vain(home)


def test_loopback_serves_with_a_secret_in_the_owners_file(home: Home) -> None:
    """Without Unix sockets the same requests go over loopback; the file goes with the server."""
    with daemon_on(home, HANDLERS, transport="loopback"):
        assert stat.S_IMODE(loopback_file(home).stat().st_mode) == 0o600
        assert ask(home, "echo", a=1) == {"echo": {"a": 1}}
    assert not loopback_file(home).exists()


@pytest.mark.parametrize("secret", [None, "", "wrong", 7, "\ud800", "é"])
def test_loopback_refuses_without_the_secret(home: Home, secret: object) -> None:
    """Whoever cannot read the file gets nothing done."""
    with daemon_on(home, HANDLERS, transport="loopback"):
        port = json.loads(loopback_file(home).read_bytes())["port"]
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            request = {"do": "echo", "secret": secret}
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline())
    assert answer["ok"] is False
    assert "secret" in answer["error"]


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"[]", b"null", b'"do"', b"\xff\xfe", b'{"do":1}', b'{"do":["echo"]}', b"{}"),
        *(b"[" * 30_000, b'{"do":"echo","x":NaN}', b'{"do":"echo","x":' + b"9" * 5_000 + b"}"),
    ],
)
def test_a_line_that_is_no_request_gets_an_error_line(served: Home, line: bytes) -> None:
    """Nonsense is answered in the protocol's own shape, and the connection goes on."""
    first, second = _exchange(served, line + b'\n{"do":"echo"}\n')
    assert first["ok"] is False
    assert first["exit"] == ExitCode.FAILED
    assert "\n" not in first["error"]
    assert second == {"ok": True, "result": {"echo": {}}}


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_too_long_is_refused_and_ends_the_connection(served: Home, end: bytes) -> None:
    """More than the limit is neither kept nor read on."""
    answers = _exchange(served, b" " * REQUEST_BYTES_MAX + end)
    assert len(answers) == 1
    assert "at most 65536 bytes" in answers[0]["error"]


def test_a_line_of_the_greatest_length_is_taken(served: Home) -> None:
    """The limit itself is still within it."""
    line = b'{"do":"echo"}'.ljust(REQUEST_BYTES_MAX - 1) + b"\n"
    assert _exchange(served, line) == [{"ok": True, "result": {"echo": {}}}]


def test_hostile_bytes_never_end_the_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever arrives is answered by lines of the protocol, and the server still serves."""
    home = Home(tmp_path_factory.mktemp("hostile"))
    pieces = st.sampled_from(
        [
            b"\n",
            b'{"do":"echo"}\n',
            b'{"do":"count","to":2}\n',
            b'{"do":',
            b"\x00",
            b'"',
            b"}",
            b"[",
        ]
    )

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.one_of(pieces, st.binary(max_size=64)), max_size=12))
    def attack(parts: list[bytes]) -> None:
        for answer in _exchange(home, b"".join(parts)):
            assert set(answer) in ({"ok", "result"}, {"ok", "error", "exit"}, {"progress"})
        assert ask(home, "echo", still="here") == {"echo": {"still": "here"}}

    with daemon_on(home, HANDLERS):
        attack()


def test_connections_have_a_limit_and_come_free_again(served: Home) -> None:
    """One connection too many is told so; once others have gone there is room."""
    held = [_connect(served) for _ in range(control.CONNECTIONS_MAX)]
    try:
        for connection in held:  # each is known to be served
            connection.sendall(b'{"do":"echo"}\n')
            assert connection.recv(100)
        with pytest.raises(UserError, match="too many commands at once"):
            ask(served, "echo")
    finally:
        for connection in held:
            connection.close()
    with _connect(served) as connection:
        connection.sendall(b'{"do":"echo"}\n')
        assert connection.recv(100)


def test_silence_ends_a_connection(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that says nothing, or trickles, does not hold its place."""
    monkeypatch.setattr(control, "IDLE_TIMEOUT_S", 0.05)
    with daemon_on(home, HANDLERS), _connect(home) as connection:
        connection.sendall(b'{"do":')
        assert connection.recv(100) == b""


def test_a_handler_that_hangs_is_given_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever: the handler is cancelled and the asker told."""
    monkeypatch.setattr(control, "HANDLER_TIMEOUT_S", 0.05)
    cancelled = threading.Event()

    async def hang(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    with daemon_on(home, {"hang": hang}), pytest.raises(UserError, match="gave up"):
        ask(home, "hang")
    assert cancelled.is_set()


def test_an_asker_who_goes_away_stops_a_stream(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """Reports to nobody end the handler; nothing is logged and the server lives."""
    stopped = threading.Event()

    async def chatter(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        try:
            while True:
                await report({"text": "x" * 10_000})
        finally:
            stopped.set()

    with daemon_on(home, {"chatter": Streaming(chatter), "echo": _echo}):
        with _connect(home) as connection:
            connection.sendall(b'{"do":"chatter"}\n')
            assert connection.recv(100)
        assert stopped.wait(TIMEOUT_S)
        assert ask(home, "echo") == {"echo": {}}
    assert caplog.text == ""


@pytest.mark.parametrize("transport", ["unix", "loopback"])
def test_what_ends_with_its_asker_is_cancelled_at_once(
    home: Home, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a word in between, be the end orderly or a reset; and while who asked is there, its
    failure is that of its nursery's task, and its result comes out.
    """
    begun, cancelled = threading.Event(), threading.Event()

    async def wait(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def fail(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refuse, {})
        return {}

    handlers = {
        "wait": Streaming(wait, timeout_s=3_600, ends_with_asker=True),
        "fail": Streaming(fail, ends_with_asker=True),
        "count": Streaming(_count, ends_with_asker=True),
    }
    with daemon_on(home, handlers, transport=transport):
        asking: dict[str, object] = {"do": "wait"}
        with _connected(home, asking) as connection:
            connection.sendall(json.dumps(asking).encode() + b"\n")
            if transport == "loopback":
                never = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, never)
            assert begun.wait(TIMEOUT_S)
            assert not cancelled.is_set()
        assert cancelled.wait(TIMEOUT_S)
        with pytest.raises(UserError, match="the token is expired"):
            ask(home, "fail")
        assert ask(home, "count", to=2) == {"done": True}
    assert caplog.text == ""
