"""The one place for what people type about who may use the gateway, checked before anything starts.

Rule: a gateway that other machines can reach needs keys, and TLS or the word that none is wanted.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable
from typing import Final

from meshd.failures import ExitCode, UserError

ORIGINS_MAX: Final = 32
HOSTS_MAX: Final = 32
ANY_ORIGIN: Final = "*"
_ORIGIN: Final = re.compile(
    r"[a-z][a-z0-9+.-]{0,31}://(\[[0-9a-f:.]+\]|[a-z0-9_-][a-z0-9._-]{0,252})(:[0-9]{1,5})?",
    re.ASCII,
)
_HOST: Final = re.compile(
    r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_])?|\[?[0-9a-f:.]{2,45}\]?", re.ASCII
)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Who may use the gateway. The defaults are for a gateway on loopback."""

    require_key: bool = False
    """Also on loopback."""
    tls_certificate: pathlib.Path | None = None
    """PEM; given together with `tls_key`."""
    tls_key: pathlib.Path | None = None
    insecure_http: bool = False
    """Plain HTTP also beyond loopback."""
    cors_origins: tuple[str, ...] = ()
    """As browsers write them, or `*` for all."""
    hosts: tuple[str, ...] = ()
    """Further names that the gateway answers for."""


def check_exposure(
    options: GatewayOptions, *, where: str, is_loopback: bool, has_keys: bool
) -> None:
    """Whether a gateway may be bound so. `where` is its HOST:PORT as typed.

    Raises UserError (wrong usage) that says all that is missing, and what brings it.
    """
    if ANY_ORIGIN in options.cors_origins and is_loopback and not options.require_key:
        raise _wrong_usage(
            "--cors-origin '*' lets every web page use this node: name the origins, or ask for "
            "keys with --require-key"
        )
    if is_loopback:
        return
    mends = []
    if not has_keys:
        mends.append("make an API key first (meshd key create NAME)")
    if options.tls_certificate is None and not options.insecure_http:
        mends.append(
            "give a certificate (--tls-cert FILE --tls-key FILE), or accept with --insecure-http "
            "that keys and prompts travel in the clear"
        )
    if mends:
        raise _wrong_usage(
            f"other machines can reach a gateway on {where}: {'; and '.join(mends)}; or choose a "
            "loopback address with --gateway 127.0.0.1:7701"
        )


def parse_tls_files(
    certificate: str | None, key: str | None
) -> tuple[pathlib.Path | None, pathlib.Path | None]:
    """The two files, or neither. Raises UserError (wrong usage)."""
    if (certificate is None) != (key is None):
        given, missing = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise _wrong_usage(f"{given} is not enough: give {missing} FILE too")
    if certificate is None or key is None:
        return None, None
    if not certificate or not key:
        raise _wrong_usage("--tls-cert and --tls-key: name a file each")
    return pathlib.Path(certificate).expanduser(), pathlib.Path(key).expanduser()


def parse_origins(texts: Iterable[str]) -> tuple[str, ...]:
    """Check origins of web pages, each as browsers write it. Raises UserError (wrong usage)."""
    origins = tuple(dict.fromkeys(_origin(text) for text in texts))
    if len(origins) > ORIGINS_MAX:
        raise _wrong_usage(f"{len(origins)} origins: a gateway allows at most {ORIGINS_MAX}")
    return origins


def _origin(text: str) -> str:
    origin = text.lower().removesuffix("/")
    if origin == ANY_ORIGIN:
        return origin
    if _ORIGIN.fullmatch(origin) is None:
        raise _wrong_usage(
            f"--cors-origin {text[:60]!a}: write SCHEME://HOST or SCHEME://HOST:PORT, such as "
            "https://chat.example.org, or '*'"
        )
    scheme = origin.partition(":")[0]
    return origin.removesuffix(_DEFAULT_PORTS.get(scheme, " "))  # browsers leave it out


def parse_hosts(texts: Iterable[str]) -> tuple[str, ...]:
    """Check the names that the gateway answers for. Raises UserError (wrong usage)."""
    hosts = tuple(dict.fromkeys(_host(text) for text in texts))
    if len(hosts) > HOSTS_MAX:
        raise _wrong_usage(f"{len(hosts)} host names: a gateway has at most {HOSTS_MAX}")
    return hosts


def _host(text: str) -> str:
    host = text.lower().removesuffix(".")
    if _HOST.fullmatch(host) is None:
        raise _wrong_usage(
            f"--gateway-host {text[:60]!a}: write a host name or address without a port, such as "
            "box.lan"
        )
    return host.strip("[]")


def _wrong_usage(message: str) -> UserError:
    return UserError(message, ExitCode.WRONG_USAGE)
