"""The one place for how a gateway is reached: by which names and pages, with TLS or without."""

import dataclasses
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any

from meshd.gateway.certificate import Certificate, load_certificate
from meshd.gateway.cors import Cors
from meshd.gateway.guard import Guard
from meshd.gateway_options import GatewayOptions
from meshd.options import format_host_port


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The defaults are those of a gateway on loopback: no other names, no pages, plain HTTP."""

    cors: Cors = dataclasses.field(default_factory=Cors)
    guard: Guard = dataclasses.field(default_factory=Guard)
    certificate: Certificate | None = None
    is_key_required: bool = False

    def url(self, bound: socket.socket) -> str:
        """`http://HOST:PORT` as bound, or `https://`."""
        scheme = "http" if self.certificate is None else "https"
        host, port = bound.getsockname()[:2]
        return f"{scheme}://{format_host_port(host, port)}"

    def for_owner(self, bound: socket.socket, owner_key: str) -> Mapping[str, Any]:
        """How a command of this machine's owner reaches the gateway, for the control socket."""
        return {
            "url": self.url(bound),
            "key": owner_key if self.is_key_required else None,
            "fingerprint": self.certificate.fingerprint if self.certificate is not None else None,
        }


def read_certificate(options: GatewayOptions) -> Certificate | None:
    """The certificate that the options name, if any. Raises UserError."""
    if options.tls_certificate is None or options.tls_key is None:
        return None
    return load_certificate(options.tls_certificate, options.tls_key)


def make_access(options: GatewayOptions, certificate: Certificate | None, bound: str) -> Access:
    """What the options mean for a gateway that is bound to this address."""
    cors = Cors(options.cors_origins)
    names = (*options.hosts, *(certificate.names if certificate is not None else ()))
    is_loopback = ipaddress.ip_address(bound.partition("%")[0]).is_loopback
    return Access(
        cors=cors,
        guard=Guard(names, cors),
        certificate=certificate,
        is_key_required=options.require_key or not is_loopback,
    )
