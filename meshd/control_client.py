"""The one place for asking the daemon that runs on a home; what a command does, it asks here.

Blocking and standard library only: a command that asks one thing must not load trio. The
protocol is in `meshd/cli/README.md`; the other end is `meshd/control.py`.
"""

import contextlib
import dataclasses
import json
import pathlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meshd import posix
from meshd.failures import ExitCode, UserError
from meshd.home import Home

REQUEST_BYTES_MAX = 64 * 1024
"""One request line, its end included."""
ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""One answer line: the rows of ten thousand nodes fit."""
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackDoor:
    """Where a daemon without Unix sockets listens, and what proves that its owner asks."""

    port: int
    secret: str


def loopback_file(home: Home) -> pathlib.Path:
    """Holds the `LoopbackDoor` of a daemon on a system without Unix sockets; owner only."""
    return home.path / "control.json"


def ask(
    home: Home,
    do: str,
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
    on_progress: Callable[[Mapping[str, Any]], None] | None = None,
    is_endless: bool = False,
    **arguments: object,
) -> dict[str, Any]:
    """Have the daemon on `home` do something, and return its result.

    `timeout_s` bounds the whole wait; of what `is_endless`, the wait for each piece of progress.
    Raises UserError: with NO_DAEMON when none runs, with what
    the daemon said when it refused, and with FAILED when it does not answer.
    """
    deadline = time.monotonic() + timeout_s
    request: dict[str, object] = {**arguments, "do": do}
    with contextlib.ExitStack() as stack:
        with _explained(home, timeout_s):
            connection = stack.enter_context(_connected(home, request))
            line = json.dumps(request).encode() + b"\n"
            if len(line) > REQUEST_BYTES_MAX:
                raise UserError("this is too much for one request", ExitCode.WRONG_USAGE)
            connection.settimeout(timeout_s)
            connection.sendall(line)
        answers = _answers(connection, deadline, timeout_s if is_endless else None)
        while True:
            with _explained(home, timeout_s):
                answer = next(answers, None)
            if answer is None:
                break
            if "ok" in answer:
                return _result(answer)
            progress = answer.get("progress")
            if on_progress is not None and isinstance(progress, dict):
                on_progress(progress)  # what it raises is its own, also an OSError
    raise UserError(f"the daemon on {home.path} closed the connection; look at its log")


@contextlib.contextmanager
def _explained(home: Home, timeout_s: float) -> Iterator[None]:
    """What goes wrong with the connection becomes a UserError."""
    try:
        yield
    except TimeoutError:
        raise UserError(
            f"the daemon on {home.path} did not answer within {timeout_s:.0f} s; "
            "look at its log, or restart it"
        ) from None
    except OSError as error:
        raise UserError(
            f"the connection to the daemon on {home.path} broke: {error.strerror or error}"
        ) from error


@contextlib.contextmanager
def _connected(home: Home, request: dict[str, object]) -> Iterator[socket.socket]:
    """A connection to the daemon; adds to `request` what proves the right to ask."""
    try:
        if posix.has_unix_sockets() and home.control_socket.exists():
            connection = posix.connect_unix(home.control_socket, CONNECT_TIMEOUT_S)
        else:
            door = _read_door(loopback_file(home))
            connection = socket.create_connection(("127.0.0.1", door.port), CONNECT_TIMEOUT_S)
            request["secret"] = door.secret
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise UserError(
            f"no daemon is running on {home.path}; start one with: meshd up", ExitCode.NO_DAEMON
        ) from None
    except PermissionError:
        raise UserError(
            f"{home.path} belongs to somebody else; choose your own folder with --home"
        ) from None
    with connection:
        yield connection


def _read_door(path: pathlib.Path) -> LoopbackDoor:
    """Raises FileNotFoundError when there is none; a mangled one counts as none."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(4_096))
        port, secret = found["port"], found["secret"]
    except (ValueError, KeyError, TypeError):
        raise FileNotFoundError(path) from None
    if type(port) is not int or not 0 < port < 65_536 or not isinstance(secret, str):
        raise FileNotFoundError(path)
    return LoopbackDoor(port=port, secret=secret)


def _answers(
    connection: socket.socket, deadline: float, renewed_s: float | None
) -> Iterator[dict[str, Any]]:
    """The objects that arrive, until the other end closes. Raises TimeoutError, UserError.

    Each of them sets the deadline to `renewed_s` from now, if that is given.
    """
    buffered = bytearray()
    while True:
        end = buffered.find(b"\n")
        if end >= 0:
            yield _read_answer(bytes(buffered[:end]))
            del buffered[: end + 1]
            if renewed_s is not None:
                deadline = time.monotonic() + renewed_s
            continue
        if len(buffered) > ANSWER_BYTES_MAX:
            raise UserError("the daemon's answer is too large")
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        connection.settimeout(remaining_s)
        received = connection.recv(65_536)
        if not received:
            return
        buffered += received


def _read_answer(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise UserError("the daemon's answer makes no sense; are it and meshd the same version?")
    return answer


def _result(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The result in `answer`, or its failure raised."""
    result = answer.get("result")
    if answer["ok"] is True and isinstance(result, dict):
        return result
    try:
        exit_code = ExitCode(answer.get("exit", ExitCode.FAILED))
    except ValueError:
        exit_code = ExitCode.FAILED
    raise UserError(str(answer.get("error", "the daemon gave no reason")), exit_code)
