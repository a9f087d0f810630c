"""Connections, sizes, times and the end, over real TCP."""

import contextlib
import functools
import socket
import subprocess
import sys

import h11
import pytest
import trio
import trio.testing

from meshd.gateway.limits import Limits
from meshd.gateway.server import serve
from runtimes.base import Chunk, Finished, Started
from tests.meshd.gateway.fake_mesh import HELLO, FakeMesh
from tests.meshd.gateway.raw_http import (
    LIMITS,
    chat_bytes,
    gateway,
    read_reply,
    read_until,
    request_bytes,
)

CHAT_PATH = "/v1/chat/completions"


@pytest.mark.parametrize("expect", [None, "100-continue"])
def test_an_announced_body_that_is_too_large(expect: str | None) -> None:
    """It is refused before it is sent."""

    async def main() -> None:
        async with (
            gateway(FakeMesh(), Limits(linger_s=0.1)) as running,
            await running.connect() as stream,
        ):
            request = request_bytes(
                "POST", CHAT_PATH, content_length=str(8 * 1024 * 1024 + 1), expect=expect
            )
            await stream.send_all(request)
            reply = await read_reply(stream)
            assert (reply.status, reply.error["code"]) == (413, "body_too_large")
            assert reply.headers["connection"] == "close"
            assert await stream.receive_some(1) == b""

    trio.run(main)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_too_much_still_reads_the_refusal(chunked: bool) -> None:
    """What is too much is taken and dropped for a while, so that no reset eats the answer."""

    async def main() -> None:
        limits = Limits(body_bytes_max=100_000)
        size = 3_000_000
        async with gateway(FakeMesh(), limits) as running, await running.connect() as stream:
            if chunked:
                head = request_bytes("POST", CHAT_PATH, transfer_encoding="chunked")
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b" " * size)
            else:
                head = request_bytes("POST", CHAT_PATH, content_length=str(size))
                body = b" " * size
            await stream.send_all(head + body)
            reply = await read_reply(stream)
            assert (reply.status, reply.error["code"]) == (413, "body_too_large")

    trio.run(main)


def test_a_slow_body_is_cut_off() -> None:
    """A body that does not arrive in time is a 408, and the connection ends."""

    async def main() -> None:
        mesh = FakeMesh()
        limits = Limits(body_s=0.1, linger_s=0.1)
        async with gateway(mesh, limits) as running, await running.connect() as stream:
            await stream.send_all(chat_bytes()[:-5])
            reply = await read_reply(stream)
            assert (reply.status, reply.error["code"]) == (408, "body_too_slow")
            assert await stream.receive_some(1) == b""
            assert not mesh.requests

    trio.run(main)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nhost: local"])
def test_slow_headers_are_cut_off(sent: bytes) -> None:
    """A connection that never completes a request ends; who has begun one hears why."""

    async def main() -> None:
        async with (
            gateway(FakeMesh(), Limits(keep_alive_s=0.1)) as running,
            await running.connect() as stream,
        ):
            await stream.send_all(sent)
            with trio.fail_after(2):
                if sent:
                    reply = await read_reply(stream)
                    assert (reply.status, reply.json["error"]["code"]) == (408, "headers_too_slow")
                assert await stream.receive_some(1) == b""

    trio.run(main)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 100_000, 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nhost: localhost", 431),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2", 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.example", 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + b"9" * 50, 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip", 501),
        (b"GET / HTTP/1.1", 400),
        (b"\x00\x01\x02", 400),
    ],
)
def test_what_is_no_http_is_refused_in_the_same_shape(head: bytes, status: int) -> None:
    """Even below the routes, errors are the API's errors."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running, await running.connect() as stream:
            await stream.send_all(head + b"\r\n\r\n")
            reply = await read_reply(stream)
            assert reply.status == status
            assert reply.json["error"]["type"] == "invalid_request_error"
            assert await stream.receive_some(1) == b""

    trio.run(main)


def test_a_client_with_too_many_headers_can_send_them_all() -> None:
    """The rest is taken and dropped for a while, so that the client comes to read the refusal."""

    async def main() -> None:
        async with (
            gateway(FakeMesh(), Limits(linger_s=10.0)) as running,
            await running.connect(send_buffer=4096) as stream,
        ):
            await stream.send_all(b"GET / HTTP/1.1\r\nx: " + b"x" * 900_000)
            assert (await read_reply(stream)).status == 431

    trio.run(main)


def test_a_body_that_is_no_body_cancels_its_request() -> None:
    """Broken chunks are a 400 at once."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running, await running.connect() as stream:
            head = request_bytes("POST", CHAT_PATH, transfer_encoding="chunked")
            await stream.send_all(head + b"zz\r\n")
            assert (await read_reply(stream)).status == 400

    trio.run(main)


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_upgrades_are_declined(protocol: str) -> None:
    """A request that offers another protocol is answered in HTTP/1.1."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running, await running.connect() as stream:
            request = request_bytes(
                "GET",
                "/healthz",
                connection="upgrade, http2-settings",
                upgrade=protocol,
                http2_settings="AAMAAABkAAQAAP__",
                sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==",
                sec_websocket_version="13",
            )
            for _ in range(2):
                await stream.send_all(request)
                assert (await read_reply(stream)).json == {"status": "ok"}

    trio.run(main)


def test_connections_have_a_limit() -> None:
    """One too many waits while the others are being answered, and is served after that."""

    async def main() -> None:
        gate = trio.Event()
        mesh = FakeMesh(accept_after=gate)
        async with (
            gateway(mesh, Limits(connections_max=1)) as running,
            await running.connect() as first,
        ):
            await first.send_all(chat_bytes())
            await mesh.entered.wait()
            async with await running.connect() as second:
                await second.send_all(request_bytes("GET", "/healthz"))
                with trio.move_on_after(0.1) as waiting:
                    await second.receive_some(1)
                assert waiting.cancelled_caught
                gate.set()
                assert (await read_reply(first)).status == 200
                assert (await read_reply(second)).status == 200

    trio.run(main)


def test_shutdown_lets_a_short_request_end() -> None:
    """What ends in time ends whole; idle connections close at once."""

    async def main() -> None:
        gate = trio.Event()
        mesh = FakeMesh((*HELLO[:2], gate, *HELLO[2:]))
        async with gateway(mesh, Limits(shutdown_s=5)) as running:
            idle, busy = await running.connect(), await running.connect()
            async with idle, busy:
                await busy.send_all(chat_bytes(stream=True))
                await read_until(busy, b"Hel")
                running.shutdown.set()
                assert await idle.receive_some(1) == b""
                gate.set()
                await read_until(busy, b"[DONE]")
                with trio.fail_after(1):
                    await running.ended.wait()

    trio.run(main)


@pytest.mark.parametrize("by_cancelling", [False, True])
def test_shutdown_ends_a_long_stream_with_a_word(by_cancelling: bool) -> None:
    """A stream that goes on is told that the node stops, in bounded time, cancelled or asked."""

    async def main() -> None:
        mesh = FakeMesh((Started((1,)), Chunk((2,), "a"), trio.Event()))
        async with gateway(mesh) as running, await running.connect() as stream:
            await stream.send_all(chat_bytes(stream=True))
            await read_until(stream, b'"a"')
            with trio.fail_after(LIMITS.shutdown_s + LIMITS.farewell_s + 1):
                if by_cancelling:
                    running.nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True):
                        await mesh.left.wait()
                    return
                running.shutdown.set()
                last = await read_until(stream, b"\r\n0\r\n\r\n")
                assert b'{"error":{"message":"This node is stopping' in last
                assert b"[DONE]" not in last
                await running.ended.wait()

    trio.run(main)


def test_cancelling_serve_is_an_orderly_end() -> None:
    """The client of a cancelled gateway gets the same last word."""

    async def main() -> None:
        mesh = FakeMesh((Started((1,)), Chunk((2,), "a"), trio.Event()))
        with socket.create_server(("127.0.0.1", 0)) as listening, trio.fail_after(5):
            async with trio.open_nursery() as client, trio.open_nursery() as nursery:
                await nursery.start(functools.partial(serve, mesh, [listening], limits=LIMITS))
                stream = await trio.open_tcp_stream(*listening.getsockname())
                await stream.send_all(chat_bytes(stream=True))
                await read_until(stream, b'"a"')
                client.start_soon(read_until, stream, b"This node is stopping")
                nursery.cancel_scope.cancel()
            await stream.aclose()

    trio.run(main)


def test_shutdown_does_not_wait_for_a_client_that_does_not_read() -> None:
    """Neither a blocked write nor a body that never comes holds the end up."""

    async def main() -> None:
        mesh = FakeMesh((), endless="x" * 65536)
        async with gateway(mesh, LIMITS) as running:
            deaf, slow = await running.connect(receive_buffer=4096), await running.connect()
            async with deaf, slow:
                await deaf.send_all(chat_bytes(stream=True))
                await slow.send_all(chat_bytes()[:-5])
                await mesh.entered.wait()
                await trio.testing.wait_all_tasks_blocked(0.05)
                running.shutdown.set()
                with trio.fail_after(LIMITS.shutdown_s + LIMITS.farewell_s + 1):
                    await running.ended.wait()
                assert mesh.running == 0

    trio.run(main)


def test_the_sockets_stay_the_callers() -> None:
    """Several sockets are served at one time, and serve again after a first gateway has ended."""

    async def once(sockets: list[socket.socket]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, FakeMesh(), sockets)
            for each in sockets:
                async with await trio.open_tcp_stream(*each.getsockname()[:2]) as stream:
                    await stream.send_all(request_bytes("GET", "/healthz"))
                    assert (await read_reply(stream)).status == 200
            nursery.cancel_scope.cancel()

    async def main() -> None:
        with contextlib.ExitStack() as stack, trio.fail_after(5):
            sockets = [
                stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)
            ]
            for _ in range(2):
                await once(sockets)

    trio.run(main)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is the command line's alone; the gateway has no banner."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            assert (await running.chat()).status == 200
            assert (await running.ask("GET", "/nope")).status == 404

    trio.run(main)
    assert capfd.readouterr() == ("", "")


def test_a_cut_answer_is_no_answer() -> None:
    """The raw client of these tests notices a missing end, so the tests above mean something."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc")
        await theirs.aclose()
        with pytest.raises(h11.RemoteProtocolError):
            await read_reply(ours)

    trio.run(main)


def test_a_burst_of_requests() -> None:
    """Many clients at one time all get their own answers."""

    async def main() -> None:
        steps = (Started((1,)), Chunk((2,), "a"), Finished("stop", 1, 1))
        async with gateway(FakeMesh(steps)) as running:
            answers: list[str] = []

            async def one() -> None:
                reply = await running.chat()
                answers.append(reply.json["choices"][0]["message"]["content"])

            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(one)
            assert answers == ["a"] * 100

    trio.run(main)


def test_the_gateway_is_light() -> None:
    """Serving needs no HTTP client, no terminal library, no arrays, and no models until asked."""
    script = (
        "import sys, meshd.gateway.server\n"
        "heavy = {'httpx', 'typer', 'rich', 'numpy', 'llama_cpp', 'openai', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
