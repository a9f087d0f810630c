"""The one place for one TLS connection between nodes: the handshake that proves both keys."""

import contextlib
import functools
import selectors
import ssl
from typing import Final

import trio

from meshd.frame_budget import FrameBudget
from meshd.frames import FrameStream, StreamBroken
from meshd.trust.certificates import peer_key
from protocol.identity import NodeId

HANDSHAKE_S: Final = 5.0
_Selector: Final = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""For one look: epoll, the default, would be made and thrown away by four system calls."""


class Connection:
    """One TLS connection to or from a peer whose key is proven."""

    def __init__(
        self, peer: NodeId, tls: trio.SSLStream[trio.SocketStream], budget: FrameBudget
    ) -> None:
        self.peer = peer
        self.frames = FrameStream(tls, functools.partial(budget.room, peer))
        self.idle_since = 0.0
        self._tls = tls
        self._socket = tls.transport_stream.socket

    def is_usable(self) -> bool:
        """Whether nothing has arrived on an idle connection: neither a farewell nor junk."""
        with _Selector() as selector:
            try:
                selector.register(self._socket.fileno(), selectors.EVENT_READ)
            except (ValueError, OSError):
                return False
            is_quiet = self.frames.is_quiet and not _has_left_over(self._tls)
            return is_quiet and not selector.select(0)

    def close(self) -> None:
        """Close at once, also from code that cannot wait."""
        self._socket.close()

    def cut(self) -> None:
        """Close at once; whoever uses it gets StreamBroken, whatever has come already."""
        self.frames.cut()
        self.close()


def _has_left_over(tls: trio.SSLStream[trio.SocketStream]) -> bool:
    """Whether more was read from the socket than decrypted, or decrypted than given out: one read
    may bring several records, and what a peer sends behind the end of its answer would begin the
    next one. trio has no name for it that is public; under another, no connection is kept.
    """
    try:
        return bool(tls._incoming.pending or tls._ssl_object.pending())
    except AttributeError:
        return True


async def secured(
    stream: trio.SocketStream,
    context: ssl.SSLContext,
    own: NodeId,
    budget: FrameBudget,
    *,
    is_server: bool,
) -> Connection:
    """Prove both keys over a TCP connection. Raises StreamBroken, with what to count as `fault`."""
    with contextlib.suppress(OSError):
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
    try:
        with trio.fail_after(HANDSHAKE_S):
            if is_server:  # for whoever says nothing, nothing is built
                await trio.lowlevel.wait_readable(stream.socket)
            tls = trio.SSLStream(stream, context, server_side=is_server, https_compatible=True)
            await tls.do_handshake()
    except (
        trio.BrokenResourceError,
        trio.ClosedResourceError,
        trio.TooSlowError,
        ssl.SSLError,
    ) as error:
        raise StreamBroken(_tls_reason(error), "handshake") from error
    der = tls.getpeercert(binary_form=True)
    peer = peer_key(der) if der else None
    if peer is None or peer == own:
        reason = "it is this very node" if peer else "its certificate has no key"
        raise StreamBroken(reason, "bad_certificate")
    return Connection(peer, tls, budget)


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
