"""Keys under a passphrase: the standard's form, and nothing else opens them."""

import base64
import pathlib
import shutil
import ssl
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.home import Home
from meshd.trust import der, encrypted_keys
from meshd.trust.certificates import ensure_certificates, make_contexts
from meshd.trust.encrypted_keys import WrongPassphrase, decrypt, encrypt, is_encrypted
from meshd.trust.keys import from_encrypted_pem, node_seed, to_pem
from tests.helpers.nodes import seed_of
from tests.meshd.trust.audit_homes import made

SEED = seed_of("encrypted")
PASSPHRASE = "a pässphrase with blanks".encode()
SEALED = to_pem(SEED, PASSPHRASE)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def _openssl(*words: str, given: bytes) -> bytes:
    return subprocess.run(
        ["openssl", *words], input=given, capture_output=True, check=True, timeout=30
    ).stdout


def test_it_comes_back() -> None:
    """With the passphrase, and with no other."""
    assert is_encrypted(SEALED)
    assert from_encrypted_pem(SEALED, PASSPHRASE) == SEED
    for wrong in (b"", b"another", PASSPHRASE + b" ", PASSPHRASE[:-1]):
        with pytest.raises(WrongPassphrase):
            from_encrypted_pem(SEALED, wrong)


def test_the_same_key_never_looks_the_same() -> None:
    """Salt and first block are new each time; nothing of the key is to be seen."""
    assert to_pem(SEED, PASSPHRASE) != SEALED
    assert SEED not in base64.b64decode("".join(SEALED.decode().splitlines()[1:-1]))


def test_another_library_reads_it() -> None:
    """It is the standard's form."""
    key = load_pem_private_key(SEALED, PASSPHRASE)
    assert isinstance(key, Ed25519PrivateKey)
    assert key.private_bytes_raw() == SEED


@needs_openssl
def test_openssl_reads_it() -> None:
    """The way out, should meshd ever be gone."""
    plain = _openssl("pkey", "-passin", f"pass:{PASSPHRASE.decode()}", given=SEALED)
    assert plain == to_pem(SEED)


@needs_openssl
def test_what_openssl_writes_is_read() -> None:
    """With scrypt, which it has to be told."""
    words = ["pkcs8", "-topk8", "-scrypt", "-v2", "aes-256-cbc", "-passout", "pass:pw"]
    assert from_encrypted_pem(_openssl(*words, given=to_pem(SEED)), b"pw") == SEED


def test_the_ssl_module_reads_it(tmp_path: pathlib.Path) -> None:
    """TLS works with a key that is nowhere on disk as it is; without the passphrase it fails, and
    asks nobody.
    """
    home = made(tmp_path / "home")
    home.passphrase = PASSPHRASE
    seed = node_seed(home)
    ensure_certificates(home, b"s" * 32, seed)
    make_contexts(home)
    with pytest.raises(ssl.SSLError):
        make_contexts(Home(home.path))


def test_another_algorithm_is_refused() -> None:
    """Said as such: PBKDF2, as a library writes it unless it is told otherwise."""
    pem = Ed25519PrivateKey.from_private_bytes(SEED).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")
    )
    with pytest.raises(ValueError, match="not a key under scrypt"):
        decrypt(pem, b"pw")


@pytest.mark.parametrize(
    "numbers", [(2**22, 8, 1), (2**14, 2**12, 1), (2**14, 8, 2**20), (3, 8, 1)]
)
def test_a_file_that_would_cost_minutes_is_refused(
    monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, int, int]
) -> None:
    """By its numbers, before anything is computed."""
    with monkeypatch.context() as patch:
        patch.setattr(encrypted_keys, "_derive", lambda *arguments: b"k" * 32)
        for name, number in zip(("_SCRYPT_N", "_SCRYPT_R", "_SCRYPT_P"), numbers, strict=True):
            patch.setattr(encrypted_keys, name, number)
        pem = encrypt(der.sequence(), b"pw")
    with pytest.raises(ValueError, match="out of range"):
        decrypt(pem, b"pw")


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_never_gives_another_key(data: st.DataObject) -> None:
    """It is refused, or it is the same key: the work of scrypt is spared here, its input kept."""
    body = bytearray(base64.b64decode("".join(SEALED.decode().splitlines()[1:-1])))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    try:
        parts = encrypted_keys._parts(bytes(body))
    except der.BadDer:
        return
    assert sum(map(len, (parts[0], parts[2], parts[3]))) == 16 + 16 + 64


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda b: SEALED[:60] + b))
def test_anything_else_is_refused(data: bytes) -> None:
    """ValueError and nothing else."""
    with pytest.raises(ValueError, match="not a"):
        decrypt(data, b"pw")


@given(st.binary(max_size=200))
def test_any_der_is_refused(data: bytes) -> None:
    """Inside a well-formed PEM file."""
    body = base64.b64encode(data)
    pem = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n%b\n-----END ENCRYPTED PRIVATE KEY-----\n" % body
    with pytest.raises(ValueError, match="not a"):
        decrypt(pem, b"pw")
