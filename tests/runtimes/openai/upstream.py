"""The one place for an OpenAI-compatible server that does as a test tells it, down to the bytes."""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import h11
import trio
import trio.testing

from runtimes.base import Runtime
from runtimes.openai.settings import UpstreamSettings, read_settings
from runtimes.openai.source import UpstreamSource

TIMEOUT_S = 20.0
"""Only a hang comes near it."""
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
DONE = b"data: [DONE]\n\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A request that reached the server."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  # the test knows the shape
        """The body's content."""
        return json.loads(self.body)


Script = Callable[[Seen, trio.SocketStream], Awaitable[None]]


class Upstream:
    """Lists `models`, and answers everything else by `script`, a connection each."""

    def __init__(self, script: Script | None = None) -> None:
        self.models: list[dict[str, Any]] = [{"id": "m"}]
        self.base = "/v1"
        self.on_models: Script | None = None
        """Instead of the list."""
        self.told: dict[str, object] = {}
        """What it answers to a GET besides the list, by path; a script, or JSON."""
        self.script = script or saying("Hi")
        self.seen: list[Seen] = []
        """Requests for tokens."""
        self.looked_at: list[str] = []
        """Paths of requests for the list of models."""
        self.port = 0
        self._scope = trio.CancelScope()
        self._listening = trio.CancelScope()

    @property
    def looks(self) -> int:
        """How often the list was asked for."""
        return len(self.looked_at)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Upstream"]:
        """Listen, on the same port as the last time."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve)
            yield self
            nursery.cancel_scope.cancel()

    async def die(self) -> None:
        """End as a killed process does: no listener, and every connection is closed."""
        self._scope.cancel()
        await self._ended.wait()

    async def vanish(self) -> None:
        """End as a host does that is switched off: nothing listens, and no connection closes."""
        self._listening.cancel()
        await trio.testing.wait_all_tasks_blocked()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        self._ended = trio.Event()
        try:
            with trio.CancelScope() as self._scope:
                listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
                self.port = listeners[0].socket.getsockname()[1]
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    with trio.CancelScope() as self._listening:
                        await trio.serve_listeners(self._answer, listeners, handler_nursery=nursery)
                    await trio.sleep_forever()
        finally:
            self._ended.set()

    async def _answer(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # the client went away: its right
            seen = await _read_request(stream)
            if seen is None:
                return
            if seen.method == "GET" and seen.path in self.told:
                told = self.told[seen.path]
                await (told if callable(told) else replying(200, told))(seen, stream)
            elif seen.method == "GET":
                self.looked_at.append(seen.path)
                if self.on_models is not None:
                    await self.on_models(seen, stream)
                elif seen.path == f"{self.base}/models":
                    await replying(200, {"object": "list", "data": self.models})(seen, stream)
                else:
                    await replying(404, {"detail": "Not Found"})(seen, stream)
            else:
                self.seen.append(seen)
                await self.script(seen, stream)


async def _read_request(stream: trio.SocketStream) -> Seen | None:
    http = h11.Connection(h11.SERVER)
    request, body = None, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(65_536)))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            headers = {name.decode(): value.decode() for name, value in request.headers}
            return Seen(request.method.decode(), request.target.decode(), headers, bytes(body))
        else:
            return None


def replying(status: int, content: object, *headers: str) -> Script:
    """An answer in one piece; bytes as they are, else as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]

    async def script(seen: Seen, stream: trio.SocketStream) -> None:
        del seen
        await stream.send_all("\r\n".join([*lines, "\r\n"]).encode() + body)

    return script


def sending(*pieces: bytes) -> Script:
    """These bytes, and then the connection's end."""

    async def script(seen: Seen, stream: trio.SocketStream) -> None:
        del seen
        for piece in pieces:
            await stream.send_all(piece)

    return script


def streaming(*events: object) -> Script:
    """A proper stream of these events."""
    return sending(STREAM_HEAD, *(event_of(event) for event in events), DONE)


def saying(*texts: str, reason: str = "stop", **last: object) -> Script:
    """A chat answer, a delta for each text; `last` are fields of the last event."""
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **last}
    return streaming(delta_of({"role": "assistant", "content": ""}), *map(said, texts), end)


def event_of(content: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def said(text: str) -> dict[str, Any]:
    """The event of some text in a chat."""
    return delta_of({"content": text})


def delta_of(delta: dict[str, Any]) -> dict[str, Any]:
    """The event of a delta in a chat."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


class Hanging:
    """A script that sends these bytes, then waits until the client hangs up."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.is_asked = trio.Event()
        self.has_hung_up = trio.Event()

    async def __call__(self, seen: Seen, stream: trio.SocketStream) -> None:
        """One request."""
        for piece in self.pieces:
            await stream.send_all(piece)
        self.is_asked.set()
        try:
            assert await stream.receive_some(1) == b""
        finally:
            self.has_hung_up.set()


class ServedSource:
    """A source that is served, and what changed."""

    def __init__(self, source: UpstreamSource) -> None:
        self.source = source
        self._changed = trio.Event()

    @property
    def names(self) -> list[str]:
        """The models that are offered now."""
        return [runtime.card.name for runtime in self.source.runtimes if runtime.card is not None]

    def on_change(self) -> None:
        """The callback for `serve`."""
        self._changed.set()

    async def until(self, check: Callable[[], bool]) -> None:
        """Wait until a change made `check` true."""
        with trio.fail_after(TIMEOUT_S):
            while not check():
                self._changed = trio.Event()
                await self._changed.wait()


def settings_for(url: str, **changes: Any) -> UpstreamSettings:  # noqa: ANN401  # any field
    """Settings that look often."""
    quick = {"look_s": 0.05, "look_s_max": 0.1, "look_pause_s": 0.01}
    return dataclasses.replace(read_settings(url, {}), **{**quick, **changes})


@contextlib.asynccontextmanager
async def source_served(url: str, **changes: Any) -> AsyncIterator[ServedSource]:  # noqa: ANN401
    """Serve the upstream at `url`; does not wait for its models."""
    served = ServedSource(UpstreamSource(settings_for(url, **changes)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.source.serve, served.on_change)
        yield served
        nursery.cancel_scope.cancel()


RuntimeTest = Callable[[Runtime, Upstream], Awaitable[None]]


def with_runtime(script: Script, test: RuntimeTest, **settings: Any) -> None:  # noqa: ANN401
    """Run `test` with the model of an upstream that answers by `script`."""

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with (
                Upstream(script).running() as upstream,
                source_served(upstream.url, **settings) as served,
            ):
                await served.until(lambda: served.names == ["m"])
                await test(served.source.runtimes[0], upstream)

    trio.run(main)
