"""The one place for X.509: certificates that carry node keys into TLS, and reading them back.

TLS libraries insist on an issuer, so there is one: a key derived from the mesh secret, which every
member holds. A certificate therefore proves nothing but "knows the mesh secret". Who the peer is,
its own key says; whether it may speak, the authority records say (`peers.py` checks both).

Building needs the heavy part of `cryptography` once per home; the result is kept in `tls.pem`.
"""

import datetime
import hashlib
import ssl
from typing import Final

from meshd.home import Home
from meshd.trust.keys import SEED_BYTES
from protocol.identity import NodeId, key_text

_NOT_BEFORE: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER: Final = datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC)
"""Validity is the records' affair: clocks of members may be wrong, and show 1970 on some boards."""
_END: Final = "-----END CERTIFICATE-----\n"


def peer_key(der: bytes) -> NodeId | None:
    """The Ed25519 public key of a peer's certificate; None for any other kind of key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except Exception:  # noqa: BLE001  # a foreign parser of hostile bytes has errors of many kinds
        return None
    return NodeId(key.public_bytes_raw()) if isinstance(key, Ed25519PublicKey) else None


def _build(mesh_secret: bytes, node_seed: bytes) -> str:
    """Two PEM certificates: the node's, then its issuer's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.x509.oid import NameOID

    issuer_seed = hashlib.blake2b(
        mesh_secret, digest_size=SEED_BYTES, person=b"meshd tls issuer"
    ).digest()
    issuer_key = Ed25519PrivateKey.from_private_bytes(issuer_seed)
    node_public = Ed25519PrivateKey.from_private_bytes(node_seed).public_key()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meshd mesh")])
    node_text = key_text(node_public.public_bytes_raw())
    node = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_text)])

    def certificate(subject: x509.Name, key: Ed25519PublicKey, serial: int) -> str:
        is_issuer = subject == issuer
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .add_extension(x509.BasicConstraints(is_issuer, 0 if is_issuer else None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
            )
            .sign(issuer_key, None)
        )
        return built.public_bytes(serialization.Encoding.PEM).decode("ascii")

    # Issuer and serial must name one certificate: the serial is taken from the node's key.
    node_serial = int.from_bytes(node_public.public_bytes_raw()[:16], "big") | 1 << 120
    return certificate(node, node_public, node_serial) + certificate(
        issuer, issuer_key.public_key(), 1
    )


def ensure_certificates(home: Home, mesh_secret: bytes, node_seed: bytes) -> None:
    """Write `tls.pem` for this mesh and node unless it is there."""
    mark = hashlib.blake2b(mesh_secret + node_seed, digest_size=16, person=b"meshd tls mark")
    header = f"# {mark.hexdigest()}\n"
    try:
        text = home.tls.read_text("ascii")
        if text.startswith(header) and text.count(_END) == 2:
            return
    except (OSError, UnicodeDecodeError):
        pass  # absent or damaged: make it anew
    home.write(home.tls, (header + _build(mesh_secret, node_seed)).encode("ascii"))


def make_contexts(home: Home) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(for dialing, for accepting): TLS 1.3 only, both ends show a certificate of this mesh."""
    parts = home.tls.read_text("ascii").split(_END)
    issuer = ssl.PEM_cert_to_DER_cert(parts[1].strip() + "\n" + _END)
    contexts: list[ssl.SSLContext] = []
    for purpose in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the key is checked instead, see peers.py
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(home.tls, home.node_key)
        context.load_verify_locations(cadata=issuer)
        contexts.append(context)
    return contexts[0], contexts[1]
