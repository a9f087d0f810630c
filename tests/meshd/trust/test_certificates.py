"""Certificates carry a key into TLS, and only the key that the handshake proved comes out."""

import contextlib
import datetime
import hashlib
import pathlib
import ssl

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.home import Home
from meshd.trust.certificates import ensure_certificates, make_contexts, peer_key
from meshd.trust.keys import node_seed
from protocol.crypto import public_key_of
from protocol.identity import key_text
from tests.helpers.nodes import seed_of

SECRET = seed_of("mesh secret")
ED25519_OID = bytes.fromhex("06032b6570")


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path)
    home.create()
    return home


def _ders(home: Home) -> list[bytes]:
    certificates = x509.load_pem_x509_certificates(home.tls.read_bytes())
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]


def _crafted(
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey,
    name: str,
    extra: bytes = b"",
) -> x509.Certificate:
    """A certificate that the mesh's issuer key signed, as whoever knows the secret can make it."""
    issuer_seed = hashlib.blake2b(SECRET, digest_size=32, person=b"meshd tls issuer").digest()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meshd mesh")]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC))
    )
    if extra:
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, extra), critical=False)
    return builder.sign(Ed25519PrivateKey.from_private_bytes(issuer_seed), None)


def test_the_nodes_key_comes_out(home: Home) -> None:
    """The first certificate carries the node key; both are of the mesh's issuer."""
    seed = node_seed(home)
    ensure_certificates(home, SECRET, seed)
    own, issuer = _ders(home)
    assert peer_key(own) == public_key_of(seed)
    own_certificate = x509.load_der_x509_certificate(own)
    own_certificate.verify_directly_issued_by(x509.load_der_x509_certificate(issuer))


def test_no_secret_is_in_the_file(home: Home) -> None:
    """`tls.pem` is public: neither the mesh secret nor a private key can be read from it."""
    seed = node_seed(home)
    ensure_certificates(home, SECRET, seed)
    content = home.tls.read_bytes()
    assert b"PRIVATE" not in content
    for secret in (SECRET, seed):
        assert secret not in content
        assert secret.hex().encode() not in content


def test_certificates_are_made_once_per_mesh_and_key(home: Home) -> None:
    """The same again changes nothing; another mesh or key makes new ones."""
    seed = node_seed(home)
    ensure_certificates(home, SECRET, seed)
    first = home.tls.read_bytes()
    before = home.tls.stat().st_mtime_ns
    ensure_certificates(home, SECRET, seed)
    assert home.tls.stat().st_mtime_ns == before
    ensure_certificates(home, seed_of("other"), seed)
    assert home.tls.read_bytes() != first


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"# 00\n"])
def test_a_damaged_file_is_made_anew(home: Home, damage: bytes) -> None:
    """It holds nothing that cannot be made again."""
    seed = node_seed(home)
    home.tls.write_bytes(damage)
    ensure_certificates(home, SECRET, seed)
    make_contexts(home)


def test_a_truncated_file_is_made_anew(home: Home) -> None:
    """A right first line does not make a whole file."""
    seed = node_seed(home)
    ensure_certificates(home, SECRET, seed)
    whole = home.tls.read_bytes()
    home.tls.write_bytes(whole[: len(whole) // 2])
    ensure_certificates(home, SECRET, seed)
    assert home.tls.read_bytes() == whole


def test_contexts_demand_everything(home: Home) -> None:
    """TLS 1.3 and a certificate from both ends; host names do not matter."""
    seed = node_seed(home)
    ensure_certificates(home, SECRET, seed)
    for context in make_contexts(home):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert not context.check_hostname


def test_a_clock_from_before_the_mesh_is_no_reason_to_refuse(home: Home) -> None:
    """A board without a clock thinks that it is 1970."""
    ensure_certificates(home, SECRET, node_seed(home))
    for der in _ders(home):
        certificate = x509.load_der_x509_certificate(der)
        assert certificate.not_valid_before_utc.year == 1970
        assert certificate.not_valid_after_utc.year == 2200


def test_the_bytes_are_those_of_a_library(home: Home) -> None:
    """What is written here value by value, `cryptography` builds too, to the last bit."""
    seed = node_seed(home)
    ensure_certificates(home, SECRET, seed)
    node = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    issuer = Ed25519PrivateKey.from_private_bytes(
        hashlib.blake2b(SECRET, digest_size=32, person=b"meshd tls issuer").digest()
    )
    serial = int.from_bytes(node.public_bytes_raw()[:16], "big") | 1 << 120
    assert _ders(home) == [
        _by_library(node, key_text(node.public_bytes_raw()), serial, issuer, (False, None)),
        _by_library(issuer.public_key(), "meshd mesh", 1, issuer, (True, 0)),
    ]


def _by_library(
    key: Ed25519PublicKey,
    name: str,
    serial: int,
    issuer: Ed25519PrivateKey,
    constraints: tuple[bool, int | None],
) -> bytes:
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meshd mesh")]))
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(*constraints), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False
        )
        .sign(issuer, None)
    )
    return built.public_bytes(Encoding.DER)


# ---- hostile certificates ----


@settings(max_examples=400)
@given(st.data())
def test_no_other_reader_sees_another_key(data: st.DataObject) -> None:
    """Bytes changed, cut out and put in: whenever a key comes out, a library reads the same one
    at the same place, or takes the certificate for broken.
    """
    changed = bytearray(CRAFTED)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 140) | st.integers(0, len(changed) - 1))
        cut = data.draw(st.integers(0, 2))
        changed[place : place + cut] = data.draw(st.binary(max_size=2))
    key = peer_key(bytes(changed))
    if key is None:
        return
    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        read = x509.load_der_x509_certificate(bytes(changed)).public_key()
        assert isinstance(read, Ed25519PublicKey)
        assert read.public_bytes_raw() == key


def test_a_second_key_inside_is_not_taken_for_the_peers() -> None:
    """Name, and an extension with another's whole public key: only the proven one counts."""
    mallory = Ed25519PrivateKey.generate()
    victim = Ed25519PrivateKey.generate().public_key()
    crafted = _crafted(
        mallory,
        key_text(victim.public_bytes_raw()),
        victim.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )
    assert peer_key(crafted.public_bytes(Encoding.DER)) == mallory.public_key().public_bytes_raw()


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), ed448.Ed448PrivateKey.generate()]
)
def test_other_kinds_of_keys_are_nobody(
    key: ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey,
) -> None:
    """TLS would take them; a node's key is Ed25519."""
    assert peer_key(_crafted(key, "x").public_bytes(Encoding.DER)) is None


def test_a_kind_of_key_that_nobody_knows_is_nobody() -> None:
    """OpenSSL may know more kinds than we can read: that is a refusal, not a crash."""
    der = _crafted(Ed25519PrivateKey.generate(), "x").public_bytes(Encoding.DER)
    place = der.index(b"\x30\x2a\x30\x05" + ED25519_OID) + 4
    unknown = der[:place] + bytes.fromhex("06032b6563") + der[place + len(ED25519_OID) :]
    assert peer_key(unknown) is None


@pytest.mark.parametrize("version", [1, 3, 127])
def test_a_version_that_does_not_exist_is_nobody(version: int) -> None:
    """OpenSSL does not look at it."""
    place = CRAFTED.index(b"\xa0\x03\x02\x01\x02") + 4
    assert peer_key(CRAFTED) is not None
    assert peer_key(CRAFTED[:place] + bytes((version,)) + CRAFTED[place + 1 :]) is None


def test_more_than_one_certificate_is_nobody() -> None:
    """What stands behind it could be what another reader takes."""
    assert peer_key(CRAFTED + b"\0") is None
    assert peer_key(CRAFTED + CRAFTED) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_nobody(der: bytes) -> None:
    """Reading never raises."""
    assert peer_key(der) is None


@given(st.data())
def test_a_certificate_with_one_changed_byte_never_raises(data: st.DataObject) -> None:
    """It gives a key or None."""
    der = bytearray(CRAFTED)
    place = data.draw(st.integers(0, len(der) - 1))
    der[place] = data.draw(st.integers(0, 255))
    key = peer_key(bytes(der))
    assert key is None or len(key) == 32


CRAFTED = _crafted(Ed25519PrivateKey.from_private_bytes(b"k" * 32), "x").public_bytes(Encoding.DER)
