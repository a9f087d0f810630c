"""The one place for X.509: certificates that carry node keys into TLS, and reading them back.

TLS libraries insist on an issuer, so there is one: a key derived from the mesh secret, which every
member holds. A certificate therefore proves nothing but "knows the mesh secret". Who the peer is,
its own key says; whether it may speak, the authority records say (`peers.py` checks both).

Both certificates have one form with a few blanks, so they are written here value by value; of a
peer's, only the place of the key is read. A library for all of X.509 would cost every daemon 9 MB
and a tenth of a second for that. TLS itself has parsed and verified the certificate by then.
"""

import hashlib
import ssl
from typing import Final

from meshd.home import Home
from meshd.trust import der
from meshd.trust.keys import SEED_BYTES
from protocol.crypto import public_key_of, sign_with
from protocol.identity import NodeId, key_text

_VALIDITY: Final = der.sequence(
    der.value(der.UTC_TIME, b"700101000000Z"), der.value(der.GENERALIZED_TIME, b"22000101000000Z")
)
"""1970 to 2200: it is the records' affair; clocks of members may be wrong."""
_VERSION: Final = der.value(0xA0, der.integer(2))
"""X.509 v3 (RFC 5280, section 4.1.2.1), counted from 0."""
_ED25519: Final = der.sequence(der.value(der.OBJECT_ID, bytes.fromhex("2b6570")))
"""RFC 8410, section 3: the algorithm of keys and of signatures."""
_COMMON_NAME: Final = bytes.fromhex("550403")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_SUBJECT_KEY_ID: Final = bytes.fromhex("551d0e")
_AUTHORITY_KEY_ID: Final = bytes.fromhex("551d23")
_END: Final = "-----END CERTIFICATE-----\n"
_KEY_BYTES: Final = 32


def peer_key(certificate: bytes) -> NodeId | None:
    """The Ed25519 public key of a peer's certificate (DER); None for any other kind of key.

    The key is found by its place among the values (RFC 5280, section 4.1), never by searching:
    names and extensions may hold anything, another's key for one.
    """
    try:
        whole, after = der.take(der.SEQUENCE, certificate)
        signed, _ = der.take(der.SEQUENCE, whole)
        if after or not signed.startswith(_VERSION):
            return None
        _, rest = der.take(der.INTEGER, signed[len(_VERSION) :])
        for _ in ("signature algorithm", "issuer", "validity", "subject"):
            _, rest = der.take(der.SEQUENCE, rest)
        key_info, _ = der.take(der.SEQUENCE, rest)
    except der.BadDer:
        return None
    key = key_info[-_KEY_BYTES:]
    is_ed25519 = key_info == _ED25519 + der.bit_string(key) and len(key) == _KEY_BYTES
    return NodeId(key) if is_ed25519 else None


def _build(mesh_secret: bytes, node_seed: bytes) -> str:
    """Two PEM certificates: the node's, then its issuer's."""
    issuer_seed = hashlib.blake2b(
        mesh_secret, digest_size=SEED_BYTES, person=b"meshd tls issuer"
    ).digest()
    issuer_key = public_key_of(issuer_seed)
    issuer = _name("meshd mesh")

    def certificate(subject: bytes, key: bytes, serial: int, constraints: bytes) -> str:
        extensions = der.sequence(
            _extension(_BASIC_CONSTRAINTS, constraints, is_critical=True),
            _extension(_SUBJECT_KEY_ID, der.value(der.OCTET_STRING, _key_id(key))),
            _extension(_AUTHORITY_KEY_ID, der.sequence(der.value(0x80, _key_id(issuer_key)))),
        )
        signed = der.sequence(
            _VERSION,
            der.integer(serial),
            _ED25519,
            issuer,
            _VALIDITY,
            subject,
            der.sequence(_ED25519, der.bit_string(key)),
            der.value(0xA3, extensions),
        )
        signature = der.bit_string(sign_with(issuer_seed, signed))
        return ssl.DER_cert_to_PEM_cert(der.sequence(signed, _ED25519, signature))

    node_key = public_key_of(node_seed)
    # Issuer and serial must name one certificate: the serial is taken from the node's key.
    node_serial = int.from_bytes(node_key[:16], "big") | 1 << 120
    is_issuer = der.sequence(der.TRUE, der.integer(0))  # of nodes, not of other issuers
    return certificate(_name(key_text(node_key)), node_key, node_serial, der.sequence()) + (
        certificate(issuer, issuer_key, 1, is_issuer)
    )


def _name(common_name: str) -> bytes:
    text = der.value(der.UTF8_STRING, common_name.encode())
    attribute = der.sequence(der.value(der.OBJECT_ID, _COMMON_NAME), text)
    return der.sequence(der.value(der.SET, attribute))


def _extension(kind: bytes, content: bytes, *, is_critical: bool = False) -> bytes:
    critical = der.TRUE if is_critical else b""
    return der.sequence(
        der.value(der.OBJECT_ID, kind), critical, der.value(der.OCTET_STRING, content)
    )


def _key_id(key: bytes) -> bytes:
    """RFC 5280, section 4.2.1.2 (1): a label by which libraries find an issuer, no proof."""
    return hashlib.sha1(key, usedforsecurity=False).digest()


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
    """(for dialing, for accepting): TLS 1.3 only, both ends show a certificate of this mesh.

    No session is ever resumed, so every connection proves both keys anew; connections themselves
    are used again instead (`peers.py`).
    """
    parts = home.tls.read_text("ascii").split(_END)
    issuer = ssl.PEM_cert_to_DER_cert(parts[1].strip() + "\n" + _END)
    contexts: list[ssl.SSLContext] = []
    for purpose in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(purpose)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the key is checked instead, see peers.py
        context.verify_mode = ssl.CERT_REQUIRED
        # Without a password OpenSSL would ask on the terminal for one.
        context.load_cert_chain(home.tls, home.node_key, password=home.passphrase or b"")
        context.load_verify_locations(cadata=issuer)
        contexts.append(context)
    contexts[1].num_tickets = 0
    return contexts[0], contexts[1]
