"""The one place where private keys are made, stored and read back.

A key file is a PKCS8 PEM of an Ed25519 key (RFC 8410), as openssl and the `ssl` module read it.
The DER inside has one possible form of 48 bytes, so it is written and checked here byte by byte.
"""

import base64
import binascii
import os
import pathlib
from typing import Final

from meshd import posix
from meshd.failures import UserError
from meshd.home import Home
from protocol.crypto import public_key_of

SEED_BYTES: Final = 32
_PKCS8_PREFIX: Final = bytes.fromhex("302e020100300506032b657004220420")
_BEGIN: Final = "-----BEGIN PRIVATE KEY-----"
_END: Final = "-----END PRIVATE KEY-----"


def new_seed() -> bytes:
    """32 random bytes: a new Ed25519 private key, or any other secret."""
    return os.urandom(SEED_BYTES)


def to_pem(seed: bytes) -> bytes:
    """The key file's content for a seed."""
    body = base64.b64encode(_PKCS8_PREFIX + seed).decode("ascii")
    return f"{_BEGIN}\n{body}\n{_END}\n".encode("ascii")


def from_pem(pem: bytes) -> bytes:
    """The inverse of `to_pem`. Raises ValueError for anything else."""
    try:
        lines = pem.decode("ascii").split("\n")
        der = base64.b64decode("".join(lines[1:-2]), validate=True)
    except (UnicodeDecodeError, binascii.Error) as error:
        raise ValueError("not a PEM file") from error
    if lines[0] != _BEGIN or lines[-2:] != [_END, ""]:
        raise ValueError("not a PEM private key")
    if len(der) != len(_PKCS8_PREFIX) + SEED_BYTES or not der.startswith(_PKCS8_PREFIX):
        raise ValueError("not an Ed25519 key")
    return der[len(_PKCS8_PREFIX) :]


def read_key(path: pathlib.Path) -> bytes | None:
    """The seed in a key file; None when there is no file.

    Raises UserError when it is damaged, unreadable, or readable by others.
    """
    try:
        pem = path.read_bytes()
        if posix.readable_by_others(path):
            raise UserError(
                f"the key {path} can be read by other users; make it private: chmod 600 {path}"
            )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read the key {path}: {error.strerror}") from error
    try:
        return from_pem(pem)
    except ValueError as error:
        raise UserError(
            f"the key {path} is damaged ({error}); restore it from a backup, or move it away and "
            "join again with a new invite"
        ) from error


def node_seed(home: Home) -> bytes:
    """The node's key, made on first use. Raises UserError as `read_key`."""
    seed = read_key(home.node_key)
    if seed is None:
        seed = new_seed()
        home.write(home.node_key, to_pem(seed), secret=True)
    return seed


def known_node(home: Home) -> bytes | None:
    """PLACEHOLDER"""
    seed = read_key(home.node_key)
    return public_key_of(seed) if seed is not None else None
