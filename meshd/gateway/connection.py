"""The one place that handles one client's TCP connection, with Hypercorn's HTTP/1.1.

Hypercorn's own connection waits without limit for a client that does not read, shielded from any
cancellation; `ClientStream` bounds that. HTTP/2 and WebSockets are not offered: a request to
upgrade is answered as if it had not asked.
"""

import contextlib
import ssl
from typing import Any, Final, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, H11SendableEvent
from hypercorn.utils import parse_socket_addr, wrap_app
from starlette.types import ASGIApp

from meshd.gateway.encoding import json_bytes
from meshd.gateway.errors import Refusal, error_body
from meshd.gateway.limits import Limits
from meshd.write_lock import WriteLock

_WRITE_BYTES = 64 * 1024
# Also what may slip past `header_bytes_max` in one read.
_READ_BYTES = 16 * 1024
_LINGER_BYTES = 1024 * 1024
_CANNOT_USE = (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError)
CLIENT: Final = "meshd.client"
"""Under this name a request's scope has the ClientStream that it came by, in its `state`."""


class ClientStream(trio.abc.HalfCloseableStream):
    """A socket whose other end may be slow, silent or gone."""

    def __init__(self, stream: trio.SocketStream, limits: Limits) -> None:
        self.socket = stream.socket
        self._stream = stream
        self.limits = limits
        self._is_reading = False
        self._is_writing = False
        self.is_answered = False
        """A request that came by it, whole, is being answered: its connection is not to be ended
        for want of room."""
        self.is_aborted = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send; a client that stops taking data loses its connection (BrokenResourceError)."""
        self._is_writing = True
        try:
            for start in range(0, len(data), _WRITE_BYTES):
                with trio.move_on_after(self.limits.write_stall_s) as stall:
                    await self._send_some(data[start : start + _WRITE_BYTES])
                if stall.cancelled_caught:
                    self.abort()
                    raise trio.BrokenResourceError("the client does not take its answer")
        finally:
            self._is_writing = False

    async def _send_some(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BusyResourceError, trio.ClosedResourceError):
            # TLS, whose last word this may be, takes it for an end and not for a mistake of ours.
            raise trio.BrokenResourceError("the connection is being closed") from None

    async def wait_send_all_might_not_block(self) -> None:
        """Part of trio's interface."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive; an end of the data also ends a `send_all` that waits for this client."""
        self._is_reading = True
        try:
            data = await self._stream.receive_some(_READ_BYTES)
        except trio.BusyResourceError:
            raise trio.BrokenResourceError("it is being closed") from None
        finally:
            self._is_reading = False
        if not data and self._is_writing:
            self.abort()
        return data

    async def send_eof(self) -> None:
        """Say that no more data follows."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close. Unread data is taken for a while, or the client would lose our last words."""
        try:
            if not self._is_reading:
                with contextlib.suppress(*_CANNOT_USE):
                    await self._stream.send_eof()
                await self._linger()
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once; whoever waits on this stream gets an error."""
        self.is_aborted = True
        self.socket.close()

    async def _linger(self) -> None:
        room = _LINGER_BYTES
        with trio.move_on_after(self.limits.linger_s):
            while room > 0:
                try:
                    data = await self._stream.receive_some(_READ_BYTES)
                except _CANNOT_USE:
                    return
                if not data:
                    return
                room -= len(data)


class Http1(H11Protocol):
    """HTTP/1.1 and nothing else, with errors that clients of the API can read."""

    _unsent = b""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn would switch to HTTP/2 here; we decline every proposal to switch.

        Else h11 would pause at the request's end for our decision, and Hypercorn would stop
        reading: a client that proposes (Java's does by default) could go unnoticed.
        """
        assert isinstance(self.connection, h11.Connection), "no WebSocket is ever made"
        self.connection._cstate.pending_switch_proposals.clear()

    async def _create_stream(self, request: h11.Request) -> None:
        headers = [pair for pair in request.headers if pair[0] != b"upgrade"]
        if len(headers) < len(request.headers):
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=headers,
                http_version=request.http_version,
            )
        await super()._create_stream(request)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        # As Hypercorn does, but headers leave together with what follows them: one packet.
        try:
            self._unsent += self.connection.send(event) or b""
        except h11.LocalProtocolError:
            # What the client sent was no HTTP: nothing more can be said to it.
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if self._unsent and not isinstance(event, h11.Response):
            data, self._unsent = self._unsent, b""
            await self.send(RawData(data=data))

    async def refuse_slow_headers(self) -> None:
        """Tell a client that has begun a request and does not get on with it."""
        if self.connection.our_state is h11.IDLE and self.connection.trailing_data[0]:
            await self._send_error_response(408)

    async def _send_error_response(self, status_code: int) -> None:
        if status_code == 431:
            refusal = Refusal("headers_too_large", "The request's headers are too large.")
        elif status_code == 408:
            refusal = Refusal("headers_too_slow", "The request's headers did not arrive in time.")
        else:
            refusal = Refusal("bad_request", "The request is not valid HTTP/1.1.")
        body = json_bytes(error_body(refusal))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class Connection(TCPServer):
    """One connection, from accept to close."""

    def __init__(
        self,
        app: ASGIApp,
        config: Config,
        context: WorkerContext,
        client: ClientStream,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        # Hypercorn and Starlette spell the same protocol in different types.
        wrapped = wrap_app(cast("Any", app), 0, "asgi")
        self._client = client
        self._tls = None if tls is None else trio.SSLStream(client, tls, server_side=True)
        # It annotates the TLS stream, and takes any stream.
        super().__init__(wrapped, config, context, {}, cast("Any", self._tls or client))
        self.send_lock = cast("Any", WriteLock())

    async def run(self) -> None:
        """Serve requests until either side closes. May raise what Hypercorn has not foreseen."""
        sock = self._client.socket
        try:
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
        except OSError:
            client = server = None
        if self._tls is not None and not await self._shake_hands(self._tls):
            return
        try:
            async with TaskGroup() as task_group:
                self._task_group = task_group
                protocol = Http1(
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    ConnectionState({CLIENT: self._client}),
                    self._tls is not None,
                    client,
                    server,
                    self.protocol_send,
                )
                # It has the two methods of ProtocolWrapper that TCPServer calls.
                self.protocol = cast("Any", protocol)
                await self.idle_task.restart(task_group, self._idle_timeout)
                await self._read_data()
                # Else a connection that its client has closed stays for the rest of its idle time.
                await self.idle_task.stop()
        finally:
            await self._close()

    async def _shake_hands(self, tls: "trio.SSLStream[ClientStream]") -> bool:
        """Begin TLS; False when the client does not, or not in time."""
        try:
            with trio.fail_after(self._client.limits.handshake_s):
                await tls.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return False
        return True

    async def _idle_timeout(self) -> None:
        # As Hypercorn does, but a client that is in the middle of a request hears why it ends.
        with trio.move_on_after(self.config.keep_alive_timeout):
            await self.context.terminated.wait()
        with trio.CancelScope(shield=True):
            if not self.context.terminated.is_set():
                await cast("Http1", self.protocol).refuse_slow_headers()
            await self._initiate_server_close()
