"""The one place that reads an upstream's URL."""

import dataclasses
import ipaddress
import re
import urllib.parse

from runtimes.base import RuntimeFailure

URL_CHARACTERS_MAX = 512
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_EXAMPLE = "write one like http://127.0.0.1:11434"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamAddress:
    """Where an OpenAI-compatible server is."""

    is_https: bool
    host: str
    """A name or an address; IPv6 without brackets."""
    port: int
    path: str
    """What stands before `/v1`: empty, or `/...` without a slash at the end."""

    @property
    def authority(self) -> str:
        """HOST or HOST:PORT, as the header Host has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = _DEFAULT_PORTS["https" if self.is_https else "http"]
        return host if self.port == default else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The canonical text: without `/v1`, without a slash at the end."""
        return f"{'https' if self.is_https else 'http'}://{self.authority}{self.path}"

    @property
    def bases(self) -> tuple[str, str]:
        """Paths below which `/models` may be, the likelier first."""
        return f"{self.path}/v1", self.path

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this very machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def read_url(text: str) -> UpstreamAddress:
    """Read `http[s]://HOST[:PORT][/PATH][/v1]`.

    Raises RuntimeFailure `invalid_model` with one line. The text itself is not in the line: a URL
    may hold a password.
    """
    if len(text) > URL_CHARACTERS_MAX or not text.isascii() or not text.isprintable():
        raise _bad(f"the URL is not printable ASCII of at most {URL_CHARACTERS_MAX} characters")
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError:
        raise _bad(f"this is no URL; {_EXAMPLE}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise _bad(f"the URL must begin with http:// or https://; {_EXAMPLE}")
    if parts.username is not None or parts.password is not None:
        raise _bad("the URL must not hold a password; put the API key into MESHD_UPSTREAM_KEY")
    if "?" in text or "#" in text:
        raise _bad(f"the URL must end with its path; {_EXAMPLE}")
    host = parts.hostname or ""
    if not _is_host(host, is_bracketed="[" in parts.netloc):
        raise _bad(f"the URL names no host; {_EXAMPLE}")
    path = parts.path.rstrip("/")
    if _PATH.fullmatch(path) is None:
        raise _bad("the URL's path has characters that are not letters, digits or . _ ~ -")
    if port == 0:
        raise _bad("the URL's port is a number from 1 to 65535")
    return UpstreamAddress(
        is_https=parts.scheme == "https",
        host=host,
        port=_DEFAULT_PORTS[parts.scheme] if port is None else port,
        path=path.removesuffix("/v1"),
    )


def _is_host(host: str, *, is_bracketed: bool) -> bool:
    if is_bracketed:
        try:
            return ipaddress.ip_address(host).version == 6 and "%" not in host
        except ValueError:
            return False
    return _HOST.fullmatch(host) is not None


def _bad(message: str) -> RuntimeFailure:
    return RuntimeFailure("invalid_model", message)
