"""The one place for the local network: mDNS announces this node and finds others of its mesh.

What is found is a hint (an address for a node id), never a fact: the node at that address has to
prove its key, and its mesh its records. Service `_meshd._udp.local.`, instance named by the
beginning of the node id; TXT: `mesh` and `node` (ids), `name`.

zeroconf runs its own thread; this file is the seam between it and trio.
"""

import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog
import trio

from protocol.identity import (
    MESH_ID_BYTES,
    NODE_ID_BYTES,
    Address,
    MeshId,
    NodeId,
    is_literal,
    is_valid_name,
    key_from_text,
    key_text,
)

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

log = structlog.get_logger()

SERVICE: Final = "_meshd._udp.local."
FOUND_MAX: Final = 256
LOOKUP_MS: Final = 3_000
STOP_S: Final = 2.0


class LanUnavailable(Exception):
    """mDNS cannot run on this machine: no multicast, no permission."""


class Sighting:
    """A node that somebody announces on the local network."""

    def __init__(self, mesh: MeshId, node: NodeId, name: str, addresses: list[Address]) -> None:
        self.mesh = mesh
        self.node = node
        self.name = name
        self.addresses = addresses


async def announce_and_browse(
    *,
    mesh: MeshId,
    node: NodeId,
    name: str,
    addresses: Sequence[Address],
    on_sighting: Callable[[Sighting], None],
    interfaces: Sequence[str] | None = None,
) -> None:
    """Be on the local network until cancelled. `interfaces`: their IP addresses; None: all.

    A machine on which mDNS cannot run (no multicast, no permission) is said once, and is no error.
    """
    import zeroconf  # heavy, and not needed with --no-lan

    info = _service_info(mesh, node, name, addresses)
    try:
        async with on_lan(interfaces) as zero:
            await trio.to_thread.run_sync(
                lambda: zero.register_service(info, allow_name_change=True)
            )
            found = browse(zero, SERVICE)
            log.debug("lan.announced", addresses=[str(address) for address in addresses])
            async for service in found:
                sighting = await trio.to_thread.run_sync(_look_up, zero, service)
                if sighting is not None and sighting.node != node:
                    on_sighting(sighting)
    except LanUnavailable as failure:
        log.warning("lan.unavailable", reason=str(failure))
    except (OSError, zeroconf.Error) as error:
        log.warning("lan.failed", reason=str(error) or type(error).__name__)


@contextlib.asynccontextmanager
async def on_lan(interfaces: Sequence[str] | None) -> AsyncIterator["Zeroconf"]:
    """mDNS on these interfaces; leaving takes back what was announced. Raises LanUnavailable."""
    try:
        zero = await trio.to_thread.run_sync(lambda: _open(interfaces))
    except OSError as error:
        raise LanUnavailable(error.strerror or str(error)) from error
    try:
        yield zero
    finally:
        with trio.move_on_after(STOP_S) as scope:
            scope.shield = True  # saying goodbye is worth a moment even when we are cancelled
            await trio.to_thread.run_sync(zero.close, abandon_on_cancel=True)


def browse(zero: "Zeroconf", kind: str) -> trio.MemoryReceiveChannel[str]:
    """Names of services of this kind, as they are announced, until `zero` is closed."""
    import zeroconf

    give, found = trio.open_memory_channel[str](FOUND_MAX)
    token = trio.lowlevel.current_trio_token()

    def on_change(
        zeroconf: object, service_type: str, name: str, state_change: zeroconf.ServiceStateChange
    ) -> None:
        if state_change.name == "Removed":
            return
        # zeroconf's thread: trio may be over already, and a full queue loses a hint, no more.
        try:
            trio.from_thread.run_sync(_offer, give, name, trio_token=token)
        except trio.RunFinishedError:
            return

    zeroconf.ServiceBrowser(zero, kind, handlers=[on_change])
    return found


def _offer(give: trio.MemorySendChannel[str], name: str) -> None:
    try:
        give.send_nowait(name)
    except (trio.WouldBlock, trio.BrokenResourceError):
        log.debug("lan.sighting_dropped")


def _open(interfaces: Sequence[str] | None) -> "Zeroconf":
    import zeroconf

    if interfaces is None:
        return zeroconf.Zeroconf()
    return zeroconf.Zeroconf(interfaces=list(interfaces))


def _service_info(
    mesh: MeshId, node: NodeId, name: str, addresses: Sequence[Address]
) -> "ServiceInfo":
    import zeroconf

    return zeroconf.ServiceInfo(
        SERVICE,
        f"{key_text(node)[:16]}.{SERVICE}",
        addresses=packed(addresses),
        port=addresses[0].port,
        properties={"mesh": key_text(mesh), "node": key_text(node), "name": name},
        server=f"meshd-{key_text(node)[:16]}.local.",
    )


def packed(addresses: Sequence[Address]) -> list[bytes]:
    """The hosts that mDNS can carry: literals, in network order."""
    hosts = [address.host for address in addresses if is_literal(address.host)]
    return [ipaddress.ip_address(host).packed for host in hosts]


def _look_up(zero: "Zeroconf", service: str) -> Sighting | None:
    """Ask for one announcement's details; None for what makes no sense. Runs in a thread."""
    import zeroconf

    try:
        info = zero.get_service_info(SERVICE, service, LOOKUP_MS)
    except zeroconf.Error:  # an instance name that breaks the rules; anybody can announce one
        return None
    if info is None or not info.port:
        return None
    properties = info.properties
    try:
        mesh = key_from_text((properties.get(b"mesh") or b"").decode("ascii"))
        node = key_from_text((properties.get(b"node") or b"").decode("ascii"))
        name = (properties.get(b"name") or b"").decode("ascii")
    except ValueError:
        return None
    if len(mesh) != MESH_ID_BYTES or len(node) != NODE_ID_BYTES or not is_valid_name(name):
        return None
    addresses = [Address(text, info.port) for text in info.parsed_addresses()]
    return Sighting(MeshId(mesh), NodeId(node), name, addresses) if addresses else None
