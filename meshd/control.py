"""The one place where a running daemon takes commands from its owner.

A Unix socket in the home, for the owner only; where there are none, loopback TCP and a secret
in a file for the owner only. One JSON object a line in, one out; `meshd/cli/README.md` has the
protocol, `meshd/control_client.py` the other end.

Rule 1: whatever bytes arrive, the server answers with an error line or closes; it never raises.
Rule 2: a line, an answer, the connections, and every wait have a limit.
Rule 3: a handler's UserError is for the person who asked; anything else it raises is our bug,
goes to the log, and the person is told only that it happened.
"""

import contextlib
import dataclasses
import hmac
import json
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import trio

from meshd import posix
from meshd.control_client import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, loopback_file
from meshd.failures import ExitCode, UserError
from meshd.home import Home

CONNECTIONS_MAX = 64
"""Commands that wait for their jobs are among them; see meshd/tasks/commands.py."""
IDLE_TIMEOUT_S = 30.0
"""For one request to arrive whole, and for one answer to be taken."""
LINGER_S = 1.0
"""For a client that is sent away to read why: closing on unread bytes may discard the reason."""
HANDLER_TIMEOUT_S = 120.0
"""For one request to be done; joining, the slowest, gives up after 15 s by itself."""

Arguments = Mapping[str, Any]
Handler = Callable[[Arguments], Awaitable[Mapping[str, Any]]]
"""Does one thing and returns its result; what JSON cannot express is a bug."""
Report = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Sends one progress object to who asked."""
Transport = Literal["unix", "loopback"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Streaming:
    """A handler that reports progress before its result."""

    run: Callable[[Arguments, Report], Awaitable[Mapping[str, Any]]]
    timeout_s: float | None = None
    """None: HANDLER_TIMEOUT_S. Without limit (math.inf) only for what reports again and again: a
    report is where it is noticed that who asked has gone."""
    ends_with_asker: bool = False
    """It is cancelled at once when who asked goes away."""


def argument(arguments: Arguments, name: str, kind: type[_T]) -> _T:
    """The argument `name`, checked to be a `kind` (a bool is no int).

    Raises UserError (wrong usage) when it is missing or something else.
    """
    value = arguments.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"the request's {name!r} must be a {kind.__name__}", ExitCode.WRONG_USAGE)
    return value


async def serve_control(
    home: Home,
    handlers: Mapping[str, Handler | Streaming],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    *,
    transport: Transport | None = None,
) -> None:
    """Take commands until cancelled; the caller holds the home's lock.

    `transport` None is what this system has. Raises UserError before it has started when the
    socket cannot be made.
    """
    if transport is None:
        transport = "unix" if posix.has_unix_sockets() else "loopback"
    with contextlib.ExitStack() as stack:
        try:
            secret = None
            if transport == "unix":
                listening = stack.enter_context(
                    posix.listening_unix(home.control_socket, CONNECTIONS_MAX)
                )
            else:
                listening = stack.enter_context(_listening_loopback())
                secret = stack.enter_context(_published_door(home, listening))
        except OSError as error:
            raise UserError(
                f"cannot open the control socket in {home.path}: {error.strerror or error}; "
                "mend that or choose another folder with --home"
            ) from error
        door = _Door(handlers, secret)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        task_status.started()
        await trio.serve_listeners(door.serve, [listener])


@contextlib.contextmanager
def _listening_loopback() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(CONNECTIONS_MAX)
        yield listening


@contextlib.contextmanager
def _published_door(home: Home, listening: socket.socket) -> Iterator[str]:
    """Tell the owner, and nobody else, how to ask; yields the secret."""
    secret = secrets.token_hex(32)
    path = loopback_file(home)
    content = {"port": listening.getsockname()[1], "secret": secret}
    home.write(path, json.dumps(content).encode(), secret=True)
    try:
        yield secret
    finally:
        path.unlink(missing_ok=True)


class _AskerGone(Exception):
    """The connection under a request broke: there is nobody left to answer."""


class _Refused(Exception):
    """A request line that no handler shall see; the message is for who sent it."""


class _Door:
    """Takes connections, and requests from each, one after the other."""

    def __init__(self, handlers: Mapping[str, Handler | Streaming], secret: str | None) -> None:
        self._handlers = handlers
        self._secret = secret
        self._connections = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, to its end. Raises nothing but Cancelled."""
        self._connections += 1
        try:
            async with stream:
                await self._converse(stream)
        except (_AskerGone, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._connections -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        if self._connections > CONNECTIONS_MAX:
            await _dismiss(stream, "too many commands at once; try again")
            return
        lines = _Lines(stream)
        while True:
            try:
                line = await lines.next()
            except _Refused as refused:
                await _dismiss(stream, str(refused))
                return
            if line is None:
                return
            await _send(stream, await self._answer(line, stream))

    async def _answer(self, line: bytes, stream: trio.SocketStream) -> bytes:
        """The answer line to a request line."""
        try:
            name, handler, arguments = self._read(line)
        except _Refused as refused:
            return _failure(str(refused))

        async def report(progress: Mapping[str, Any]) -> None:
            await _send(stream, _encode({"progress": progress}))

        timeout_s = handler.timeout_s if isinstance(handler, Streaming) else None
        timeout_s = HANDLER_TIMEOUT_S if timeout_s is None else timeout_s
        answer = _failure(f"gave up after {timeout_s:.0f} s")
        with trio.move_on_after(timeout_s):
            try:
                if not isinstance(handler, Streaming):
                    result = await handler(arguments)
                elif handler.ends_with_asker:
                    result = await _while_asked(stream, handler.run(arguments, report))
                else:
                    result = await handler.run(arguments, report)
                answer = _encode({"ok": True, "result": result})
            except Exception as error:  # noqa: BLE001 - none may end the daemon (rule 3)
                answer = _explained(name, error)
        return answer

    def _read(self, line: bytes) -> tuple[str, Handler | Streaming, Arguments]:
        """Name, handler and arguments of a request. Raises _Refused."""
        try:
            request = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise _Refused("a request is one JSON object on one line") from None
        if not isinstance(request, dict):
            raise _Refused("a request is one JSON object on one line")
        if self._secret is not None:
            shown = request.pop("secret", None)
            if not isinstance(shown, str) or not hmac.compare_digest(
                shown.encode(errors="replace"), self._secret.encode()
            ):
                raise _Refused("the secret is wrong")
        name = request.pop("do", None)
        if not isinstance(name, str) or name not in self._handlers:
            raise _Refused("the daemon knows no such command; is it an older meshd? restart it")
        return name, self._handlers[name], request


async def _while_asked(stream: trio.SocketStream, work: Awaitable[_T]) -> _T:
    """The result of `work`. Raises _AskerGone as soon as the other end has closed."""

    async def watch() -> None:
        await trio.lowlevel.wait_readable(stream.socket)
        try:
            waiting = await stream.socket.recv(1, trio.socket.MSG_PEEK)
        except OSError:  # reset
            waiting = b""
        if not waiting:
            raise _AskerGone
        # A request sent ahead hides the end behind it; then a report notices.

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        result = await work
        nursery.cancel_scope.cancel()
    return result


def _explained(name: str, error: Exception) -> bytes:
    """The answer to a request that failed. Raises _AskerGone."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, _AskerGone):
            raise leaf
    if isinstance(leaves[0], UserError):
        return _failure(leaves[0].message, leaves[0].exit_code)
    _log.error("control.handler_failed do=%s", name, exc_info=error)
    return _failure(f"internal error in {name!r}; the daemon's log has it")


def _leaves(error: Exception) -> Iterator[Exception]:
    """What was raised: a handler's own nursery puts it into a group."""
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


class _Lines:
    """Request lines from a stream, each within its limits of time and size."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffered = bytearray()

    async def next(self) -> bytes | None:
        """The next line; None at the end, or after too long a silence.

        Raises _Refused for a line that is too long, BrokenResourceError.
        """
        with trio.move_on_after(IDLE_TIMEOUT_S):
            while True:
                end = self._buffered.find(b"\n", 0, REQUEST_BYTES_MAX)
                if end >= 0:
                    line = bytes(self._buffered[:end])
                    del self._buffered[: end + 1]
                    return line
                if len(self._buffered) >= REQUEST_BYTES_MAX:
                    raise _Refused(f"a request has at most {REQUEST_BYTES_MAX} bytes")
                received = await self._stream.receive_some(REQUEST_BYTES_MAX)
                if not received:
                    return None
                self._buffered += received
        return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _encode(answer: Mapping[str, Any]) -> bytes:
    """One line. Raises UserError when it is too large, TypeError or ValueError when no JSON."""
    line = json.dumps(answer, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    if len(line) > ANSWER_BYTES_MAX:
        raise UserError("the answer is too large for a command; ask the gateway's HTTP interface")
    return line


def _failure(message: str, exit_code: ExitCode = ExitCode.FAILED) -> bytes:
    one_line = " ".join(message.split())
    return _encode({"ok": False, "error": one_line, "exit": int(exit_code)})


async def _send(stream: trio.SocketStream, line: bytes) -> None:
    """Raises _AskerGone when the other end is gone or does not read."""
    try:
        with trio.fail_after(IDLE_TIMEOUT_S):
            await stream.send_all(line)
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        raise _AskerGone from None


async def _dismiss(stream: trio.SocketStream, reason: str) -> None:
    """Say why this was all, and let it arrive. Raises _AskerGone, BrokenResourceError."""
    await _send(stream, _failure(reason))
    with trio.move_on_after(LINGER_S):
        await stream.send_eof()
        while await stream.receive_some(REQUEST_BYTES_MAX):
            pass
