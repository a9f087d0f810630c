"""The one place that runs the gateway on listening sockets, and stops it in bounded time."""

import logging
import socket
import ssl
from collections.abc import Callable, Sequence

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from meshd.gateway.access import Access
from meshd.gateway.app import Gateway
from meshd.gateway.connection import ClientStream, Connection
from meshd.gateway.events import EventfulMesh
from meshd.gateway.keyring import Keyring
from meshd.gateway.limits import Limits

_log = logging.getLogger(__name__)

_BACKLOG = 128
_FULL_S = 0.5
"""While all connections are being answered, one of them is looked for so often that is not."""


class BoundedListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts one connection more than there are places; the rest waits in the backlog."""

    def __init__(
        self,
        listener: trio.SocketListener,
        places: trio.Semaphore,
        make_room: Callable[[], None],
    ) -> None:
        """`make_room` ends a connection that nobody would miss, if there is one."""
        self._listener = listener
        self._places = places
        self._make_room = make_room

    async def accept(self) -> trio.SocketStream:
        """A connection that holds a place; whoever handles it releases the place."""
        stream = await self._listener.accept()
        try:
            is_placed = False
            while not is_placed:
                if self._places.value == 0:
                    self._make_room()
                with trio.move_on_after(_FULL_S):
                    await self._places.acquire()
                    is_placed = True
        except BaseException:
            stream.socket.close()
            raise
        return stream

    async def aclose(self) -> None:
        """Close our handle of the listening socket."""
        await self._listener.aclose()


class Server:
    """The gateway's connections."""

    def __init__(self, gateway: Gateway, limits: Limits, tls: ssl.SSLContext | None) -> None:
        self._gateway = gateway
        self._tls = tls
        self._limits = limits
        self._config = _hypercorn_config(limits)
        self._context = WorkerContext(None)
        self._places = trio.Semaphore(limits.connections_max)
        self._clients: dict[ClientStream, None] = {}
        """The oldest first."""
        self._all_gone = trio.Event()

    def listener(self, listening: socket.socket) -> BoundedListener:
        """Our own handle of the caller's listening socket."""
        listening.listen(_BACKLOG)
        ours = trio.SocketListener(trio.socket.from_stdlib_socket(listening.dup()))
        return BoundedListener(ours, self._places, self._make_room)

    def _make_room(self) -> None:
        """Of too many connections the oldest goes that has no request being answered: those that
        are slow to say what they want can neither keep others out nor take their answers away.
        """
        for client in self._clients:
            if not client.is_answered and not client.is_aborted:
                client.abort()
                return

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        client = ClientStream(stream, self._limits)
        self._clients[client] = None
        try:
            await Connection(self._gateway, self._config, self._context, client, self._tls).run()
        except Exception:  # noqa: BLE001 - Hypercorn's surprises end with their connection
            _log.warning("gateway.connection_failed", exc_info=True)
        finally:
            client.abort()
            del self._clients[client]
            self._places.release()
            if not self._clients:
                self._all_gone.set()

    async def wind_down(self) -> None:
        """Let requests end by themselves, then tell their clients, then cut them off."""
        await self._context.terminated.set()
        self._gateway.end_event_streams()
        await self._wait_all_gone(self._limits.shutdown_s)
        self._gateway.stop()
        await self._wait_all_gone(self._limits.farewell_s)
        for client in list(self._clients):
            client.abort()

    async def _wait_all_gone(self, seconds: float) -> None:
        if self._clients:
            self._all_gone = trio.Event()
            with trio.move_on_after(seconds):
                await self._all_gone.wait()


async def serve(
    mesh: EventfulMesh,
    listening: Sequence[socket.socket],
    *,
    limits: Limits | None = None,
    access: Access | None = None,
    keyring: Keyring | None = None,
    shutdown: trio.Event | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP for `mesh` on bound stream sockets until `shutdown` is set or we are cancelled.

    Both ways requests in flight get `limits.shutdown_s` to end, and all is over shortly after.
    The sockets stay the caller's: we work on duplicates, so close yours when this has returned.
    They become non-blocking. Without `access` and `keyring` the gateway is one for loopback.
    """
    limits, access = limits or Limits(), access or Access()
    gateway = Gateway(mesh, limits=limits, access=access, keyring=keyring or Keyring())
    tls = access.certificate.context if access.certificate is not None else None
    server = Server(gateway, limits, tls)
    listeners = [server.listener(each) for each in listening]
    stop = trio.Event()
    async with trio.open_nursery() as outer:
        outer.start_soon(_wait_for_the_end, shutdown, stop)
        # Shielded, so that our own cancellation too goes through the orderly end; that is bounded.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(_accept, server, listener, connections)
                    task_status.started()
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                await server.wind_down()
                connections.cancel_scope.cancel()


async def _wait_for_the_end(shutdown: trio.Event | None, stop: trio.Event) -> None:
    try:
        if shutdown is None:
            await trio.sleep_forever()
        else:
            await shutdown.wait()
    finally:
        stop.set()


async def _accept(server: Server, listener: BoundedListener, connections: trio.Nursery) -> None:
    await trio.serve_listeners(server.handle, [listener], handler_nursery=connections)


def _hypercorn_config(limits: Limits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger(f"{__name__}.hypercorn")
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.header_bytes_max
    config.keep_alive_timeout = limits.keep_alive_s
    return config
