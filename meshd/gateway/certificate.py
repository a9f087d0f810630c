"""The one place for the gateway's certificate: read at start, and what it says of itself."""

import dataclasses
import hashlib
import ipaddress
import pathlib
import ssl
from typing import Final

from meshd import posix
from meshd.failures import UserError
from meshd.trust import der

_SUBJECT_ALTERNATIVE_NAME: Final = der.value(der.OBJECT_ID, bytes.fromhex("551d11"))
_DNS_NAME: Final = 0x82
_IP_ADDRESS: Final = 0x87
_FILE_BYTES_MAX: Final = 1024 * 1024
_END: Final = "-----END CERTIFICATE-----"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a gateway needs to speak TLS."""

    context: ssl.SSLContext = dataclasses.field(repr=False)
    names: tuple[str, ...]
    """Host names and addresses that it is for (subject alternative names)."""
    fingerprint: str
    """SHA-256 of the certificate, in hex: how commands of this machine's owner know it."""


def load_certificate(certificate: pathlib.Path, key: pathlib.Path) -> Certificate:
    """Read both files (PEM), once. Raises UserError that names the one that is wrong."""
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise UserError(f"{option} {path}: {error.strerror}; name a PEM file") from error
    if posix.readable_by_all(key):  # a group's may be meant: so web servers share theirs
        import structlog  # heavy, and rarely needed

        log = structlog.get_logger()
        log.warning("gateway.key_is_readable", file=str(key), mend=f"chmod o-rwx {key}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
        data = _leaf(certificate)
    except _Encrypted as error:
        raise UserError(
            f"--tls-key {key}: it is encrypted; write it without its password, for the owner only: "
            f"openssl pkey -in {key} -out plain.pem"
        ) from error
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise UserError(_what_is_wrong(certificate, key, error)) from error
    return Certificate(
        context=context, names=_names(data), fingerprint=hashlib.sha256(data).hexdigest()
    )


class _Encrypted(Exception):
    """Somebody asks for the key's password; the terminal must not be waited for."""


def _no_password() -> str:
    raise _Encrypted


def _what_is_wrong(certificate: pathlib.Path, key: pathlib.Path, error: Exception) -> str:
    reason = getattr(error, "reason", None) or ""
    if "KEY_VALUES_MISMATCH" in reason:
        return f"--tls-key {key} is not the key of --tls-cert {certificate}; name the two that fit"
    return (
        f"--tls-cert {certificate} and --tls-key {key} cannot be used: they must be a certificate "
        "(with its chain below it) and its private key, both PEM"
    )


def _leaf(path: pathlib.Path) -> bytes:
    """The first certificate in the file, DER. Raises OSError, ValueError."""
    text = path.read_bytes()[:_FILE_BYTES_MAX].decode("latin-1")
    begin = text.index("-----BEGIN CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(text[begin : text.index(_END, begin) + len(_END)])


def _names(certificate: bytes) -> tuple[str, ...]:
    """Its subject alternative names (RFC 5280, section 4.2.1.6); none if they cannot be read."""
    _, found, after = certificate.partition(_SUBJECT_ALTERNATIVE_NAME)
    if not found:
        return ()
    if after.startswith(der.TRUE):  # marked as critical
        after = after.removeprefix(der.TRUE)
    names: list[str] = []
    try:
        extension, _ = der.take(der.OCTET_STRING, after)
        rest, _ = der.take(der.SEQUENCE, extension)
        while rest:
            kind = rest[0]
            content, rest = der.take(kind, rest)
            if kind == _DNS_NAME:
                names.append(content.decode("ascii"))
            elif kind == _IP_ADDRESS:
                names.append(str(ipaddress.ip_address(content)))
    except ValueError:  # BadDer is one
        return ()
    return tuple(names)
