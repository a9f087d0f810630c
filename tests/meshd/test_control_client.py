"""The client of the control socket: whatever it meets, it raises one clear line."""

import functools
import itertools
import pathlib
import socket
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from meshd import control_client, posix
from meshd.control import Report, Streaming
from meshd.control_client import REQUEST_BYTES_MAX, ask, loopback_file
from meshd.failures import ExitCode, UserError
from meshd.home import Home
from tests.meshd.cli.running_daemon import answering, daemon_on

TIMEOUT_S = 10.0

pytestmark = pytest.mark.skipif(not posix.has_unix_sockets(), reason="needs Unix sockets")


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return Home(tmp_path / "home")


def test_no_daemon_says_how_to_start_one(home: Home) -> None:
    """Without a socket the error names the home and the mend, with its own exit code."""
    with pytest.raises(UserError, match="start one with: meshd up") as caught:
        ask(home, "status")
    assert caught.value.exit_code is ExitCode.NO_DAEMON
    assert str(home.path) in caught.value.message


def test_a_dead_daemons_socket_counts_as_none(home: Home) -> None:
    """A socket file that nobody listens on is no daemon."""
    home.create()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(home.control_socket))
    with pytest.raises(UserError) as caught:
        ask(home, "status")
    assert caught.value.exit_code is ExitCode.NO_DAEMON


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"port":0,"secret":"x"}', b'{"port":"1","secret":"x"}', b"\xff"],
)
def test_a_mangled_loopback_file_counts_as_no_daemon(home: Home, content: bytes) -> None:
    """Whatever the file holds, the client says one clear line."""
    home.create()
    loopback_file(home).write_bytes(content)
    with pytest.raises(UserError) as caught:
        ask(home, "status")
    assert caught.value.exit_code is ExitCode.NO_DAEMON


def test_the_client_refuses_to_send_too_much(home: Home) -> None:
    """A request over the limit fails at once, as wrong usage."""
    with (
        daemon_on(home, {"echo": answering({})}),
        pytest.raises(UserError, match="too much") as caught,
    ):
        ask(home, "echo", token="x" * REQUEST_BYTES_MAX)
    assert caught.value.exit_code is ExitCode.WRONG_USAGE


def test_a_daemon_that_does_not_answer_is_not_waited_for(home: Home) -> None:
    """The client's patience ends, and it says so."""

    async def hang(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    with daemon_on(home, {"hang": hang}), pytest.raises(UserError, match="did not answer within"):
        ask(home, "hang", timeout_s=0.05)


def test_progress_without_end_is_not_waited_for(home: Home) -> None:
    """A daemon that keeps reporting does not prolong the wait."""

    async def chatter(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        while True:
            await report({"still": "busy"})

    with (
        daemon_on(home, {"chatter": Streaming(chatter)}),
        pytest.raises(UserError, match="did not answer within"),
    ):
        ask(home, "chatter", timeout_s=0.1)


def test_endless_progress_is_waited_for_piece_by_piece(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is on the silence between two pieces, not on the whole."""
    pieces = 5
    taken: list[Callable[[], None]] = []

    async def tick(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        for number in range(pieces):
            token, is_taken = trio.lowlevel.current_trio_token(), trio.Event()
            taken.append(functools.partial(token.run_sync_soon, is_taken.set))
            await report({"number": number})
            await is_taken.wait()  # so that no two pieces arrive at once
        return {}

    # At each look at the clock a good third of the limit has passed.
    clock = SimpleNamespace(monotonic=functools.partial(next, itertools.count(0, 4)))
    monkeypatch.setattr(control_client, "time", clock)
    with daemon_on(home, {"tick": Streaming(tick)}):
        done = ask(
            home, "tick", timeout_s=10, is_endless=True, on_progress=lambda news: taken[-1]()
        )
    assert done == {}
    assert len(taken) == pieces


def test_what_becomes_of_progress_is_no_failure_of_the_daemon(home: Home) -> None:
    """An error of the one who takes it (its own reader is gone) reaches the caller as it is."""

    async def tell(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        await report({"some": "news"})
        return {}

    def lose(news: Mapping[str, Any]) -> None:
        raise BrokenPipeError

    with daemon_on(home, {"tell": Streaming(tell)}), pytest.raises(BrokenPipeError):
        ask(home, "tell", on_progress=lose)


@pytest.mark.parametrize(
    "answer", [b"", b"x\n", b"[]\n", b'{"ok":true}\n', b'{"ok":false,"exit":99}\n', b"[" * 9_999]
)
def test_an_answer_that_makes_no_sense_is_one_clear_line(home: Home, answer: bytes) -> None:
    """Whatever answers on the socket, the client raises UserError and nothing else."""
    home.create()

    def answer_once(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1_000)
            connection.sendall(answer)

    with posix.listening_unix(home.control_socket, 1) as listening:
        listening.settimeout(TIMEOUT_S)
        thread = threading.Thread(target=answer_once, args=(listening,))
        thread.start()
        with pytest.raises(UserError):
            ask(home, "echo")
        thread.join(TIMEOUT_S)
