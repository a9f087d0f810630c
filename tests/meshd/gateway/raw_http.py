"""A gateway on a real port, and a raw HTTP/1.1 client whose every byte the test decides."""

import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import h11
import trio

from meshd.gateway.access import Access
from meshd.gateway.keyring import Keyring
from meshd.gateway.limits import Limits
from meshd.gateway.server import serve
from tests.meshd.gateway.fake_mesh import FakeMesh

LIMITS = Limits(linger_s=0.2, shutdown_s=0.3, farewell_s=0.2)
CHAT = {"model": "org/demo", "messages": [{"role": "user", "content": "Hi"}]}
DEADLINE_S = 10


@dataclasses.dataclass
class Reply:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - the test knows the shape
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The OpenAI error object; fails when the answer has not exactly that shape."""
        content = self.json
        assert set(content) == {"error"}, content
        assert set(content["error"]) == {"message", "type", "param", "code"}
        assert self.headers["x-meshd-request"]
        error: dict[str, Any] = content["error"]
        return error


@dataclasses.dataclass
class Running:
    """A gateway that serves."""

    port: int
    nursery: trio.Nursery
    shutdown: trio.Event
    ended: trio.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def connect(self, *, receive_buffer: int = 0, send_buffer: int = 0) -> trio.SocketStream:
        """A new connection, with so many bytes of buffers in the kernel (0: its default)."""
        sock = trio.socket.socket()
        if send_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", self.port))
        return trio.SocketStream(sock)

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str | None) -> Reply:
        """One request over a connection of its own."""
        async with await self.connect() as stream:
            await stream.send_all(request_bytes(method, path, body, **headers))
            return await read_reply(stream, method)

    async def chat(self, **fields: object) -> Reply:
        """A chat request that differs from CHAT in `fields`."""
        body = json.dumps({**CHAT, **fields}).encode()
        return await self.ask("POST", "/v1/chat/completions", body)


def request_bytes(method: str, path: str, body: bytes = b"", **headers: str | None) -> bytes:
    """A request; underscores in names of headers are dashes; None leaves a header out."""
    described: dict[str, str | None] = {"host": "localhost"}
    if body:
        described["content-length"] = str(len(body))
    described |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in described.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chat_bytes(**fields: object) -> bytes:
    """A whole chat request."""
    body = json.dumps({**CHAT, **fields}).encode()
    return request_bytes("POST", "/v1/chat/completions", body)


async def read_reply(stream: trio.abc.ReceiveStream, method: str = "GET") -> Reply:
    """The next whole answer. Raises h11.RemoteProtocolError when it is cut off."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    reply = Reply(0, {}, b"")
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Response):
            reply.status = event.status_code
            reply.headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            reply.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return reply
        else:
            assert isinstance(event, h11.InformationalResponse), event


async def read_until(stream: trio.SocketStream, ending: bytes) -> bytes:
    """Bytes as they come, until `ending` is among them."""
    data = bytearray()
    while ending not in data:
        more = await stream.receive_some(65536)
        assert more, f"ended before {ending!r}: {bytes(data)!r}"
        data += more
    return bytes(data)


@contextlib.asynccontextmanager
async def gateway(
    mesh: FakeMesh,
    limits: Limits = LIMITS,
    *,
    access: Access | None = None,
    keyring: Keyring | None = None,
) -> AsyncIterator[Running]:
    """A gateway on a free port of loopback; all must be over within DEADLINE_S."""
    shutdown, ended = trio.Event(), trio.Event()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        await serve(
            mesh,
            [listening],
            limits=limits,
            access=access,
            keyring=keyring,
            shutdown=shutdown,
            task_status=task_status,
        )
        ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listening, trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            yield Running(listening.getsockname()[1], nursery, shutdown, ended)
            shutdown.set()
            await ended.wait()
            nursery.cancel_scope.cancel()
