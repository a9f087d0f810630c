"""The one place that knows how far one HTTP request's answer has got.

An answer is either a `reply` (status, headers and body in one piece) or a stream (`start`, `write`
as often as needed, `finish`). A failure becomes a reply while nothing was sent, else the stream's
last words, else a cut connection: a client never takes a broken answer for a whole one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import trio
from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope, Send

from meshd.gateway.encoding import json_bytes
from meshd.gateway.errors import Failure, error_body, error_headers, meaning
from meshd.gateway.incoming import Incoming
from meshd.trust.api_keys import KeyPolicy

HeaderList = Sequence[tuple[str, str]]


class Exchange:
    """One request and its answer."""

    def __init__(
        self, scope: Scope, headers: Headers, incoming: Incoming, send: Send, *, request_id: str
    ) -> None:
        self.scope = scope
        self.headers = headers
        self.incoming = incoming
        self.request_id = request_id
        """Lower-case hex; in headers, logs and error messages."""
        self.status: int | None = None
        """The answer's status; None: nothing was sent yet."""
        self.policy: KeyPolicy | None = None
        """Of the key that the request shows, once that is known."""
        self.headers_for_pages: HeaderList = ()
        """What the browser must read on every answer, or it keeps it from its page."""
        self._send = send
        self._is_ending = False
        self._last_words: Callable[[Failure], bytes] | None = None

    @property
    def path(self) -> str:
        """The path as the client wrote it, percent-decoded."""
        return str(self.scope["path"])

    @property
    def query(self) -> QueryParams:
        """The query's parameters."""
        return QueryParams(self.scope["query_string"])

    def path_param(self, name: str) -> str:
        """A parameter of the route that matched."""
        return str(self.scope["path_params"][name])

    def client_left(self, cancel_scope: trio.CancelScope) -> None:
        """Cancel the request; nothing to do when only the end of its answer is still on its way.

        Hypercorn reports a disconnect at every regular end too, from within our last `send`.
        """
        if not self._is_ending:
            cancel_scope.cancel()

    async def reply_json(
        self, content: object, *, status: int = 200, headers: HeaderList = ()
    ) -> None:
        """The whole answer at once, as JSON."""
        await self.reply_body(json_bytes(content), status=status, headers=headers)

    async def reply_body(self, body: bytes, *, status: int = 200, headers: HeaderList = ()) -> None:
        """The same of what is JSON already."""
        described = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            *headers,
        ]
        if self.incoming.is_complete:
            await self._start(status, described)
        else:
            await self._start(status, [*described, ("connection", "close")])
            await self.write(body)
            await self.incoming.linger()
            body = b""
        await self.finish(body)

    async def reply_empty(self, headers: HeaderList) -> None:
        """The whole answer, without content."""
        if not self.incoming.is_complete:
            headers = [*headers, ("connection", "close")]
        await self._start(204, headers)
        await self.finish()

    async def start_stream(
        self, content_type: str, headers: HeaderList, *, last_words: Callable[[Failure], bytes]
    ) -> None:
        """Send the headers of a streamed answer; `last_words` tells its client of a failure."""
        self._last_words = last_words
        described = [("content-type", content_type), ("cache-control", "no-store"), *headers]
        await self._start(200, described)

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; waits until the client has room for it."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """Send the last piece of the body."""
        self._is_ending = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def fail(self, failure: Failure) -> None:
        """Tell the client that there is no (complete) answer, if that is still possible."""
        if self._is_ending:
            return
        if self.status is None:
            await self.reply_json(
                error_body(failure), status=meaning(failure).status, headers=error_headers(failure)
            )
        elif self._last_words is not None:
            await self.finish(self._last_words(failure))

    async def _start(self, status: int, headers: HeaderList) -> None:
        self.status = status
        message: dict[str, Any] = {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (name.encode("ascii"), value.encode("ascii", "replace"))
                for name, value in [
                    *headers,
                    *self.headers_for_pages,
                    ("x-meshd-request", self.request_id),
                ]
            ],
        }
        await self._send(message)
