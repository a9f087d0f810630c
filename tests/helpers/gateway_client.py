"""The one place for the HTTP client of tests against real gateways: blocking, with a deadline."""

import dataclasses
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

TIMEOUT_S = 60.0
"""Longest silence on a connection."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  # the test knows the shape
        """The body's content."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The answer of a chat completion."""
        assert self.status == 200, self
        return str(self.json["choices"][0]["message"]["content"])

    @property
    def error(self) -> dict[str, Any]:
        """The OpenAI error object; fails when the answer has not exactly that shape."""
        content = self.json
        assert set(content) == {"error"}, content
        assert set(content["error"]) == {"message", "type", "param", "code"}, content
        assert self.headers["x-meshd-request"]
        error: dict[str, Any] = content["error"]
        return error


class Stream:
    """A streamed answer; close it, or read it to its end."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._response = connection.getresponse()
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}
        self.comments: list[str] = []
        """What has come of them."""

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def events(self) -> Iterator[Any]:
        """The JSON of each event; `[DONE]` comes as that string."""
        while line := self._response.readline():
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ").strip()
                yield "[DONE]" if data == b"[DONE]" else json.loads(data)
            elif line.startswith(b": "):
                self.comments.append(line.removeprefix(b": ").strip().decode())

    def first_text(self) -> str:
        """Read up to the first text."""
        for event in self.events():
            if text := text_of_event(event):
                return text
        raise AssertionError("the stream ended before its first text")

    def close(self) -> None:
        """Close the connection, whatever is still to come."""
        self._response.close()
        self._connection.close()


def text_of_event(event: Any) -> str:  # noqa: ANN401  # JSON
    """The text that an event of a streamed chat brings."""
    if isinstance(event, str) or not event.get("choices"):
        return ""
    return event["choices"][0]["delta"].get("content") or ""


def request(url: str, method: str, path: str, body: object, headers: Mapping[str, str]) -> Reply:
    """One request on a connection of its own. `body`: bytes as they are, else as JSON."""
    connection = _connect(url)
    try:
        _send(connection, method, path, body, headers)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(status=response.status, headers=names, body=response.read())
    finally:
        connection.close()


def open_stream(url: str, path: str, body: object) -> Stream:
    """Ask for a stream; returns when the headers have come."""
    connection = _connect(url)
    try:
        _send(connection, "POST", path, body, {})
        return Stream(connection)
    except BaseException:
        connection.close()
        raise


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=TIMEOUT_S, context=context
        )
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object,
    headers: Mapping[str, str],
) -> None:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is None or isinstance(body, bytes):
        connection.request(method, path, body, sent)
        return
    connection.request(method, path, json.dumps(body), {"content-type": "application/json", **sent})
