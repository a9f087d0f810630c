"""The one place for streams between members: mutual TLS, then exchanges of one kind after another.

After the handshake the peer's key is what the certificate carries; whether it may speak is looked
up in the authority records before every exchange. A key that is not admitted may use the gossip
kind (to join, or to introduce itself), with a smaller frame limit, and nothing else.

    connection = TLS, then exchanges; each begins with (version, kind) and ends as its kind says

Connections whose exchange ended cleanly are kept for a while and used again, so that a request
does not pay for a handshake.
"""

import contextlib
import enum
import os
import selectors
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog
import trio

from meshd.frames import FrameStream, StreamBroken
from meshd.sockets import peer_host
from meshd.trust.certificates import peer_key
from protocol.errors import Refused
from protocol.fields import pack, unpack_fields
from protocol.identity import Address, NodeId, key_text
from protocol.records import Role

log = structlog.get_logger()

STREAM_VERSION: Final = 1
HANDSHAKE_S: Final = 5.0
CONNECT_S: Final = 3.0
STAGGER_S: Final = 0.3
"""A second address is tried this long after the first (RFC 8305 in small)."""
SERVER_IDLE_S: Final = 60.0
POOL_IDLE_S: Final = 20.0
POOL_PER_PEER: Final = 8
INBOUND_MAX: Final = 512
GUESTS_MAX: Final = 64
"""Inbound connections whose key is not proven yet, or not admitted: anybody can open those. Of too
many the oldest is closed, so that they can neither keep a newcomer out for long nor a member."""
GUEST_IDLE_S: Final = 10.0
_REFUSED: Final = "connection refused"


class Kind(enum.IntEnum):
    """What an exchange is about. Blobs and tunnels have their numbers reserved."""

    GOSSIP = 1
    REQUEST = 2
    TASK = 3
    BLOB = 4
    TUNNEL = 5


class PeerUnreachable(Exception):
    """No stream to that member could be made; nothing was asked of it."""

    def __init__(self, message: str, *, is_refused: bool = False) -> None:
        super().__init__(message)
        self.is_refused = is_refused
        """Every host that was tried answered that nobody listens there: the process is gone."""


class Connection:
    """One TLS connection to or from a peer whose key is proven."""

    def __init__(self, peer: NodeId, tls: trio.SSLStream[trio.SocketStream]) -> None:
        self.peer = peer
        self.frames = FrameStream(tls)
        self.idle_since = 0.0
        self._socket = tls.transport_stream.socket
        self.host = peer_host(tls.transport_stream)
        """Its IP address; empty when it is gone already."""

    def is_usable(self) -> bool:
        """Whether nothing has arrived on an idle connection: neither a farewell nor junk."""
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self._socket.fileno(), selectors.EVENT_READ)
            except (ValueError, OSError):
                return False
            return not selector.select(0) and self.frames.is_quiet

    def close(self) -> None:
        """Close at once, also from code that cannot wait."""
        self._socket.close()


Handler = Callable[[NodeId, FrameStream], Awaitable[None]]
"""Serves one exchange; raises StreamBroken when the connection is of no use any more."""


OnRefused = Callable[[str, NodeId | None, str, str], None]
"""Hears the reason, the peer's key if it is proven, its IP address, and more of the reason."""


class Peers:
    """Dials members and serves their streams."""

    def __init__(
        self,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        own: NodeId,
        role_of: Callable[[NodeId], Role | None],
        on_refused: OnRefused = lambda reason, peer, host, detail: None,
    ) -> None:
        """`contexts`: for dialing and for accepting. `role_of`: None for who is not admitted."""
        self._dialing, self._accepting = contexts
        self._own = own
        self._role_of = role_of
        self._on_refused = on_refused
        self._pool: dict[NodeId, list[Connection]] = {}
        self._inbound = 0
        self._guests: dict[trio.CancelScope, None] = {}
        """Each guest's life, the oldest first."""
        self._hosts: dict[NodeId, str] = {}
        self.refusals: Counter[str] = Counter()
        """Inbound connections and exchanges turned away, by reason."""

    # ---- dialing ----

    @contextlib.asynccontextmanager
    async def exchange(
        self, peer: NodeId, addresses: Sequence[Address], kind: Kind
    ) -> AsyncIterator[FrameStream]:
        """A stream for one exchange. Leaving normally keeps it for the next one; an exception
        closes it. Raises PeerUnreachable.
        """
        connection = self._take_idle(peer)
        if connection is not None:
            try:
                await self._begin(connection, kind)
            except StreamBroken:
                connection = None
        if connection is None:
            connection = await self.dial(peer, addresses)
            try:
                await self._begin(connection, kind)
            except StreamBroken as error:
                raise PeerUnreachable(f"it closed the stream ({error})") from error
        try:
            yield connection.frames
        except BaseException:
            await connection.frames.aclose()
            raise
        self._give_back(connection)

    async def dial(self, peer: NodeId | None, addresses: Sequence[Address]) -> Connection:
        """A fresh connection to `peer` (None: whoever it is) at the first address that answers.

        Raises PeerUnreachable with the reasons of all addresses.
        """
        if not addresses:
            raise PeerUnreachable("no address is known")
        winner: list[Connection] = []
        failures: list[str] = []
        refused: list[bool] = []

        async def attempt(address: Address, failed: trio.Event) -> None:
            try:
                connection = await self._dial_one(peer, address)
            except PeerUnreachable as error:
                failures.append(f"{address}: {error}")
                refused.append(error.is_refused)
                failed.set()
                return
            if winner:
                await connection.frames.aclose()
            winner.append(connection)
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    failed = trio.Event()
                    nursery.start_soon(attempt, address, failed)
                    with trio.move_on_after(STAGGER_S):
                        await failed.wait()
        except BaseException:
            # Cancelled in the very moment in which an attempt won.
            for connection in winner:
                connection.close()
            raise
        if not winner:
            is_refused = bool(refused) and all(refused)
            raise PeerUnreachable("; ".join(failures) or "no answer", is_refused=is_refused)
        return winner[0]

    async def _dial_one(self, peer: NodeId | None, address: Address) -> Connection:
        try:
            with trio.fail_after(CONNECT_S):
                socket_stream = await trio.open_tcp_stream(*address)
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            reason = _why(error)
            raise PeerUnreachable(reason, is_refused=reason == _REFUSED) from error
        connection: Connection | None = None
        try:
            connection = await self._handshake(socket_stream, self._dialing, is_server=False)
        except StreamBroken as error:
            raise PeerUnreachable(str(error)) from error
        finally:
            if connection is None:
                await trio.aclose_forcefully(socket_stream)
        if peer is not None and connection.peer != peer:
            await connection.frames.aclose()
            raise PeerUnreachable("another node answers there")
        return connection

    async def _begin(self, connection: Connection, kind: Kind) -> None:
        """Say what comes; closes the connection unless that was said. Raises StreamBroken."""
        try:
            await connection.frames.send(pack((STREAM_VERSION, kind)), HANDSHAKE_S)
        except BaseException:
            connection.close()
            raise

    def _take_idle(self, peer: NodeId) -> Connection | None:
        now = trio.current_time()
        idle = self._pool.get(peer, [])
        while idle:
            connection = idle.pop()
            if now - connection.idle_since < POOL_IDLE_S and connection.is_usable():
                return connection
            connection.close()
        return None

    def _give_back(self, connection: Connection) -> None:
        idle = self._pool.setdefault(connection.peer, [])
        if len(idle) >= POOL_PER_PEER or not connection.is_usable():
            connection.close()
            return
        connection.idle_since = trio.current_time()
        idle.append(connection)

    def drop_idle(self, *, everything: bool = False) -> None:
        """Close idle connections whose time is over, or all; called now and then."""
        now = trio.current_time()
        for peer, idle in list(self._pool.items()):
            for connection in list(idle):
                is_old = now - connection.idle_since >= POOL_IDLE_S
                if everything or is_old or not connection.is_usable():
                    idle.remove(connection)
                    connection.close()
            if not idle:
                del self._pool[peer]

    def forget(self, peer: NodeId) -> None:
        """Close idle connections to a member that went or came: they lead to an earlier life."""
        for connection in self._pool.pop(peer, ()):
            connection.close()

    # ---- serving ----

    async def serve(
        self, listeners: Sequence[trio.SocketListener], handlers: Mapping[Kind, Handler]
    ) -> None:
        """Accept peers until cancelled."""

        async def handle(stream: trio.SocketStream) -> None:
            await self._serve_connection(stream, handlers)

        await trio.serve_listeners(handle, list(listeners))

    async def _serve_connection(
        self, stream: trio.SocketStream, handlers: Mapping[Kind, Handler]
    ) -> None:
        if self._inbound >= INBOUND_MAX:
            self._refuse("too_many_connections", None, peer_host(stream))
            await trio.aclose_forcefully(stream)
            return
        self._inbound += 1
        life = trio.CancelScope()
        self._receive_guest(life)
        try:
            with life:
                connection = await self._handshake(stream, self._accepting, is_server=True)
                while await self._serve_exchange(connection, handlers, life):
                    pass
        except StreamBroken as error:
            log.debug("peer.stream_broken", reason=str(error))
        except Exception:  # the seam: no peer may end the daemon
            self.refusals["internal_error"] += 1
            log.exception("peer.connection_failed")
        finally:
            self._inbound -= 1
            self._guests.pop(life, None)
            await trio.aclose_forcefully(stream)

    def _receive_guest(self, life: trio.CancelScope) -> None:
        if len(self._guests) >= GUESTS_MAX:
            oldest = next(iter(self._guests))
            del self._guests[oldest]
            oldest.cancel()
            self._refuse("too_many_guests", None, "")
        self._guests[life] = None

    async def _serve_exchange(
        self, connection: Connection, handlers: Mapping[Kind, Handler], life: trio.CancelScope
    ) -> bool:
        is_member = self._role_of(connection.peer) is not None
        if is_member:
            self._guests.pop(life, None)
        idle_s = SERVER_IDLE_S if is_member else GUEST_IDLE_S
        opening = await connection.frames.receive(64, idle_s)
        if opening is None:
            return False
        try:
            fields = unpack_fields(opening)
            version, kind = fields.take_int(0, 2**31), fields.take_int(0, 2**31)
        except Refused:
            self._refuse("malformed", connection.peer, connection.host)
            return False
        if version != STREAM_VERSION or kind not in handlers:
            self._refuse("unknown_kind", connection.peer, connection.host)
            return False
        role = self._role_of(connection.peer)
        if kind != Kind.GOSSIP and (role is None or not role.may_ask):
            reason = "not_admitted" if role is None else "role"
            self._refuse(reason, connection.peer, connection.host, detail=Kind(kind).name.lower())
            return False
        self._hosts[connection.peer] = connection.host
        try:
            await handlers[Kind(kind)](connection.peer, connection.frames)
        finally:
            self._hosts.pop(connection.peer, None)
        return True

    async def _handshake(
        self, stream: trio.SocketStream, context: ssl.SSLContext, *, is_server: bool
    ) -> Connection:
        """Prove both keys. Raises StreamBroken."""
        with contextlib.suppress(OSError):
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        tls = trio.SSLStream(stream, context, server_side=is_server, https_compatible=True)
        try:
            with trio.fail_after(HANDSHAKE_S):
                await tls.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError, ssl.SSLError) as error:
            reason = _tls_reason(error)
            if is_server:
                self._refuse("handshake", None, peer_host(stream), detail=reason)
            raise StreamBroken(reason) from error
        der = tls.getpeercert(binary_form=True)
        peer = peer_key(der) if der else None
        if peer is None or peer == self._own:
            if is_server:
                self._refuse("bad_certificate", peer, peer_host(stream))
            raise StreamBroken("it is this very node" if peer else "its certificate has no key")
        return Connection(peer, tls)

    def host_of(self, peer: NodeId) -> str | None:
        """The IP address from which `peer` asks something right now; None when it does not."""
        return self._hosts.get(peer)

    def _refuse(self, reason: str, peer: NodeId | None, host: str, detail: str = "") -> None:
        self.refusals[reason] += 1
        self._on_refused(reason, peer, host, detail)
        who = key_text(peer)[:8] if peer is not None else "unknown"
        log.info("peer.refused", reason=reason, peer=who, detail=detail)


def _why(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return "no answer"
    if isinstance(error, UnicodeError):
        return "no host can have that name"
    if isinstance(error.__cause__, BaseExceptionGroup):  # trio's, one error for each IP address
        error = next((e for e in error.__cause__.exceptions if isinstance(e, OSError)), error)
    if isinstance(error, ConnectionRefusedError):
        return _REFUSED
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return getattr(error, "strerror", None) or type(error).__name__


def _tls_reason(error: BaseException) -> str:
    """One plain phrase for a failed handshake."""
    if isinstance(error, trio.TooSlowError):
        return "no TLS answer"
    cause = error if isinstance(error, ssl.SSLError) else error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "it belongs to another mesh"
    if isinstance(cause, ssl.SSLError):
        if "UNKNOWN_CA" in (cause.reason or "") or "DECRYPT_ERROR" in (cause.reason or ""):
            return "it takes us for another mesh's"
        return f"TLS failed ({(cause.reason or 'error').lower().replace('_', ' ')})"
    return "the connection was closed"
