"""The one place for who a node is and where it is: keys, names, addresses and their text forms."""

import base64
import functools
import hashlib
import ipaddress
import re
from typing import Final, NamedTuple, NewType

NodeId = NewType("NodeId", bytes)
"""A node's Ed25519 public key (32 bytes). Identity is the key; names and addresses are data."""

MeshId = NewType("MeshId", bytes)
"""BLAKE2b-128 of the mesh's root public key (16 bytes)."""

NODE_ID_BYTES: Final = 32
SHORT_ID_BYTES: Final = 8
MESH_ID_BYTES: Final = 16
MESH_TAG_BYTES: Final = 4
SIGNATURE_BYTES: Final = 64
INCARNATION_MAX: Final = 2**53 - 1
"""Fits every language's exact integers; reaching it by single steps takes longer than the sun."""

_NAME = re.compile(r"[a-z0-9-]{1,63}")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.(?!-)[A-Za-z0-9-]{1,63})*\.?")
HOST_CHARS_MAX: Final = 253


class Address(NamedTuple):
    """A UDP and TCP end point: an IP literal or DNS name, and one port number for both."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def mesh_id_of(root: bytes) -> MeshId:
    """The mesh that the root public key `root` founded."""
    return MeshId(hashlib.blake2b(root, digest_size=MESH_ID_BYTES, person=b"meshd mesh").digest())


def mesh_tag(mesh: MeshId) -> bytes:
    """Four bytes at the head of every datagram; keeps meshes on one port apart cheaply."""
    return mesh[:MESH_TAG_BYTES]


def short_id(node: NodeId) -> bytes:
    """The first eight bytes of the key: a look-up hint in datagram headers, never an identity."""
    return node[:SHORT_ID_BYTES]


@functools.lru_cache(maxsize=4096)
def key_text(key: bytes) -> str:
    """Lower-case base32 without padding: 52 characters for a node, 26 for a mesh."""
    return base64.b32encode(key).decode("ascii").rstrip("=").lower()


def key_from_text(text: str) -> bytes:
    """The inverse of `key_text`. Raises ValueError for anything else."""
    padded = text.upper() + "=" * (-len(text) % 8)
    try:
        key = base64.b32decode(padded)
    except ValueError as error:
        raise ValueError("not a base32 key") from error
    if key_text(key) != text:
        raise ValueError("not a base32 key")
    return key


def is_valid_name(name: str) -> bool:
    """Whether `name` may be a node's name: 1 to 63 of a-z, 0-9 and hyphen."""
    return _NAME.fullmatch(name) is not None


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_valid_address(host: str, port: int) -> bool:
    """Whether others could dial this: a port, and a concrete IP literal or DNS name.

    An IPv6 scope id names an interface of one machine, so it is no address for another.
    """
    if not 0 < port < 65536 or not 0 < len(host) <= HOST_CHARS_MAX or "%" in host:
        return False
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return _HOST_NAME.fullmatch(host) is not None and not host.rstrip(".").isdigit()
    return not literal.is_unspecified and not literal.is_multicast
