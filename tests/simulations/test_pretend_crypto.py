"""Pretended keys take the same room as real ones, and notice the same mistakes."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.crypto import SEAL_NONCE_BYTES, SEAL_TAG_BYTES, SodiumCrypto
from simulations.pretend_crypto import PretendCrypto
from tests.helpers.nodes import seed_of

ONE, OTHER = PretendCrypto(seed_of("one")), PretendCrypto(seed_of("other"))
REAL = SodiumCrypto(seed_of("real"))
NONCE = bytes(SEAL_NONCE_BYTES)
plains = st.binary(min_size=1, max_size=200)


@given(plains)
def test_a_seal_is_as_long_as_a_real_one(plain: bytes) -> None:
    """And is opened with the key of either side."""
    key = ONE.pair_key(OTHER.node_id)
    assert key is not None
    assert key == OTHER.pair_key(ONE.node_id)
    sealed = ONE.seal(key, NONCE, plain)
    assert len(sealed) == len(plain) + SEAL_TAG_BYTES == len(REAL.seal(key, NONCE, plain))
    assert OTHER.open(key, NONCE, sealed) == plain


@given(plains, st.data())
def test_a_changed_bit_is_noticed(plain: bytes, data: st.DataObject) -> None:
    """Anywhere in key, nonce, text or tag."""
    key = seed_of("key")
    sealed = ONE.seal(key, NONCE, plain)
    whole = key + NONCE + sealed
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    changed = bytearray(whole)
    changed[place // 8] ^= 1 << place % 8
    key, nonce = bytes(changed[: len(key)]), bytes(changed[len(key) : len(key) + len(NONCE)])
    assert ONE.open(key, nonce, bytes(changed[len(key) + len(nonce) :])) is None


def test_a_signature_is_its_author_s_alone() -> None:
    """Over these very bytes, and as long as a real one."""
    signature = ONE.sign(b"text")
    assert len(signature) == len(REAL.sign(b"text"))
    assert OTHER.verify(ONE.node_id, signature, b"text")
    assert not OTHER.verify(OTHER.node_id, signature, b"text")
    assert not OTHER.verify(ONE.node_id, signature, b"texts")
    assert OTHER.verify(REAL.node_id, REAL.sign(b"text"), b"text")
