"""The one place where private keys are made, stored and read back.

A key file is a PKCS8 PEM of an Ed25519 key (RFC 8410), as openssl and the `ssl` module read it;
under a passphrase where the home has one (`encrypted_keys.py`). The DER inside has one possible
form of 48 bytes, so it is written and checked here byte by byte.
"""

import base64
import binascii
import contextlib
import os
import pathlib
from typing import Final

from meshd import posix
from meshd.failures import UserError
from meshd.home import Home
from meshd.trust import encrypted_keys

SEED_BYTES: Final = 32
PRIVATE_BYTES_MAX: Final = 2**20
"""More than any private file of ours has."""
_PKCS8_PREFIX: Final = bytes.fromhex("302e020100300506032b657004220420")
_BEGIN: Final = "-----BEGIN PRIVATE KEY-----"
_END: Final = "-----END PRIVATE KEY-----"


def new_seed() -> bytes:
    """32 random bytes: a new Ed25519 private key, or any other secret."""
    return os.urandom(SEED_BYTES)


def to_pem(seed: bytes, passphrase: bytes | None = None) -> bytes:
    """The key file's content for a seed."""
    if passphrase is not None:
        return encrypted_keys.encrypt(_PKCS8_PREFIX + seed, passphrase)
    body = base64.b64encode(_PKCS8_PREFIX + seed).decode("ascii")
    return f"{_BEGIN}\n{body}\n{_END}\n".encode("ascii")


def from_pem(pem: bytes) -> bytes:
    """The inverse of `to_pem` without a passphrase. Raises ValueError for anything else."""
    try:
        lines = pem.decode("ascii").split("\n")
        der = base64.b64decode("".join(lines[1:-2]), validate=True)
    except (UnicodeDecodeError, binascii.Error) as error:
        raise ValueError("not a PEM file") from error
    if lines[0] != _BEGIN or lines[-2:] != [_END, ""]:
        raise ValueError("not a PEM private key")
    return _seed_in(der)


def from_encrypted_pem(pem: bytes, passphrase: bytes) -> bytes:
    """The inverse of `to_pem` with a passphrase.

    Raises encrypted_keys.WrongPassphrase; ValueError for anything else.
    """
    return _seed_in(encrypted_keys.decrypt(pem, passphrase))


def _seed_in(der: bytes) -> bytes:
    if len(der) != len(_PKCS8_PREFIX) + SEED_BYTES or not der.startswith(_PKCS8_PREFIX):
        raise ValueError("not an Ed25519 key")
    return der[len(_PKCS8_PREFIX) :]


def read_private(path: pathlib.Path, what: str) -> bytes | None:
    """The content of a file that is for its owner only; None when there is no file.

    `what` names it in the error. Raises UserError when it is unreadable, or readable by others.
    """
    try:
        with path.open("rb") as file:
            if posix.readable_by_others(file.fileno()):
                raise UserError(
                    f"{what} {path} can be read by other users; make it private: chmod 600 {path}"
                )
            return file.read(PRIVATE_BYTES_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}") from error


def is_protected(path: pathlib.Path) -> bool:
    """Whether the key file there is under a passphrase; False when there is none.

    Raises UserError as `read_private`.
    """
    return encrypted_keys.is_encrypted(read_private(path, "the key") or b"")


def read_key(path: pathlib.Path, passphrase: bytes | None = None) -> bytes | None:
    """The seed in a key file; None when there is no file. The passphrase is for one that is under
    a passphrase; another is read without.

    Raises UserError when it is damaged, unreadable, readable by others, or the passphrase is not
    the right one.
    """
    pem = read_private(path, "the key")
    if pem is None:
        return None
    is_encrypted = encrypted_keys.is_encrypted(pem)
    if is_encrypted and passphrase is None:
        raise UserError(
            f"the key {path} is under a passphrase; give it with MESHD_PASSPHRASE, or with "
            "meshd up --passphrase-file FILE"
        )
    try:
        return from_encrypted_pem(pem, passphrase or b"") if is_encrypted else from_pem(pem)
    except encrypted_keys.WrongPassphrase as error:
        raise UserError(f"this is not the passphrase of the key {path}; try again") from error
    except ValueError as error:
        raise UserError(
            f"the key {path} is damaged ({error}); restore it from a backup, or move it away and "
            "join again with a new invite"
        ) from error


def write_key(home: Home, path: pathlib.Path, seed: bytes) -> None:
    """Write a key file of this home, under its passphrase if it has one. Raises OSError."""
    home.write(path, to_pem(seed, home.passphrase), secret=True)


def node_seed(home: Home) -> bytes:
    """The node's key, made on first use. Raises UserError as `read_key`."""
    seed = read_key(home.node_key, home.passphrase)
    if seed is None:
        seed = new_seed()
        write_key(home, home.node_key, seed)
    return seed


def rewrite_keys(home: Home, new: bytes | None) -> list[pathlib.Path]:
    """Write the home's keys, those of meshes it once founded too, under another passphrase, or
    without (None); those that are so already stay. Returns the files. The home's lock is held.

    Raises UserError as `read_key`, before anything is written. After a crash some are under the
    old and some under the new one; doing it again mends that.
    """
    paths = [*sorted(home.path.glob("root-*.key")), home.root_key, home.node_key]
    seeds = [(path, _read_either(path, home.passphrase, new)) for path in paths]
    found = [(path, seed) for path, seed in seeds if seed is not None]
    for path, seed in found:
        home.write(path, to_pem(seed, new), secret=True)
    return [path for path, _ in found]


def _read_either(path: pathlib.Path, old: bytes | None, new: bytes | None) -> bytes | None:
    if new is not None:
        with contextlib.suppress(UserError):
            return read_key(path, new)
    return read_key(path, old)
