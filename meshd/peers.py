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
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

import structlog
import trio

from meshd.connection import HANDSHAKE_S, Connection, secured
from meshd.frame_budget import FrameBudget
from meshd.frames import FrameStream, StreamBroken
from meshd.inbound import Inbound, Visit, host_of
from protocol.errors import Refused
from protocol.fields import pack, unpack_fields
from protocol.identity import Address, NodeId, key_text
from protocol.records import Role

log = structlog.get_logger()

STREAM_VERSION: Final = 1
OPENING_BYTES_MAX: Final = 64
CONNECT_S: Final = 3.0
STAGGER_S: Final = 0.3
"""A second address is tried this long after the first (RFC 8305 in small)."""
SERVER_IDLE_S: Final = 60.0
POOL_IDLE_S: Final = 20.0
POOL_PER_PEER: Final = 8
LOGGED_EACH_MAX: Final = 16
"""Refusals of one kind that are logged one by one; then only the 32nd, 64th, and so on."""
POOL_MAX: Final = 256
"""Idle connections to all peers together."""
GUEST_IDLE_S: Final = 10.0
"""For a key that is not admitted; for a member too until its first exchange has begun."""
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


class _Call:
    """One exchange that this node began, from before there is a connection."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.is_cut = False

    def cut(self) -> None:
        """End it at once."""
        self.is_cut = True
        if self.connection is not None:
            self.connection.cut()


OnRefused = Callable[[str, NodeId | None, str, str], None]
"""Hears the reason, the peer's key if it is proven, its address, and more of the reason."""

Handler = Callable[[NodeId, FrameStream], Awaitable[None]]
"""Serves one exchange; raises StreamBroken when the connection is of no use any more."""


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
        self._hosts: dict[NodeId, str] = {}
        """From where members and guests ask something right now."""
        self._budget = FrameBudget()
        self._pool: dict[NodeId, list[Connection]] = {}
        self._calls: dict[NodeId, list[_Call]] = {}
        self._inbound = Inbound(self._refuse)
        self.refusals: Counter[str] = Counter()
        """Inbound connections and exchanges turned away, by reason."""

    # ---- dialing ----

    @contextlib.asynccontextmanager
    async def exchange(
        self, peer: NodeId, addresses: Sequence[Address], kind: Kind, *first: bytes
    ) -> AsyncIterator[FrameStream]:
        """A stream for one exchange; `first`: frames that are short and leave with the opening.
        Leaving normally keeps it for the next one; an exception closes it. Raises PeerUnreachable,
        also for a peer that may not be asked.
        """
        role = self._role_of(peer)
        if kind != Kind.GOSSIP and (role is None or not role.may_serve):
            raise PeerUnreachable("it is no member" if role is None else "its role is not to serve")
        with self._calling(peer) as call:
            begin = (pack((STREAM_VERSION, kind)), *first)
            connection = await self._open(call, peer, addresses, begin)
            try:
                yield connection.frames
            except BaseException:
                await connection.frames.aclose()
                raise
            self._give_back(connection)

    @contextlib.contextmanager
    def _calling(self, peer: NodeId) -> Iterator[_Call]:
        call = _Call()
        calls = self._calls.setdefault(peer, [])
        calls.append(call)
        try:
            yield call
        finally:
            calls.remove(call)
            if not calls:
                self._calls.pop(peer, None)

    async def _open(
        self, call: _Call, peer: NodeId, addresses: Sequence[Address], begin: Sequence[bytes]
    ) -> Connection:
        """A connection on which an exchange has begun. Raises PeerUnreachable."""
        call.connection = self._take_idle(peer)
        if call.connection is not None:
            with contextlib.suppress(StreamBroken):
                await self._begin(call.connection, begin)
                return call.connection
        connection = None if call.is_cut else await self.dial(peer, addresses)
        if connection is None or call.is_cut:  # while we waited
            if connection is not None:
                connection.close()
            raise PeerUnreachable("its membership has ended")
        call.connection = connection
        try:
            await self._begin(connection, begin)
        except StreamBroken as error:
            raise PeerUnreachable(f"it closed the stream ({error})") from error
        return connection

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
            connection = await secured(
                socket_stream, self._dialing, self._own, self._budget, is_server=False
            )
        except StreamBroken as error:
            raise PeerUnreachable(str(error)) from error
        finally:
            if connection is None:
                await trio.aclose_forcefully(socket_stream)
        if peer is not None and connection.peer != peer:
            await connection.frames.aclose()
            raise PeerUnreachable("another node answers there")
        return connection

    async def _begin(self, connection: Connection, begin: Sequence[bytes]) -> None:
        """Say what comes; closes the connection unless that was said. Raises StreamBroken."""
        try:
            await connection.frames.send(*begin, timeout_s=HANDSHAKE_S)
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
        is_full = len(idle) >= POOL_PER_PEER or sum(map(len, self._pool.values())) >= POOL_MAX
        if is_full or not connection.is_usable():
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

    def shut_out(self, node: NodeId) -> None:
        """Close every connection to and from a node at once: its membership has ended.

        Exchanges in progress end with StreamBroken at both ends, whatever has arrived of them.
        """
        self.forget(node)
        for call in self._calls.get(node, ()):
            call.cut()
        self._inbound.shut_out(node)

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
        visit = self._inbound.receive(host_of(stream))
        try:
            with visit.life:
                visit.connection = await secured(
                    stream, self._accepting, self._own, self._budget, is_server=True
                )
                idle_s = GUEST_IDLE_S
                while await self._serve_exchange(visit, visit.connection, handlers, idle_s):
                    idle_s = SERVER_IDLE_S if visit.is_member else GUEST_IDLE_S
        except StreamBroken as error:
            peer = visit.connection.peer if visit.connection is not None else None
            if error.fault:
                self._refuse(error.fault, peer, visit.host, str(error))
            else:
                log.debug("peer.stream_broken", reason=str(error))
        except Exception:  # the seam: no peer may end the daemon
            self.refusals["internal_error"] += 1
            log.exception("peer.connection_failed")
        finally:
            self._inbound.leave(visit)
            await trio.aclose_forcefully(stream)

    async def _serve_exchange(
        self,
        visit: Visit,
        connection: Connection,
        handlers: Mapping[Kind, Handler],
        idle_s: float,
    ) -> bool:
        """One exchange; False when the connection has to end."""
        if not self._may_stay(visit, connection):
            return False
        opening = await connection.frames.receive(OPENING_BYTES_MAX, idle_s)
        if opening is None:
            return False
        try:
            fields = unpack_fields(opening)
            version, kind = fields.take_int(0, 2**31), fields.take_int(0, 2**31)
        except Refused:
            self._refuse("malformed", connection.peer, visit.host)
            return False
        if version != STREAM_VERSION or kind not in handlers:
            self._refuse("unknown_kind", connection.peer, visit.host)
            return False
        # Anew: it may have changed since the connection began to wait.
        if not self._may_stay(visit, connection):
            return False
        role = self._role_of(connection.peer)
        if kind != Kind.GOSSIP and (role is None or not role.may_ask):
            reason = "not_admitted" if role is None else "role"
            self._refuse(reason, connection.peer, visit.host, Kind(kind).name.lower())
            return False
        visit.set_busy(True)
        self._hosts[connection.peer] = visit.host
        try:
            await handlers[Kind(kind)](connection.peer, connection.frames)
        finally:
            visit.set_busy(False)
            self._hosts.pop(connection.peer, None)
        return True

    def _may_stay(self, visit: Visit, connection: Connection) -> bool:
        """Whether the connection may go on, as the guest's or member's that the peer is now."""
        is_member = self._role_of(connection.peer) is not None
        if visit.is_member and not is_member:
            self._refuse("not_admitted", connection.peer, visit.host)
            return False
        return visit.is_member or not is_member or self._inbound.admit(visit)

    def host_of(self, peer: NodeId) -> str | None:
        """The address from which `peer` asks something right now; None when it does not."""
        return self._hosts.get(peer)

    def _refuse(self, reason: str, peer: NodeId | None, host: str, detail: str = "") -> None:
        self._on_refused(reason, peer, host, detail)
        self.refusals[reason] += 1
        count = self.refusals[reason]
        # Anybody can be refused as often as he likes; that must not fill a disk with lines.
        is_told = count <= LOGGED_EACH_MAX or count.bit_count() == 1
        who = key_text(peer)[:8] if peer is not None else "unknown"
        tell = log.info if is_told else log.debug
        tell("peer.refused", reason=reason, peer=who, detail=detail, count=count)


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
