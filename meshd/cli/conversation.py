"""The one place where a command talks with a model, through a gateway's OpenAI interface.

Standard library only: a chat must start at once.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import ipaddress
import json
import socket
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshd.failures import UserError

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 620.0
"""Between two lines: the gateway ends a request after 600 s by itself."""
LINE_BYTES_MAX = 1024 * 1024
REFUSAL_BYTES_MAX = 64 * 1024
_SERVED_BY = b": meshd nodes="


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where a gateway is, and what it takes to get in."""

    url: str
    """`http://HOST:PORT`, or `https://`."""
    key: str | None = dataclasses.field(default=None, repr=False)
    """An API key; None: it needs none."""
    fingerprint: str | None = None
    """SHA-256 of the certificate that it must have, in hex; that is all that is looked at. The
    daemon itself tells it, so neither names nor dates matter."""


class Answer:
    """An answer under way: iterate over its text, once."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.node = response.getheader("x-meshd-node") or ""
        """Who answers, by name; empty when the gateway does not say."""
        self.nodes: Sequence[str] = ()
        """Known at the end: all who gave a part of it, in order."""
        self.finish_reason: str | None = None
        """Known at the end."""
        self._response = response

    def __iter__(self) -> Iterator[str]:
        """The text as it comes. Raises UserError when the answer breaks off."""
        while True:
            with _explained("the answer broke off"):
                line = self._response.readline(LINE_BYTES_MAX)
            if not line.endswith(b"\n"):
                raise UserError("the answer broke off: the gateway closed the connection")
            if line.startswith(_SERVED_BY):
                self.nodes = line.removeprefix(_SERVED_BY).decode().split()[0].split(",")
            if not line.startswith(b"data:"):
                continue  # comments, event names and the blank lines between events
            content = line.removeprefix(b"data:").strip()
            if content == b"[DONE]":
                return
            with _explained("the answer broke off"):
                data = json.loads(content)
            if isinstance(data, dict):
                yield from self._texts(data)

    def _texts(self, data: Mapping[str, Any]) -> Iterator[str]:
        """The text in one event."""
        if data.get("error"):
            raise UserError(_message_of(data))
        choices = data.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            text = delta.get("content") if isinstance(delta, dict) else None
            if isinstance(text, str) and text:
                yield text
            reason = choice.get("finish_reason")
            if isinstance(reason, str):
                self.finish_reason = reason


@contextlib.contextmanager
def asking(
    gateway: str | Door,
    model: str,
    messages: Sequence[Mapping[str, str]],
    *,
    max_tokens: int | None = None,
) -> Iterator[Answer]:
    """Ask `model` through `gateway` (its URL, if that is all); leaving cancels the request.

    Raises UserError when the gateway is out of reach or refuses.
    """
    body: dict[str, Any] = {"model": model, "messages": list(messages), "stream": True}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    door = Door(url=gateway) if isinstance(gateway, str) else gateway
    with contextlib.closing(_connection_to(door.url)) as connection:
        with _explained(f"cannot reach the gateway {door.url}"):
            connection.connect()
            _check_certificate(connection.sock, door.fingerprint)
            connection.sock.settimeout(SILENCE_TIMEOUT_S)
        with _explained("the gateway did not answer"):
            headers = {"content-type": "application/json", "accept": "text/event-stream"}
            if door.key is not None:
                headers["authorization"] = f"Bearer {door.key}"
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
        with contextlib.closing(response):
            if response.status != http.HTTPStatus.OK:
                with _explained("the gateway did not answer"):
                    refusal = response.read(REFUSAL_BYTES_MAX)
                raise UserError(_refusal_text(response.status, refusal))
            yield Answer(response)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn failures of the connection, and bytes that make no sense, into a UserError."""
    try:
        yield
    except TimeoutError as error:
        raise UserError(f"{what}: nothing came for too long; try again") from error
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{what}: {reason}; see what meshd status says") from error


def _connection_to(gateway: str) -> http.client.HTTPConnection:
    """Not connected yet. A gateway on all addresses is reached on loopback."""
    with _explained(f"cannot reach the gateway {gateway}"):
        url = urllib.parse.urlsplit(gateway)
        host, port = url.hostname or "", url.port
    if url.scheme not in ("http", "https") or not host or port is None:
        raise UserError(f"the gateway's address {gateway!a} makes no sense; restart the daemon")
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    if url.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # see _check_certificate
    return http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=context)


def _check_certificate(connected: socket.socket, fingerprint: str | None) -> None:
    """Before anything is sent. Raises ValueError for another certificate than the daemon's."""
    if not isinstance(connected, ssl.SSLSocket):
        return
    certificate = connected.getpeercert(binary_form=True) or b""
    if hashlib.sha256(certificate).hexdigest() != fingerprint:
        raise ValueError("another program answers there")


def _refusal_text(status: int, body: bytes) -> str:
    try:
        refusal = json.loads(body)
    except (ValueError, RecursionError):
        refusal = None
    said = _message_of(refusal) if isinstance(refusal, dict) else ""
    return said or f"the gateway refused with HTTP status {status}"


def _message_of(failure: Mapping[str, Any]) -> str:
    """The message in OpenAI's shape of an error."""
    error = failure.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "no reason given")
