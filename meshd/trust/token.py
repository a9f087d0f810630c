"""The one place for the invite token's text: what `meshd invite` prints and `meshd join` takes.

    "meshd1_" + base64url( msgpack (root key, mesh secret, invite key, invite record, seeds) + sum )

The sum (4 bytes of BLAKE2b) tells a mistyped token from a refused one before any network is used.
The mesh secret only gates TLS handshakes; nothing in a token can read gossip.
"""

import base64
import binascii
import dataclasses
import hashlib
from typing import Final

from protocol.crypto import public_key_of
from protocol.errors import Refused
from protocol.fields import Fields, pack, unpack_fields
from protocol.identity import Address, MeshId, is_valid_address, mesh_id_of
from protocol.records import RECORD_BYTES_MAX, Invite, decode_record

TOKEN_PREFIX: Final = "meshd1_"  # noqa: S105  # a visible prefix, no secret
TOKEN_CHARS_MAX: Final = 4_096
SEEDS_MAX: Final = 8
_SUM_BYTES: Final = 4


class BadToken(ValueError):
    """This text is no token; the message says in what way."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Everything a machine needs to ask for admission."""

    root: bytes
    """The mesh's root public key."""
    mesh_secret: bytes = dataclasses.field(repr=False)
    invite_seed: bytes = dataclasses.field(repr=False)
    invite: Invite
    seeds: tuple[Address, ...]
    """Members to ask, in order."""

    @property
    def mesh(self) -> MeshId:
        """The mesh that this leads into."""
        return mesh_id_of(self.root)


def encode_token(token: Token) -> str:
    """The text to hand over."""
    body = pack(
        (
            token.root,
            token.mesh_secret,
            token.invite_seed,
            token.invite.wire,
            tuple(tuple(seed) for seed in token.seeds),
        )
    )
    return TOKEN_PREFIX + _to_text(body + _sum(body))


def decode_token(text: str) -> Token:
    """Read a token. Raises BadToken for anything that `encode_token` did not make."""
    text = "".join(text.split())
    if len(text) > TOKEN_CHARS_MAX:
        raise BadToken("it is too long")
    if not text.startswith(TOKEN_PREFIX):
        raise BadToken(f"it does not begin with {TOKEN_PREFIX}")
    encoded = text.removeprefix(TOKEN_PREFIX)
    try:
        data = base64.b64decode(
            encoded.encode("ascii") + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True
        )
    except (binascii.Error, UnicodeEncodeError) as error:
        raise BadToken("it has characters that no token has") from error
    body, checksum = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    # The decoder overlooks some spellings (+ for -, stray last bits); a token has one.
    if checksum != _sum(body) or _to_text(data) != encoded:
        raise BadToken("a part of it is missing or mistyped")
    try:
        return _decode_body(unpack_fields(body))
    except Refused as refused:
        raise BadToken("it was made by another version of meshd") from refused


def _decode_body(fields: Fields) -> Token:
    root, secret, seed = fields.take_bytes(32), fields.take_bytes(32), fields.take_bytes(32)
    invite = decode_record(fields.take_blob(RECORD_BYTES_MAX))
    if not isinstance(invite, Invite) or invite.key != public_key_of(seed):
        raise BadToken("its parts do not belong together")
    seeds: list[Address] = []
    for item in fields.take_array(SEEDS_MAX):
        pair = Fields(item)
        address = Address(pair.take_text(253), pair.take_int(1, 65535))
        if not is_valid_address(*address):
            raise BadToken("it names an impossible address")
        seeds.append(address)
    if not seeds:
        raise BadToken("it names no member to ask")
    return Token(root=root, mesh_secret=secret, invite_seed=seed, invite=invite, seeds=tuple(seeds))


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _sum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_SUM_BYTES, person=b"meshd token").digest()
