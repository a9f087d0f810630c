"""Signing and sealing over libsodium."""

import pytest

from protocol.crypto import SodiumCrypto, keyed_hash, public_key_of, sign_with
from protocol.identity import NodeId
from tests.helpers.nodes import seed_of

A = SodiumCrypto(seed_of("a"))
B = SodiumCrypto(seed_of("b"))
C = SodiumCrypto(seed_of("c"))


def test_signatures_are_deterministic_and_checked() -> None:
    """The same key and text give the same 64 bytes, and any change is noticed."""
    signature = A.sign(b"text")
    assert signature == A.sign(b"text") == sign_with(seed_of("a"), b"text")
    assert len(signature) == 64
    assert B.verify(A.node_id, signature, b"text")
    assert not B.verify(A.node_id, signature, b"Text")
    assert not B.verify(B.node_id, signature, b"text")
    assert not B.verify(A.node_id, signature[:-1] + b"\0", b"text")


def test_signatures_cannot_be_rewritten() -> None:
    """S + L, the classic second signature of the same text, is refused: wires stay unique."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = A.sign(b"text")
    scalar = int.from_bytes(signature[32:], "little") + order
    assert not B.verify(A.node_id, signature[:32] + scalar.to_bytes(32, "little"), b"text")


def test_a_pair_shares_a_key_that_no_third_has() -> None:
    """Both ends compute the same secret from their own private and the other's public key."""
    assert A.pair_key(B.node_id) == B.pair_key(A.node_id)
    assert A.pair_key(B.node_id) != A.pair_key(C.node_id)
    assert A.pair_key(B.node_id) != C.pair_key(B.node_id)


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"\xff" * 32, b"\2" + bytes(31)])
def test_unusable_keys_have_no_pair_key_and_no_signatures(key: bytes) -> None:
    """Small-order and invalid points are refused, not raised."""
    assert A.pair_key(NodeId(key)) is None
    assert not A.verify(key, bytes(64), b"")


def test_seals_open_only_whole() -> None:
    """Any changed bit, another nonce or another key: None."""
    key, nonce = seed_of("key"), bytes(24)
    sealed = A.seal(key, nonce, b"plain")
    assert len(sealed) == len(b"plain") + 16
    assert B.open(key, nonce, sealed) == b"plain"
    assert B.open(key, b"\1" + bytes(23), sealed) is None
    assert B.open(seed_of("other"), nonce, sealed) is None
    for index in range(len(sealed)):
        changed = sealed[:index] + bytes((sealed[index] ^ 1,)) + sealed[index + 1 :]
        assert B.open(key, nonce, changed) is None
    assert B.open(key, nonce, b"") is None


def test_purposes_separate_hashes() -> None:
    """The same key and data under another purpose give something else."""
    assert keyed_hash(b"k", b"d", 8, b"one") != keyed_hash(b"k", b"d", 8, b"two")
    assert public_key_of(seed_of("a")) == A.node_id
