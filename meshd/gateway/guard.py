"""The one place that decides which Host and Origin may speak to the gateway.

A web page can make a browser send requests to a loopback address: straight (then `Origin` names
the page's site) or by DNS rebinding (then `Host` is the page's own name, which now resolves to
127.0.0.1). Both are refused. Names of this machine are allowed with any port: whoever can open a
port here is already inside.
"""

import ipaddress
import re
from collections.abc import Collection

from meshd.gateway.errors import Refusal

_AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)
_ORIGIN = re.compile(r"https?://(?P<authority>[^/?#@]+)", re.ASCII)


class Guard:
    """Allows loopback names, and the extra names that the node's owner lists."""

    def __init__(self, extra_hosts: Collection[str] = ()) -> None:
        self._extra = frozenset(name.lower().strip("[]") for name in extra_hosts)

    def check(self, host: str | None, origin: str | None) -> None:
        """Judge the headers `Host` and `Origin` (None: absent). Raises Refusal."""
        if host is None or not self._is_allowed(host):
            raise Refusal(
                "forbidden_host",
                "This gateway does not answer for the host name in the request; "
                "ask it as localhost or 127.0.0.1.",
                param="host",
            )
        if origin is None:
            return
        match = _ORIGIN.fullmatch(origin.lower())
        if match is None or not self._is_allowed(match["authority"]):
            raise Refusal(
                "forbidden_origin",
                "Web pages of other sites may not use this gateway.",
                param="origin",
            )

    def _is_allowed(self, authority: str) -> bool:
        match = _AUTHORITY.fullmatch(authority.lower())
        if match is None:
            return False
        name = match["name"].strip("[]")
        if name == "localhost" or name in self._extra:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False
