"""The one place that speaks HTTP to an upstream: one request on a connection of its own.

Not through httpx: an answer that is left early leaves five unfinished async generators there,
which trio warns of, and the finder of upstreams would load it into every daemon. A connection is
never used twice: what an upstream closed meanwhile cannot fail a request, and closing the
connection is what cancels.
"""

import math
import os
import socket
import ssl
from collections.abc import Iterator

import h11
import trio

from runtimes.base import RuntimeFailure
from runtimes.openai.settings import UpstreamSettings

READ_BYTES = 64 * 1024
HEADERS_BYTES_MAX = 64 * 1024


class Unreachable(RuntimeFailure):
    """There is no connection to be had: nothing listens, or its host is gone."""

    def __init__(self, why: str) -> None:
        super().__init__("unavailable", f"the upstream cannot be reached ({why})")


class Silent(RuntimeFailure):
    """The upstream took the connection, and then said nothing for too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__("crashed", f"the upstream was silent for {seconds:g} s")


class Call:
    """One request and its answer. Close it with `aclosing`, whatever happened."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADERS_BYTES_MAX)
        self._stream: trio.abc.Stream | None = None
        self._response: h11.Response | None = None

    @property
    def status(self) -> int:
        """The answer's status; `open` must have returned."""
        assert self._response is not None
        return int(self._response.status_code)

    def headers(self) -> Iterator[tuple[str, str]]:
        """The answer's headers, names in lower case; `open` must have returned."""
        assert self._response is not None
        for name, value in self._response.headers:
            yield name.decode("ascii", "replace"), value.decode("latin-1")

    def header(self, name: str) -> str:
        """One header of the answer, the first of that name; empty when there is none."""
        return next((value for key, value in self.headers() if key == name), "")

    async def open(self, method: str, path: str, body: bytes, *, within_s: float) -> None:
        """Send the request and wait for the answer's headers.

        Raises Unreachable, Silent, or RuntimeFailure `crashed` when what comes is no HTTP.
        """
        self._stream = await self._connect()
        headers = [
            ("host", self._settings.address.authority),
            ("user-agent", "meshd"),
            ("accept", "text/event-stream, application/json"),
            ("accept-encoding", "identity"),
            ("connection", "close"),
        ]
        if self._settings.api_key is not None:
            headers.append(("authorization", f"Bearer {self._settings.api_key}"))
        if body:
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        request = self._http.send(h11.Request(method=method, target=path, headers=headers)) or b""
        content = self._http.send(h11.Data(data=body)) if body else b""
        self._http.send(h11.EndOfMessage())
        with trio.move_on_after(within_s) as patience:
            try:
                await self._stream.send_all(request + (content or b""))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise _broken("closed the connection before the request was sent") from error
            self._response = await self._receive_response()
        if patience.cancelled_caught:
            raise Silent(within_s)
        if self.header("content-encoding").lower() not in ("", "identity"):
            raise _broken("compresses its answers, which nobody asked for")

    async def read(self, *, within_s: float = math.inf) -> bytes:
        """The next piece of the answer's body; empty at its end.

        Raises Silent, or RuntimeFailure `crashed` when the connection breaks.
        """
        with trio.move_on_after(within_s):
            event = await self._next_event()
            return bytes(event.data) if isinstance(event, h11.Data) else b""
        raise Silent(within_s)

    async def read_all(self, bytes_max: int) -> bytes:
        """The whole body, or its first `bytes_max` bytes. Raises what `read` raises."""
        body = bytearray()
        while len(body) < bytes_max and (data := await self.read()):
            body += data
        return bytes(body[:bytes_max])

    async def aclose(self) -> None:
        """Close the connection at once, also from a task that is being cancelled."""
        if self._stream is not None:
            with trio.CancelScope(shield=True):  # it does not wait, but it is a checkpoint
                await trio.aclose_forcefully(self._stream)

    async def _connect(self) -> trio.abc.Stream:
        address, limit_s = self._settings.address, self._settings.connect_s
        try:
            with trio.fail_after(limit_s):
                stream: trio.abc.Stream = await trio.open_tcp_stream(address.host, address.port)
                if not address.is_https:
                    return stream
                # Kept where `aclose` finds it, should the handshake be cancelled.
                self._stream = stream
                secured = trio.SSLStream(
                    stream,
                    ssl.create_default_context(),
                    server_hostname=address.host,
                    https_compatible=True,
                )
                await secured.do_handshake()
                return secured
        except trio.TooSlowError:
            raise Unreachable(f"no connection within {limit_s:g} s") from None
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            reason = getattr(cause, "verify_message", "") or getattr(cause, "reason", "")
            raise Unreachable(f"TLS failed: {reason or 'the connection was closed'}") from error
        except (OSError, UnicodeError) as error:  # IDNA refuses some names by UnicodeError
            raise Unreachable(_reason(error)) from error

    async def _receive_response(self) -> h11.Response:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise _broken("sends no answer")

    async def _next_event(self) -> h11.Event:
        assert self._stream is not None
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, type) and event is not h11.NEED_DATA:
                    raise _broken("sends more than one answer")
                if not isinstance(event, type):
                    return event
                data = bytes(await self._stream.receive_some(READ_BYTES))
                if not data and self._response is None:
                    raise _broken("closed the connection without an answer")
                self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise _broken(f"does not speak HTTP as it should ({error})") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _broken("broke the connection") from error


def _broken(what: str) -> RuntimeFailure:
    return RuntimeFailure("crashed", f"the upstream {what}")


def _reason(error: Exception) -> str:
    """`connection refused` out of whatever trio and the system wrap around it."""
    while isinstance(error.__cause__, OSError):
        error = error.__cause__
    cause: BaseException | None = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    chosen = cause if isinstance(cause, OSError) else error
    number = getattr(chosen, "errno", None)
    # A resolver's numbers are its own.
    if number and not isinstance(chosen, socket.gaierror):
        return os.strerror(number).lower()
    text = getattr(chosen, "strerror", None) or str(chosen) or type(chosen).__name__
    return " ".join(str(text).split())[:200]
