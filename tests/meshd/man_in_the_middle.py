"""The one place where tests stand between two members: relays over real sockets.

Every relay listens on loopback and forwards to one address; what it does to the bytes in between
is what makes it an attack.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from protocol.identity import Address

Change = Callable[[bytes], tuple[bytes, bool]]
"""What becomes of a piece, and whether the connection goes on after it."""


async def _pump(source: trio.abc.Stream, sink: trio.abc.Stream, change: Change) -> None:
    try:
        goes_on = True
        while goes_on and (data := await source.receive_some(65_536)):
            changed, goes_on = change(bytes(data))
            if changed:
                await sink.send_all(changed)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(source)
        await trio.aclose_forcefully(sink)


def unchanged(data: bytes) -> tuple[bytes, bool]:
    return data, True


def flipping(place: int) -> Change:
    """One bit of the byte at `place` of all that passes becomes another."""
    passed = 0

    def change(data: bytes) -> tuple[bytes, bool]:
        nonlocal passed
        at = place - passed
        passed += len(data)
        if 0 <= at < len(data):
            data = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        return data, True

    return change


def cutting(count: int) -> Change:
    """So many bytes pass, then the connection ends."""
    left = count

    def change(data: bytes) -> tuple[bytes, bool]:
        nonlocal left
        data = data[:left]
        left -= len(data)
        return data, left > 0

    return change


@asynccontextmanager
async def relay(there: Address, up: Change, down: Change) -> AsyncIterator[Address]:
    """Forwards one TCP connection as it is, but for what `up` (towards `there`) and `down` do."""

    async def handle(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(*there)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pump, near, far, up)
            nursery.start_soon(_pump, far, near, down)

    async with _listening(handle) as address:
        yield address


@asynccontextmanager
async def terminating(
    there: Address,
    certificates: tuple[ssl.SSLContext, ssl.SSLContext],
    heard: bytearray,
) -> AsyncIterator[Address]:
    """Ends TLS here, with certificates of the middle's own (for dialing, for accepting), and
    speaks it anew with the one behind; `heard` gets every plain byte of the dialer.
    """
    dialing, accepting = certificates

    def listening_in(data: bytes) -> tuple[bytes, bool]:
        heard.extend(data)
        return data, True

    async def handle(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(*there)
        tls = trio.SSLStream(near, accepting, server_side=True, https_compatible=True)
        behind = trio.SSLStream(far, dialing, https_compatible=True)
        try:
            await tls.do_handshake()
            await behind.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(near)
            await trio.aclose_forcefully(far)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pump, tls, behind, listening_in)
            nursery.start_soon(_pump, behind, tls, unchanged)

    async with _listening(handle) as address:
        yield address


@asynccontextmanager
async def _listening(
    handle: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[Address]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def listen() -> None:
        await trio.serve_listeners(handle, [listener])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        yield Address("127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()
