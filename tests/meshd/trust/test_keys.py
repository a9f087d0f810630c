"""Key files: one form, as OpenSSL reads it, and never readable by others."""

import contextlib
import os
import pathlib
import ssl
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.keys import (
    from_pem,
    is_protected,
    new_seed,
    node_seed,
    read_key,
    rewrite_keys,
    to_pem,
    write_key,
)

seeds = st.binary(min_size=32, max_size=32)


@given(seeds)
def test_a_key_file_is_what_openssl_writes(seed: bytes) -> None:
    """Byte by byte PKCS8 PEM, and it comes back."""
    theirs = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    assert to_pem(seed) == theirs
    assert from_pem(theirs) == seed
    loaded = load_pem_private_key(to_pem(seed), None)
    assert isinstance(loaded, Ed25519PrivateKey)


@given(st.binary(max_size=200) | seeds.map(to_pem).flatmap(lambda pem: st.just(pem + b"x")))
def test_anything_else_is_refused(data: bytes) -> None:
    """ValueError and nothing else."""
    with pytest.raises(ValueError, match="not a"):
        from_pem(data)


@given(seeds, st.data())
def test_a_damaged_key_is_never_another_form_of_the_same(seed: bytes, data: st.DataObject) -> None:
    """One changed byte: refused, or (inside the key itself) another key."""
    pem = bytearray(to_pem(seed))
    place = data.draw(st.integers(0, len(pem) - 1))
    pem[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != pem[place]))
    with contextlib.suppress(ValueError):
        assert from_pem(bytes(pem)) != seed


def test_other_kinds_of_keys_are_refused() -> None:
    """An RSA or EC key in PEM is not taken for ours."""
    from cryptography.hazmat.primitives.asymmetric import ec, x25519

    for key in (ec.generate_private_key(ec.SECP256R1()), x25519.X25519PrivateKey.generate()):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(ValueError, match="not an Ed25519 key"):
            from_pem(pem)


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path)
    home.create()
    return home


def test_the_nodes_key_is_made_once(home: Home) -> None:
    """On first use; afterwards it is the same, and for its owner only."""
    seed = node_seed(home)
    assert node_seed(home) == seed == read_key(home.node_key)
    if os.name == "posix":
        assert home.node_key.stat().st_mode & 0o777 == 0o600


def test_no_key_is_no_error(home: Home) -> None:
    """`read_key` says None; making one is the caller's affair."""
    assert read_key(home.root_key) is None


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_not_used(home: Home, mode: int) -> None:
    """It is said, with the command that mends it."""
    node_seed(home)
    home.node_key.chmod(mode)
    with pytest.raises(UserError, match=rf"chmod 600 {home.node_key}"):
        node_seed(home)


def test_a_damaged_key_is_never_replaced(home: Home) -> None:
    """Losing an identity in silence would be worse than not starting."""
    home.write(home.node_key, b"junk", secret=True)
    with pytest.raises(UserError, match=r"damaged.*restore it from a backup"):
        node_seed(home)
    assert home.node_key.read_bytes() == b"junk"


def test_a_key_that_is_a_folder_is_one_clear_line(home: Home) -> None:
    """Whatever the system says, it comes as a UserError."""
    home.node_key.mkdir(mode=0o700)
    with pytest.raises(UserError, match="cannot read the key"):
        node_seed(home)


# ---- under a passphrase ----

OLD, NEW = b"old passphrase", b"new passphrase"


def test_a_home_with_a_passphrase_makes_its_key_under_it(home: Home) -> None:
    """And reads it back; without it, or with another, it is one clear line that shows none."""
    home.passphrase = OLD
    seed = node_seed(home)
    assert is_protected(home.node_key)
    assert home.node_key.stat().st_mode & 0o777 == 0o600
    assert node_seed(home) == seed
    with pytest.raises(UserError, match="MESHD_PASSPHRASE"):
        node_seed(Home(home.path))
    with pytest.raises(UserError, match="not the passphrase") as caught:
        node_seed(Home(home.path, NEW))
    assert "passphrase of" in str(caught.value)
    assert NEW.decode() not in str(caught.value)


def test_a_passphrase_that_is_not_needed_is_no_harm(home: Home) -> None:
    """A service's settings may come before its keys are under one."""
    seed = node_seed(home)
    assert node_seed(Home(home.path, OLD)) == seed
    assert not is_protected(home.node_key)


def test_keys_are_put_under_a_passphrase_and_another_and_none(home: Home) -> None:
    """All of the home's, those of meshes that it founded once too; the keys stay the same."""
    seeds = {name: new_seed() for name in ("node.key", "root.key", "root-abcdefgh.key")}
    for name, seed in seeds.items():
        home.write(home.path / name, to_pem(seed), secret=True)
    for passphrase in (OLD, NEW, None, NEW):
        files = rewrite_keys(home, passphrase)
        home.passphrase = passphrase
        assert {path.name for path in files} == set(seeds)
        for path in files:
            assert read_key(path, passphrase) == seeds[path.name]
            assert is_protected(path) is (passphrase is not None)
            assert path.stat().st_mode & 0o777 == 0o600


def test_a_wrong_passphrase_changes_nothing(home: Home) -> None:
    """Nor does it leave one key under the new one."""
    home.passphrase = OLD
    for path in (home.node_key, home.root_key):
        write_key(home, path, new_seed())
    before = [path.read_bytes() for path in (home.node_key, home.root_key)]
    with pytest.raises(UserError, match="not the passphrase"):
        rewrite_keys(Home(home.path, b"third"), NEW)
    assert [path.read_bytes() for path in (home.node_key, home.root_key)] == before


def test_a_change_that_a_crash_cut_is_repeated(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key is under the new passphrase, the other still under the old."""
    home.passphrase = OLD
    seeds = [new_seed(), node_seed(home)]
    write_key(home, home.root_key, seeds[0])
    real, left = Home.write, [1]

    def crash(*arguments: Any, **more: Any) -> None:  # noqa: ANN401  # as Home.write has them
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedError
        real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Home, "write", crash)
        with pytest.raises(InterruptedError):
            rewrite_keys(home, NEW)
    assert read_key(home.root_key, NEW) == seeds[0]
    assert read_key(home.node_key, OLD) == seeds[1]
    rewrite_keys(home, NEW)
    assert [read_key(path, NEW) for path in (home.root_key, home.node_key)] == seeds


def test_new_seeds_differ() -> None:
    """32 random bytes each time."""
    assert len({new_seed() for _ in range(100)}) == 100
    assert {len(new_seed())} == {32}


def test_the_ssl_module_takes_the_file(home: Home) -> None:
    """What we write can carry a certificate of the same key."""
    from meshd.trust.certificates import ensure_certificates

    seed = node_seed(home)
    ensure_certificates(home, b"s" * 32, seed)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(home.tls, home.node_key)
