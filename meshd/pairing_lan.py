"""The one place for pairing on the local network: mDNS says where an offer waits for its code.

Service `_meshd-pair._tcp.local.`, instance named by the nameplate and the beginning of the node
id; TXT: `code`, the nameplate. It holds nothing of the secret. What is found is a hint: the
exchange itself proves who knows the code.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Final

import structlog
import trio

from meshd.discovery import LanUnavailable, browse, on_lan, packed
from protocol.identity import Address, NodeId, key_text

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

log = structlog.get_logger()

SERVICE: Final = "_meshd-pair._tcp.local."
LOOKUP_MS: Final = 3_000
ADDRESSES_MAX: Final = 8


async def announce(
    nameplate: str, node: NodeId, addresses: Sequence[Address], interfaces: Sequence[str] | None
) -> None:
    """Be found until cancelled. Where mDNS cannot run that is said once, and is no error."""
    import zeroconf  # heavy, and only while a machine is paired

    info = _service_info(nameplate, node, addresses)
    try:
        async with on_lan(interfaces) as zero:
            await trio.to_thread.run_sync(
                lambda: zero.register_service(info, allow_name_change=True)
            )
            await trio.sleep_forever()
    except (LanUnavailable, OSError, zeroconf.Error) as failure:
        reason = str(failure) or type(failure).__name__
        log.warning("pairing.not_announced", reason=reason, mend="join with --at HOST:PORT")


async def offers(nameplate: str) -> AsyncGenerator[Sequence[Address], None]:
    """Where each offer with this nameplate waits, as they are found, without end.

    Raises LanUnavailable.
    """
    import zeroconf

    try:
        async with on_lan(None) as zero:
            async for service in browse(zero, SERVICE):
                addresses = await trio.to_thread.run_sync(_look_up, zero, service, nameplate)
                if addresses:
                    yield addresses
    except (OSError, zeroconf.Error) as error:
        raise LanUnavailable(str(error) or type(error).__name__) from error


def _service_info(nameplate: str, node: NodeId, addresses: Sequence[Address]) -> "ServiceInfo":
    import zeroconf

    instance = f"{nameplate}-{key_text(node)[:16]}"
    return zeroconf.ServiceInfo(
        SERVICE,
        f"{instance}.{SERVICE}",
        addresses=packed(addresses),
        port=addresses[0].port,
        properties={"code": nameplate},
        server=f"meshd-pair-{instance}.local.",
    )


def _look_up(zero: "Zeroconf", service: str, nameplate: str) -> list[Address]:
    """The addresses of an offer; none for another nameplate and for nonsense. In a thread."""
    import zeroconf

    try:
        info = zero.get_service_info(SERVICE, service, LOOKUP_MS)
    except zeroconf.Error:  # an instance name that breaks the rules; anybody can announce one
        return []
    if info is None or not info.port or info.properties.get(b"code") != nameplate.encode("ascii"):
        return []
    found = info.parsed_addresses()[:ADDRESSES_MAX]
    return [Address(text, info.port) for text in found]
