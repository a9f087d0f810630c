"""The one place that decides under which addresses others reach this node."""

import contextlib
import ipaddress
import socket

import psutil

from meshd.failures import UserError
from meshd.options import parse_host_port
from meshd.sockets import NodeSockets
from protocol.identity import Address, is_valid_address
from protocol.statements import ADDRESSES_MAX


def advertised(
    sockets: NodeSockets, advertise: str | None, before: tuple[Address, ...] = ()
) -> tuple[Address, ...]:
    """What this node states: what the person said, the bound address, or the interfaces' ones.

    While no interface has an address, what it stated `before`: a pulled cable is no new place, and
    whoever wrote our loopback address down could only ever find itself there.

    Raises UserError for a host that no member would take.
    """
    if advertise is not None:
        stated = Address(*parse_host_port(advertise, what="--advertise"))
        if not is_valid_address(*stated) or "%" in stated.host:
            raise UserError(f"--advertise {stated}: name an address or host that others can reach")
        return (stated,)
    if not sockets.is_wildcard:
        return (Address(sockets.host.partition("%")[0], sockets.port),)
    hosts = [host for host in own_addresses() if sockets.is_dual or ":" not in host]
    if not hosts and before:
        return before
    if not hosts:
        hosts = ["127.0.0.1"]  # a machine without a network still has itself
    return tuple(Address(host, sockets.port) for host in hosts[:ADDRESSES_MAX])


def own_addresses() -> list[str]:
    """IP addresses of this machine's interfaces, the one towards the internet first.

    Loopback and link-local are left out; container bridges and VPNs are in, but after it.
    """
    found: dict[str, None] = {}
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            # Connecting a UDP socket sends nothing; it only asks the routing table.
            sock.connect((probe, 9))
            found[str(sock.getsockname()[0])] = None
    stats = psutil.net_if_stats()
    for interface, entries in psutil.net_if_addrs().items():
        if interface in stats and not stats[interface].isup:
            continue
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                found[entry.address.partition("%")[0]] = None
    return [text for text in found if _is_reachable(text)]


def _is_reachable(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)
