"""The one place that speaks enough of the Hugging Face Hub's API to be downloaded from.

Repositories live under /api/models/ and their files under /ORG/REPO/resolve/COMMIT/FILE, which
sends on to another server, as the real one does for large files.
"""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from typing import ClassVar

from tests.runtimes.models.fake_disk import COMMIT


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One request."""

    host: str
    """`hub` or `files`."""
    method: str
    path: str
    range: str | None
    token: str | None


class FakeHub:
    """Files by repository, and what goes wrong."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.seen: list[Seen] = []
        self.cut_after: list[int] = []
        """Each ends one answer with a file's bytes after so many of them."""
        self.statuses: list[int] = []
        """Each answers one request for a file's bytes."""
        self.api_status = 0
        """Answers what is asked about repositories."""
        self.ignores_ranges = False
        self.stalls_after: int | None = None
        """Sends so many bytes of a file and then nothing, until `released`."""
        self.released = threading.Event()
        self.stalled = threading.Event()
        self.url = ""
        self.files_url = ""

    @property
    def gets(self) -> list[Seen]:
        """The requests for a file's bytes."""
        return [seen for seen in self.seen if seen.host == "files" and seen.method == "GET"]

    @contextlib.contextmanager
    def running(self) -> Iterator["FakeHub"]:
        """Serve, on two free ports of loopback."""
        with contextlib.ExitStack() as stack:
            self.url = stack.enter_context(_serving(self, "hub"))
            self.files_url = stack.enter_context(_serving(self, "files"))
            stack.callback(self.released.set)
            yield self


@contextlib.contextmanager
def _serving(hub: FakeHub, host: str) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"hub": hub, "host": host})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        hub.released.set()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub
    host: str
    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float | None] = 10.0

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.hub.seen.append(
            Seen(
                self.host,
                self.command,
                path,
                self.headers.get("Range"),
                self.headers.get("Authorization"),
            )
        )
        with contextlib.suppress(ConnectionError):
            if self.host == "files":
                self._send_bytes(path)
            elif path.startswith("/api/models/"):
                self._send_repository(path.removeprefix("/api/models/"))
            else:
                self._send_on(path)

    def _send_repository(self, repository: str) -> None:
        repository = repository.removesuffix("/revision/main")
        if self.hub.api_status:
            self._refuse(self.hub.api_status)
        elif repository in self.hub.gated:
            self._refuse(401, "GatedRepo")
        elif repository not in self.hub.files:
            self._refuse(401, "RepoNotFound")
        else:
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": "0" * 40}
                for name, data in self.hub.files[repository].items()
            ]
            content = {"id": repository, "sha": COMMIT, "siblings": siblings}
            body = json.dumps(content).encode()
            self._start(200, {"Content-Type": "application/json"}, len(body))
            self.wfile.write(body)

    def _send_on(self, path: str) -> None:
        repository, _, rest = path.strip("/").partition("/resolve/")
        data = self.hub.files.get(repository, {}).get(rest.partition("/")[2])
        if data is None:
            self._refuse(404, "EntryNotFound")
            return
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "Location": self.hub.files_url + path,
        }
        self._start(302, headers, 0)

    def _send_bytes(self, path: str) -> None:
        repository, _, rest = path.strip("/").partition("/resolve/")
        data = self.hub.files[repository][rest.partition("/")[2]]
        if self.hub.statuses:
            self._refuse(self.hub.statuses.pop(0))
            return
        start = 0
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        wanted = self.headers.get("Range")
        if wanted and not self.hub.ignores_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._start(206 if "Content-Range" in headers else 200, headers, len(data) - start)
        end = len(data)
        if self.hub.cut_after:
            end = start + self.hub.cut_after.pop(0)
            self.close_connection = True
        if self.hub.stalls_after is not None:
            self.wfile.write(data[start : start + self.hub.stalls_after])
            self.hub.stalled.set()
            self.hub.released.wait(30)
            return
        self.wfile.write(data[start:end])

    def _refuse(self, status: int, code: str = "") -> None:
        self._start(status, {"X-Error-Code": code} if code else {}, 0)

    def _start(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
