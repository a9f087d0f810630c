"""The one place for what people type about a node: its options, addresses, labels, durations.

Everything here is checked before anything starts, so a typing error costs one line and exit
code 2, and the daemon may believe what it is given.
"""

import dataclasses
import ipaddress
import pathlib
import re
from collections.abc import Iterable, Mapping

from meshd.failures import ExitCode, UserError
from meshd.gateway_options import GatewayOptions
from runtimes.base import RuntimeFailure
from runtimes.openai.address import read_url

LISTEN_DEFAULT = "[::]:7700"
"""Dual stack; UDP gossip and TCP streams on one number."""
GATEWAY_DEFAULT = "127.0.0.1:7701"

LABELS_MAX = 16
LABELS_BYTES_MAX = 512
"""All keys and values together: they travel in one offer of at most 700 bytes."""
MODELS_MAX = 32
UPSTREAMS_MAX = 8
DURATION_S_MAX = 366 * 86_400

_NAME = re.compile(r"[a-z0-9-]{1,63}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]{1,32})?")
_PORT = re.compile(r"[0-9]{1,5}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([MGT]B)", re.IGNORECASE)
_UNIT_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """How to run a node: `meshd up` with every value checked."""

    home: pathlib.Path
    name: str | None = None
    """`[a-z0-9-]{1,63}`; None: the host's."""
    listen: str = LISTEN_DEFAULT
    """HOST:PORT; port 0 picks a free one."""
    advertise: str | None = None
    """HOST:PORT that others shall use; None: found out by the node."""
    gateway: str = GATEWAY_DEFAULT
    """HOST:PORT; port 0 picks a free one."""
    passphrase: bytes | None = dataclasses.field(default=None, repr=False)
    """Of the home's keys."""
    access: GatewayOptions = dataclasses.field(default_factory=GatewayOptions)
    """Who may use the gateway."""
    join: str | None = dataclasses.field(default=None, repr=False)
    """An invite's token, unread."""
    new_identity: bool = False
    """Join as a new node, whoever this home was; with `join` only."""
    models: tuple[str, ...] = ()
    """As typed; empty: what is found on disk or else the demo model; `none` stands alone."""
    model_memory_bytes: int | None = None
    """What models may take of ordinary memory, together; None: what there is."""
    upstreams: tuple[str, ...] = ()
    """URLs of OpenAI-compatible servers whose models this node offers too."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    policy: str = "fastest"
    """How the nodes that could run a request are put in order, where it does not say."""
    yield_to_owner: bool = False
    """Run nothing of others while the owner is at work, or on battery."""
    lan: bool = True
    """Announce and look for nodes of the same mesh on the local network."""
    record: pathlib.Path | None = None
    """Write every event of the protocol to this file, for replay."""
    json: bool = False
    """Standard output is read by a program."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a daemon announces once its sockets are bound and it is a member."""

    node: str
    """The node's id, text form."""
    name: str
    mesh: str
    """The mesh's id, text form."""
    listen: str
    """HOST:PORT as bound."""
    gateway: str
    """`http://HOST:PORT` as bound, or `https://`."""
    founded: bool = False
    """This start made the mesh."""
    join_line: str | None = None
    """The command that joins another machine, ready to paste; given when the mesh was founded."""
    notices: tuple[str, ...] = ()
    """What the person should know, a line each (another mesh nearby, a missing runtime)."""


def wrong_usage(message: str) -> UserError:
    """A UserError for something typed wrongly."""
    return UserError(message, ExitCode.WRONG_USAGE)


def parse_host_port(text: str, *, what: str = "address") -> tuple[str, int]:
    """Split HOST:PORT or [IPV6]:PORT; the host comes without brackets, the port is 0 to 65535.

    `what` names the value in the error. Raises UserError (wrong usage).
    """
    shown = _shown(text)
    host, colon, port_text = text.rpartition(":")
    if not colon or not host:
        raise wrong_usage(f"{what} {shown}: write HOST:PORT, such as 192.168.1.5:7700")
    if _PORT.fullmatch(port_text) is None or int(port_text) > 65_535:
        raise wrong_usage(f"{what} {shown}: the port is a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return _ipv6(host[1:-1], what=what, shown=shown), int(port_text)
    if ":" in host:
        raise wrong_usage(f"{what} {shown}: put an IPv6 address in brackets, such as [::1]:7700")
    if _HOST.fullmatch(host) is None or not _is_ipv4_if_it_looks_so(host):
        raise wrong_usage(f"{what} {shown}: {_shown(host)} is not a host name or address")
    return host, int(port_text)


def format_host_port(host: str, port: int) -> str:
    """The inverse of `parse_host_port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_policy(text: str) -> str:
    """Check the name of a policy. Raises UserError (wrong usage)."""
    from protocol.policies import POLICIES  # loads msgpack

    if text not in POLICIES:
        raise wrong_usage(f"--policy {_shown(text)}: choose from {', '.join(POLICIES)}")
    return text


def parse_name(text: str) -> str:
    """Check a node's name. Raises UserError (wrong usage)."""
    if _NAME.fullmatch(text) is None:
        raise wrong_usage(
            f"name {_shown(text)}: use 1 to 63 of the characters a-z, 0-9 and - (names are "
            "lower-case)"
        )
    return text


def name_from_host(host: str) -> str:
    """A valid node name that resembles the machine's host name; `node` if nothing is left."""
    short = host.split(".", 1)[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", short).strip("-")[:63].strip("-") or "node"


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """Check labels, K=V each. Raises UserError (wrong usage)."""
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or _LABEL_KEY.fullmatch(key) is None:
            raise wrong_usage(
                f"label {_shown(text)}: write KEY=VALUE, the key of letters, digits and . _ - /"
            )
        if not value.isprintable() or not _is_unicode(value):
            raise wrong_usage(f"label {_shown(text)}: the value has unprintable characters")
        if key in labels:
            raise wrong_usage(f"label {_shown(key)} is given twice")
        labels[key] = value
    if len(labels) > LABELS_MAX:
        raise wrong_usage(f"{len(labels)} labels: a node has at most {LABELS_MAX}")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in labels.items())
    if size > LABELS_BYTES_MAX:
        raise wrong_usage(f"labels take {size} bytes together: {LABELS_BYTES_MAX} at most")
    return labels


def parse_models(texts: Iterable[str]) -> tuple[str, ...]:
    """Check the models to offer; what they name is looked up later.

    Raises UserError (wrong usage).
    """
    models = tuple(dict.fromkeys(texts))
    if any(not model or not _is_unicode(model) for model in models):
        raise wrong_usage("--model: name a file, a model, demo or none")
    if "none" in models and len(models) > 1:
        raise wrong_usage("--model none offers no model: give it alone")
    if len(models) > MODELS_MAX:
        raise wrong_usage(f"{len(models)} models: a node offers at most {MODELS_MAX}")
    return models


def parse_upstreams(texts: Iterable[str]) -> tuple[str, ...]:
    """Check the URLs of OpenAI-compatible servers, each in its canonical text and once.

    Raises UserError (wrong usage); the line never shows the URL, which may hold a password.
    """
    try:
        upstreams = tuple(dict.fromkeys(read_url(text).url for text in texts))
    except RuntimeFailure as failure:
        raise wrong_usage(f"--upstream: {failure.message}") from None
    if len(upstreams) > UPSTREAMS_MAX:
        raise wrong_usage(f"{len(upstreams)} upstreams: a node has at most {UPSTREAMS_MAX}")
    return upstreams


def parse_duration_s(text: str, *, what: str = "duration") -> int:
    """Seconds in 45s, 30m, 1h or 2d; more than 0, at most 366 days.

    Raises UserError (wrong usage).
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise wrong_usage(f"{what} {_shown(text)}: write a number and s, m, h or d, such as 1h")
    duration_s = int(match[1]) * _UNIT_S[match[2]]
    if not 0 < duration_s <= DURATION_S_MAX:
        raise wrong_usage(f"{what} {_shown(text)}: choose from 1s to 366d")
    return duration_s


def parse_size(text: str, *, what: str = "size") -> int:
    """Bytes in 500MB, 8GB or 1.5TB; 1 MB at least. Raises UserError (wrong usage)."""
    match = _SIZE.fullmatch(text)
    size_bytes = int(float(match[1]) * _UNIT_BYTES[match[2].upper()]) if match else 0
    if not 10**6 <= size_bytes < 2**62:
        raise wrong_usage(f"{what} {_shown(text)}: write a number and MB, GB or TB, such as 8GB")
    return size_bytes


def _ipv6(text: str, *, what: str, shown: str) -> str:
    failure = wrong_usage(f"{what} {shown}: no IPv6 address is in the brackets")
    if _IPV6.fullmatch(text) is None:
        raise failure
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise failure from None
    return text


def _is_ipv4_if_it_looks_so(host: str) -> bool:
    """Digits and dots only are an address, never a name: 1.2.3 and 300.1.1.1 are mistakes."""
    if re.fullmatch(r"[0-9.]+", host) is None:
        return True
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_unicode(text: str) -> bool:
    """Whether `text` has no stray bytes that the command line could not decode."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _shown(text: str) -> str:
    """`text` quoted for a message: one line, printable, not too long."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return ascii(shown)
