"""The one place for signing and sealing: an interface, and its real form over libsodium.

Everything is deterministic: Ed25519 signs without chance, seals take their nonce from the caller.
Private keys are made elsewhere and given as 32-byte seeds.
"""

import functools
import hashlib
from typing import Final, Protocol

import nacl.bindings
import nacl.exceptions

from protocol.identity import NodeId

SEAL_TAG_BYTES: Final = 16
SEAL_NONCE_BYTES: Final = 24
SEAL_KEY_BYTES: Final = 32
CHECKED_MAX: Final = 1_024
"""Signatures whose check is remembered: a joining node meets the same records three times (in the
answer, from its disk, from its peers)."""


class Crypto(Protocol):
    """One node's keys at work. A simulator may swap in cheap stand-ins of the same lengths."""

    @property
    def node_id(self) -> NodeId:
        """The public key that `sign` signs for."""
        ...

    def sign(self, data: bytes) -> bytes:
        """A 64-byte signature of `data` by this node."""
        ...

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        """Whether `signature` over `data` is by the holder of the public key `key`."""
        ...

    def pair_key(self, peer: NodeId) -> bytes | None:
        """A 32-byte secret that only this node and `peer` can compute; None for a bad key."""
        ...

    def seal(self, key: bytes, nonce: bytes, plain: bytes) -> bytes:
        """Encrypt and authenticate: 16 bytes longer than `plain`."""
        ...

    def open(self, key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
        """The inverse of `seal`; None when authentication fails."""
        ...

    def derive_key(self, secret: bytes, data: bytes, purpose: bytes) -> bytes:
        """A 32-byte key under a secret of this node's: it never leaves the process."""
        ...

    def mac(self, secret: bytes, data: bytes, size: int, purpose: bytes) -> bytes:
        """A code under a secret of this node's, to be sent or compared."""
        ...


def sign_with(seed: bytes, data: bytes) -> bytes:
    """Sign with the Ed25519 private key whose 32-byte seed is given (invite and root keys)."""
    _, secret = nacl.bindings.crypto_sign_seed_keypair(seed)
    return nacl.bindings.crypto_sign(data, secret)[: nacl.bindings.crypto_sign_BYTES]


def public_key_of(seed: bytes) -> bytes:
    """The Ed25519 public key that belongs to a 32-byte seed."""
    public, _ = nacl.bindings.crypto_sign_seed_keypair(seed)
    return public


def keyed_hash(key: bytes, data: bytes, size: int, purpose: bytes) -> bytes:
    """BLAKE2b as a MAC and key derivation; `purpose` (16 bytes at most) separates uses."""
    return hashlib.blake2b(data, key=key, digest_size=size, person=purpose).digest()


@functools.lru_cache(maxsize=CHECKED_MAX)
def _is_signed(key: bytes, signature: bytes, data: bytes) -> bool:
    try:
        nacl.bindings.crypto_sign_open(signature + data, key)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError):
        return False
    return True


class KeyedHashes:
    """What every Crypto does alike: codes and keys under a secret."""

    def derive_key(self, secret: bytes, data: bytes, purpose: bytes) -> bytes:
        """See Crypto."""
        return keyed_hash(secret, data, SEAL_KEY_BYTES, purpose)

    def mac(self, secret: bytes, data: bytes, size: int, purpose: bytes) -> bytes:
        """See Crypto."""
        return keyed_hash(secret, data, size, purpose)


class SodiumCrypto(KeyedHashes):
    """Ed25519, X25519 from the same keys, XSalsa20-Poly1305: libsodium through PyNaCl."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: the 32-byte seed of the node's Ed25519 key."""
        public, self._secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        self._node_id = NodeId(public)
        self._curve_secret = nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(self._secret)

    @property
    def node_id(self) -> NodeId:
        """The public half."""
        return self._node_id

    def sign(self, data: bytes) -> bytes:
        """See Crypto."""
        return nacl.bindings.crypto_sign(data, self._secret)[: nacl.bindings.crypto_sign_BYTES]

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        """See Crypto."""
        return _is_signed(key, signature, data)

    def pair_key(self, peer: NodeId) -> bytes | None:
        """See Crypto. The key is X25519 of both identities, hashed (NaCl's box before nonce)."""
        try:
            curve_public = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(peer)
            return nacl.bindings.crypto_box_beforenm(curve_public, self._curve_secret)
        except (nacl.exceptions.CryptoError, nacl.exceptions.TypeError):
            return None

    def seal(self, key: bytes, nonce: bytes, plain: bytes) -> bytes:
        """See Crypto."""
        return nacl.bindings.crypto_secretbox(plain, nonce, key)

    def open(self, key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
        """See Crypto."""
        try:
            return nacl.bindings.crypto_secretbox_open(sealed, nonce, key)
        except nacl.exceptions.CryptoError:
            return None
