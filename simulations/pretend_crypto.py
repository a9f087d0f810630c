"""The one place for cheap pretended keys: same lengths, same answers, no secrecy at all.

For simulations in which nobody forges anything and only time counts. A signature is a hash that
anybody could compute, a seal leaves its text readable. Wrong keys, nonces and changed bytes are
still noticed, so the protocol takes the same paths as with libsodium.
"""

import functools
import zlib
from typing import Final

from protocol.crypto import SEAL_TAG_BYTES, KeyedHashes, SodiumCrypto, keyed_hash
from protocol.identity import NodeId

_SIGNATURE_BYTES: Final = 64
_IDENTITY: Final = b"pretended key"
_PAIR: Final = b"pretended pair"
_SIGNATURE: Final = b"pretended sign"
_CHECKED_MAX: Final = 2**16


class PretendCrypto(KeyedHashes):
    """See protocol.crypto.Crypto. For simulations only: it protects nothing."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: 32 bytes that make this identity unlike others."""
        self._node_id = NodeId(keyed_hash(seed, b"", 32, _IDENTITY))

    @property
    def node_id(self) -> NodeId:
        """A hash of the seed, in the place of a public key."""
        return self._node_id

    def sign(self, data: bytes) -> bytes:
        """64 bytes that everybody who knows `node_id` could make."""
        return keyed_hash(self._node_id, data, _SIGNATURE_BYTES, _SIGNATURE)

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        """Whether it is `sign` of that identity, or a true Ed25519 signature: the root key and
        invites sign for real (`protocol.crypto.sign_with`), and each such is checked once.
        """
        if signature == keyed_hash(key, data, _SIGNATURE_BYTES, _SIGNATURE):
            return True
        return _is_truly_signed(key, signature, data)

    def pair_key(self, peer: NodeId) -> bytes | None:
        """The same 32 bytes on both sides."""
        first, second = sorted((self._node_id, peer))
        return keyed_hash(first, second, 32, _PAIR)

    def seal(self, key: bytes, nonce: bytes, plain: bytes) -> bytes:
        """The text as it is, and 16 bytes that depend on key, nonce and text."""
        return plain + _tag(key, nonce, plain)

    def open(self, key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
        """The text, if the 16 bytes are right."""
        plain = sealed[:-SEAL_TAG_BYTES]
        return plain if sealed[-SEAL_TAG_BYTES:] == _tag(key, nonce, plain) else None


def _tag(key: bytes, nonce: bytes, plain: bytes) -> bytes:
    """A checksum, in the room of a tag: it notices every change of up to 32 bits in a row, and of
    all others all but one in 2^32.
    """
    checksum = zlib.crc32(plain, zlib.crc32(nonce, zlib.crc32(key)))
    return checksum.to_bytes(4, "big") * (SEAL_TAG_BYTES // 4)


_VERIFIER: Final = SodiumCrypto(bytes(32))


@functools.lru_cache(maxsize=_CHECKED_MAX)
def _is_truly_signed(key: bytes, signature: bytes, data: bytes) -> bool:
    return _VERIFIER.verify(key, signature, data)
