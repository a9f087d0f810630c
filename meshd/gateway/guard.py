"""The one place that decides which Host and Origin may speak to the gateway.

A web page can make a browser send requests to a loopback address: straight (then `Origin` names
the page's site) or by DNS rebinding (then `Host` is the page's own name, which now resolves to
127.0.0.1). Both are refused. Names of this machine are allowed with any port: whoever can open a
port here is already inside. So is the address at which the client reached us: no name can be
rebound to a request that says a number.
"""

import ipaddress
import re
from collections.abc import Collection

from meshd.gateway.cors import Cors
from meshd.gateway.errors import Refusal

_AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)
_ORIGIN = re.compile(r"https?://(?P<authority>[^/?#@]+)", re.ASCII)


class Guard:
    """Allows loopback names, the extra names that the node's owner lists, and those origins."""

    def __init__(self, extra_hosts: Collection[str] = (), cors: Cors | None = None) -> None:
        """A name `*.example.org`, as certificates have them, stands for one label before it."""
        self._extra = frozenset(name.lower().strip("[]") for name in extra_hosts)
        self._cors = cors or Cors()

    def check(self, host: str | None, origin: str | None, reached: str | None = None) -> None:
        """Judge the headers `Host` and `Origin` (None: absent). Raises Refusal.

        `reached` is our address on this connection.
        """
        if host is None or not self._is_allowed(host, reached):
            raise Refusal(
                "forbidden_host",
                "This gateway does not answer for the host name in the request; ask it as "
                "localhost or 127.0.0.1, or start the node with: meshd up --gateway-host NAME",
                param="host",
            )
        if origin is None or self._cors.allows(origin):
            return
        match = _ORIGIN.fullmatch(origin.lower())
        if match is None or not self._is_allowed(match["authority"], reached):
            raise Refusal(
                "forbidden_origin",
                "Web pages of other sites may not use this gateway; its owner can allow one with: "
                "meshd up --cors-origin ORIGIN",
                param="origin",
            )

    def _is_allowed(self, authority: str, reached: str | None) -> bool:
        match = _AUTHORITY.fullmatch(authority.lower())
        if match is None:
            return False
        name = match["name"].strip("[]")
        if name == "localhost" or name in self._extra:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return f"*.{name.partition('.')[2]}" in self._extra
        return address.is_loopback or address == _plain_address(reached)


def _plain_address(text: str | None) -> object:
    """The address without its zone, and IPv4 as such also on a socket of both kinds."""
    try:
        address = ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
