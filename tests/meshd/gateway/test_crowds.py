"""Slow, half-open, endless and too many connections: they end, and others are served meanwhile."""

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import h11
import pytest
import trio
import trio.testing

from meshd.gateway.connection import ClientStream
from meshd.gateway.limits import Limits
from tests.meshd.gateway.fake_mesh import FakeMesh
from tests.meshd.gateway.raw_http import (
    CHAT,
    LIMITS,
    Running,
    chat_bytes,
    gateway,
    read_reply,
    request_bytes,
)

CHAT_PATH = "/v1/chat/completions"
SLOW = {
    "silent": b"",
    "in the headers": b"POST /v1/chat/completions HTTP/1.1\r\nhost: local",
    "in the body": chat_bytes()[:-5],
    "in a chunked body": request_bytes("POST", CHAT_PATH, transfer_encoding="chunked") + b"5\r\nab",
}
CHUNKED = request_bytes("POST", CHAT_PATH, transfer_encoding="chunked")


@contextlib.asynccontextmanager
async def crowd(
    running: Running, count: int, sent: bytes
) -> AsyncIterator[list[trio.SocketStream]]:
    """So many connections that have sent so much and do not go on."""
    async with contextlib.AsyncExitStack() as stack:
        streams = []
        for _ in range(count):
            stream = await stack.enter_async_context(await running.connect())
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(sent)
            streams.append(stream)
        await trio.testing.wait_all_tasks_blocked(0.01)
        yield streams


async def is_served(running: Running) -> None:
    """A good client gets its answer."""
    with trio.fail_after(5):
        assert (await running.chat()).status == 200
        assert (await running.ask("GET", "/v1/models")).status == 200
        assert (await running.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize("how", SLOW)
def test_two_hundred_slow_clients_keep_nobody_out(how: str) -> None:
    """They take no place of a request that is there."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running, crowd(running, 200, SLOW[how]):
            await is_served(running)

    trio.run(main)


@pytest.mark.parametrize("how", SLOW)
def test_more_slow_clients_than_connections_keep_nobody_out(how: str) -> None:
    """Of those that are slow the oldest make room."""

    async def main() -> None:
        limits = Limits(connections_max=5, linger_s=0.1)
        async with gateway(FakeMesh(), limits) as running, crowd(running, 40, SLOW[how]):
            await is_served(running)

    trio.run(main)


def test_a_crowd_takes_no_answer_away() -> None:
    """Who is being answered stays, however many come."""

    async def main() -> None:
        gate = trio.Event()
        mesh = FakeMesh(accept_after=gate)
        async with (
            gateway(mesh, Limits(connections_max=3, linger_s=0.1)) as running,
            await running.connect() as good,
        ):
            await good.send_all(chat_bytes())
            await mesh.entered.wait()
            async with crowd(running, 30, SLOW["in the headers"]):
                gate.set()
                assert (await read_reply(good)).status == 200

    trio.run(main)


def test_large_slow_bodies_keep_nobody_out() -> None:
    """When they have filled the memory for bodies, the oldest of them goes."""

    async def main() -> None:
        limits = Limits(bodies_bytes_max=1_000_000, linger_s=0.1)
        head = request_bytes("POST", CHAT_PATH, content_length="400000")
        async with (
            gateway(FakeMesh(), limits) as running,
            crowd(running, 5, head + b" " * 300_000) as streams,
        ):
            body = json.dumps({**CHAT, "user": "u" * 200_000}).encode()
            assert (await running.ask("POST", CHAT_PATH, body)).status == 200
            reply = await read_reply(streams[0])
            assert (reply.status, reply.error["code"]) == (503, "overloaded")

    trio.run(main)


def test_a_trickle_of_headers_does_not_gain_time() -> None:
    """Each byte comes in time, and the whole does not."""

    async def main() -> None:
        async with (
            gateway(FakeMesh(), Limits(keep_alive_s=0.5)) as running,
            await running.connect() as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(trickle, stream, b"GET /healthz HTTP/1.1\r\nx: ", b"x")
            reply = await read_reply(stream)
            assert (reply.status, reply.json["error"]["code"]) == (408, "headers_too_slow")
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("path", [CHAT_PATH, "/v1/models", "/mesh/v1/events"])
def test_a_trickle_of_a_body_does_not_gain_time(path: str) -> None:
    """Whatever is asked: a body that goes on and on is over in time."""

    async def main() -> None:
        method = "POST" if path == CHAT_PATH else "GET"
        head = request_bytes(method, path, transfer_encoding="chunked")
        limits = Limits(body_s=0.5, linger_s=0.1)
        async with (
            gateway(FakeMesh(), limits) as running,
            await running.connect() as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(trickle, stream, head, b"1\r\nx\r\n")
            reply = await read_reply(stream)
            assert (reply.status, reply.error["code"]) == (408, "body_too_slow")
            nursery.cancel_scope.cancel()

    trio.run(main)


async def trickle(stream: trio.SocketStream, head: bytes, drop: bytes) -> None:
    """Send, and go on as long as somebody takes it."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(head)
        while True:
            await stream.send_all(drop)
            await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("head", "drop", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n" * 1000, 431),
        (b"GET /", b"x" * 10_000, 431),
        (CHUNKED, b"10000\r\n" + b" " * 0x10000 + b"\r\n", 413),
        (CHUNKED, b"1\r\n \r\n" * 10_000, 413),
        (CHUNKED, b"1;" + b"x" * 10_000, 431),
        (CHUNKED + b"0\r\n", b"x: y\r\n" * 1000, 431),
    ],
    ids=["headers", "path", "chunks", "tiny chunks", "chunk extension", "trailers"],
)
@pytest.mark.parametrize("path", [CHAT_PATH, "/mesh/v1/events"])
def test_what_never_ends_is_ended(path: str, head: bytes, drop: bytes, status: int) -> None:
    """With its status where the client still listens; then the connection is over."""

    async def main() -> None:
        limits = Limits(body_bytes_max=500_000, body_pieces_max=1_000, linger_s=0.2)
        async with gateway(FakeMesh(), limits) as running:
            async with await running.connect() as stream, trio.open_nursery() as nursery:
                sent = head
                if path != CHAT_PATH:
                    sent = head.replace(b"POST " + CHAT_PATH.encode(), b"GET " + path.encode())
                nursery.start_soon(pour, stream, sent, drop)
                assert (await read_reply(stream)).status == status
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await stream.receive_some(1) == b""
                nursery.cancel_scope.cancel()
            await is_served(running)

    trio.run(main)


@pytest.mark.parametrize("drop", [b"1;" + b"x" * 10_000, b"10\r\n" + b" " * 16 + b"\r\n"])
def test_what_never_ends_where_nothing_is_expected(
    drop: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused or cut off at once, and its end is no surprise to anybody."""

    async def main() -> None:
        head = request_bytes("POST", "/v1/models", transfer_encoding="chunked")
        async with gateway(FakeMesh(), Limits(linger_s=0.2)) as running:
            for _ in range(5):
                async with await running.connect() as stream, trio.open_nursery() as nursery:
                    nursery.start_soon(pour, stream, head, drop)
                    with contextlib.suppress(h11.RemoteProtocolError, trio.BrokenResourceError):
                        assert (await read_reply(stream)).status in (405, 431)
                        assert await stream.receive_some(1) == b""
                    nursery.cancel_scope.cancel()

    with caplog.at_level("WARNING"):
        trio.run(main)
    assert not caplog.records


async def pour(stream: trio.SocketStream, head: bytes, drop: bytes) -> None:
    """Send as fast as somebody takes it."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(head)
        while True:
            await stream.send_all(drop)


def test_whoever_uses_a_connection_that_is_being_closed_hears_that_it_is() -> None:
    """In whatever order two tasks come to it: not that another one is busy with it."""

    async def use(do: Callable[[], Awaitable[object]]) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await do()

    async def main() -> None:
        for _ in range(50):
            ours, theirs = (trio.socket.from_stdlib_socket(each) for each in socket.socketpair())
            client = ClientStream(trio.SocketStream(ours), LIMITS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.aclose)
                nursery.start_soon(use, lambda client=client: client.send_all(b"x"))
                nursery.start_soon(use, client.receive_some)
            theirs.close()

    trio.run(main)


def test_half_open_connections_keep_nobody_out() -> None:
    """A client that has closed its sending half counts as gone."""

    async def main() -> None:
        limits = Limits(connections_max=5, linger_s=0.1)
        async with gateway(FakeMesh(), limits) as running, crowd(running, 20, b"") as streams:
            for stream in streams:
                with contextlib.suppress(OSError):
                    stream.socket.shutdown(socket.SHUT_WR)
            await is_served(running)

    trio.run(main)
