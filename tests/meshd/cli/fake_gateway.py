"""The one place where tests answer chat requests as a gateway would, and as a broken one might."""

import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"


def text_event(text: str, finish_reason: str | None = None) -> bytes:
    """One event of a streamed chat completion."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


class FakeGateway:
    """What to answer, and what was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = (
            b": hello\n\n" + text_event("Hel") + text_event("lo", "stop") + b": by far\n\n" + DONE
        )
        self.headers = {"content-type": "text/event-stream", "x-meshd-node": "far"}
        self.asked: list[Mapping[str, Any]] = []
        self.keys: list[str | None] = []
        """What each request showed in its header `Authorization`."""
        self.url = ""
        self.cut = False
        """End the connection in the middle of a chunk."""


@contextlib.contextmanager
def gateway_running(tls: ssl.SSLContext | None = None) -> Iterator[FakeGateway]:
    """A gateway on a free loopback port, answering as its fields say at the time."""
    gateway = FakeGateway()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            content = self.rfile.read(int(self.headers["content-length"]))
            gateway.asked.append(json.loads(content))
            gateway.keys.append(self.headers["authorization"])
            self.send_response(gateway.status)
            for name, value in gateway.headers.items():
                self.send_header(name, value)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            size = len(gateway.body) + (100 if gateway.cut else 0)
            self.wfile.write(f"{size:x}\r\n".encode() + gateway.body)
            if not gateway.cut:
                self.wfile.write(b"\r\n0\r\n\r\n" if gateway.body else b"\r\n")
            self.close_connection = gateway.cut

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that goes away is what some tests want

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        gateway.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield gateway
        finally:
            server.shutdown()
            thread.join(10)
