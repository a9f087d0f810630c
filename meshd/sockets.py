"""The one place that binds a node's sockets: one number for UDP and TCP, and the gateway's."""

import contextlib
import errno
import ipaddress
import socket
from typing import Final

import trio

from meshd.failures import UserError
from meshd.gateway_options import GatewayOptions, check_exposure
from meshd.home import Home
from meshd.options import format_host_port

_TRIES = 16
"""A free TCP port may be taken for UDP; then another one is picked."""
PAIRING_PORT: Final = 7702
"""Beside the node's and the gateway's, so that a firewall can be told."""


class NodeSockets:
    """UDP and TCP on one address and number."""

    def __init__(self, udp: trio.socket.SocketType, tcp: trio.SocketListener) -> None:
        self.udp = udp
        self.tcp = tcp

    @property
    def host(self) -> str:
        """The bound address."""
        return str(self.udp.getsockname()[0])

    @property
    def port(self) -> int:
        """The number that both share."""
        return int(self.udp.getsockname()[1])

    @property
    def is_wildcard(self) -> bool:
        """Whether all of the machine's addresses are bound."""
        return ipaddress.ip_address(self.host).is_unspecified

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach us."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def is_dual(self) -> bool:
        """Whether IPv4 arrives on the IPv6 socket."""
        return self.udp.family == socket.AF_INET6 and self.is_wildcard

    def close(self) -> None:
        """Close both."""
        self.udp.close()
        self.tcp.socket.close()


async def bind_node(home: Home, host: str, port: int) -> NodeSockets:
    """Bind UDP and TCP; port 0 takes the one of last time if it is free, else any.

    Keeping the port lets members find each other again after all of them were off.
    Raises UserError: in use, not ours, not permitted.
    """
    family, literal = await trio.to_thread.run_sync(_look_up, host, "--listen")
    if port:
        udp, tcp = _bind_both(family, literal, port)
        return _wrap(udp, tcp)
    for candidate in (_last_port(home), *([0] * _TRIES)):
        try:
            udp, tcp = _bind_both(family, literal, candidate)
        except UserError as failure:
            if candidate == 0 and not _is_in_use(failure):
                raise
            continue
        with contextlib.suppress(OSError):
            home.write(home.last_port, str(udp.getsockname()[1]).encode("ascii"))
        return _wrap(udp, tcp)
    raise UserError(f"no free port on {host}; choose one with --listen HOST:PORT")


def bind_gateway(
    host: str, port: int, access: GatewayOptions | None = None, *, has_keys: bool = False
) -> socket.socket:
    """Bind the gateway's TCP socket; beyond loopback only if `access` and keys allow it.

    Raises UserError.
    """
    family, literal = _look_up(host, "--gateway")
    address = ipaddress.ip_address(literal.partition("%")[0])
    check_exposure(
        access or GatewayOptions(),
        where=format_host_port(host, port),
        is_loopback=address.is_loopback,
        has_keys=has_keys,
    )
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            v6only = int(not address.is_unspecified)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        _reuse(sock)
        sock.bind((literal, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise _cannot_bind("--gateway", host, port, error) from error
    return sock


def bind_pairing(host: str, port: int | None) -> socket.socket:
    """Listen for whoever types a pairing code, at an address that the node has bound.

    None: PAIRING_PORT if it is free, else any. Raises UserError.
    """
    if port is not None:
        return _listen(host, port, "--port")
    try:
        return _listen(host, PAIRING_PORT, "--port")
    except UserError:
        return _listen(host, 0, "--port")


def _listen(literal: str, port: int, option: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in literal else socket.AF_INET, socket.SOCK_STREAM)
    try:
        _only_v6_unless_dual(sock, literal)
        _reuse(sock)
        sock.bind((literal, port))
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise _cannot_bind(option, literal, port, error) from error
    return sock


def _bind_both(family: int, literal: str, port: int) -> tuple[socket.socket, socket.socket]:
    tcp = socket.socket(family, socket.SOCK_STREAM)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        for sock in (tcp, udp):
            _only_v6_unless_dual(sock, literal)
        _reuse(tcp)
        tcp.bind((literal, port))
        udp.bind((literal, tcp.getsockname()[1]))
        tcp.listen(256)
    except OSError as error:
        tcp.close()
        udp.close()
        raise _cannot_bind("--listen", literal, port, error) from error
    return udp, tcp


def _only_v6_unless_dual(sock: socket.socket, literal: str) -> None:
    if sock.family == socket.AF_INET6:
        dual = ipaddress.ip_address(literal).is_unspecified
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)


def _reuse(sock: socket.socket) -> None:
    # On POSIX this only allows to bind over connections in TIME_WAIT; on Windows it would let two
    # daemons share a port, so it is not set there.
    if hasattr(socket, "AF_UNIX"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _wrap(udp: socket.socket, tcp: socket.socket) -> NodeSockets:
    return NodeSockets(
        trio.socket.from_stdlib_socket(udp),
        trio.SocketListener(trio.socket.from_stdlib_socket(tcp)),
    )


def _last_port(home: Home) -> int:
    try:
        port = int(home.last_port.read_text("ascii"))
    except (OSError, ValueError):
        return 0
    return port if 0 < port < 65536 else 0


def _is_in_use(failure: UserError) -> bool:
    cause = failure.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE


def _look_up(host: str, option: str) -> tuple[int, str]:
    """(family, literal) of a host to bind; falls back to IPv4 where IPv6 is switched off."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have that name
        raise UserError(f"{host!a} is no address of this machine; mend {option}") from error
    family, *_, sockaddr = found[0]
    if host == "::" and not _has_ipv6():
        return socket.AF_INET, "0.0.0.0"  # noqa: S104  # the dual-stack default, without IPv6
    return family, str(sockaddr[0])


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _cannot_bind(option: str, host: str, port: int, error: OSError) -> UserError:
    where = format_host_port(host, port)
    if error.errno == errno.EADDRINUSE:
        return UserError(
            f"{where} is in use; stop what uses it, or choose another port with {option}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UserError(f"{where} is no address of this machine; choose another with {option}")
    if error.errno == errno.EACCES:
        return UserError(f"{where} needs privileges; choose a port above 1023 with {option}")
    return UserError(f"cannot listen on {where}: {error.strerror}; choose another with {option}")
