"""How the first release read statements.

Frozen as the first release had it, without what encodes: never mended, only read with.
"""

import dataclasses
import enum
from typing import ClassVar, Final

from protocol.errors import DropReason, Refused
from protocol.identity import (
    INCARNATION_MAX,
    NODE_ID_BYTES,
    SIGNATURE_BYTES,
    Address,
    NodeId,
    is_valid_address,
    is_valid_name,
)
from tests.protocol.older.fields import Fields, unpack_fields

STATEMENT_BYTES_MAX: Final = 1000
"""An offer of the largest value with its key, author and signature is below this."""
ADDRESSES_MAX: Final = 4
SOFTWARE_CHARS_MAX: Final = 32
OFFER_KEY_CHARS_MAX: Final = 64
OFFER_VALUE_BYTES_MAX: Final = 700


class Kind(enum.IntEnum):
    """The first item of a statement's array."""

    ALIVE = 1
    LEFT = 2
    ACCUSATION = 3
    OFFER = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Alive:
    """Its author lives: under this name, reachable there."""

    kind: ClassVar[Kind] = Kind.ALIVE
    author: NodeId
    incarnation: int
    name: str
    addresses: tuple[Address, ...]
    """Where to send, best first; 1 to 4."""
    software: str
    """Version of the sender's program, for people."""
    wire: bytes = dataclasses.field(compare=False, repr=False)

    @property
    def subject(self) -> NodeId:
        """Whom this is about."""
        return self.author


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """Its author said goodbye at this incarnation; it stays a member and may come back."""

    kind: ClassVar[Kind] = Kind.LEFT
    author: NodeId
    incarnation: int
    wire: bytes = dataclasses.field(compare=False, repr=False)

    @property
    def subject(self) -> NodeId:
        """Whom this is about."""
        return self.author


@dataclasses.dataclass(frozen=True, slots=True)
class Accusation:
    """Its author cannot reach `subject`, or (`is_dead`) has given it up after its own time-out.

    Both count as one suspicion of that author at every receiver (DESIGN: nobody acts on another's
    word of death). Departs from SWIM, where a confirm message kills.
    """

    kind: ClassVar[Kind] = Kind.ACCUSATION
    author: NodeId
    subject: NodeId
    incarnation: int
    """The incarnation whose signed Alive the accuser holds."""
    is_dead: bool
    wire: bytes = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """One key and value of what its author offers; an empty value removes the key."""

    kind: ClassVar[Kind] = Kind.OFFER
    author: NodeId
    version: int
    """Per author, over all its keys; a higher one supersedes."""
    key: str
    value: bytes
    """Opaque to the protocol; msgpack by convention."""
    wire: bytes = dataclasses.field(compare=False, repr=False)


Statement = Alive | Left | Accusation | Offer


def is_valid_software(software: str) -> bool:
    """Whether an Alive may carry this as the version of the sender's program."""
    return len(software) <= SOFTWARE_CHARS_MAX and software.isprintable()


def is_valid_offer_key(key: str) -> bool:
    """Whether an Offer may have this key: 1 to 64 printable ASCII characters."""
    return 0 < len(key) <= OFFER_KEY_CHARS_MAX and key.isascii() and key.isprintable()


def decode_statement(wire: bytes) -> Statement:
    """Read a statement's form; its signature is still unchecked. Raises Refused(MALFORMED)."""
    if not SIGNATURE_BYTES < len(wire) <= STATEMENT_BYTES_MAX:
        raise Refused(DropReason.MALFORMED, "statement size")
    fields = unpack_fields(wire[:-SIGNATURE_BYTES])
    kind = fields.take_int(0, 255)
    author = NodeId(fields.take_bytes(NODE_ID_BYTES))
    match kind:
        case Kind.ALIVE:
            return _decode_alive(author, fields, wire)
        case Kind.LEFT:
            return Left(author, fields.take_int(1, INCARNATION_MAX), wire)
        case Kind.ACCUSATION:
            subject = NodeId(fields.take_bytes(NODE_ID_BYTES))
            incarnation = fields.take_int(1, INCARNATION_MAX)
            return Accusation(author, subject, incarnation, fields.take_int(0, 1) == 1, wire)
        case Kind.OFFER:
            version = fields.take_int(1, INCARNATION_MAX)
            key = fields.take_text(OFFER_KEY_CHARS_MAX)
            if not is_valid_offer_key(key):
                raise Refused(DropReason.MALFORMED, "offer key")
            return Offer(author, version, key, fields.take_blob(OFFER_VALUE_BYTES_MAX), wire)
        case _:
            raise Refused(DropReason.MALFORMED, "unknown statement kind")


def _decode_alive(author: NodeId, fields: Fields, wire: bytes) -> Alive:
    incarnation = fields.take_int(1, INCARNATION_MAX)
    name = fields.take_text(63)
    if not is_valid_name(name):
        raise Refused(DropReason.MALFORMED, "name")
    addresses: list[Address] = []
    for item in fields.take_array(ADDRESSES_MAX):
        pair = Fields(item)
        address = Address(pair.take_text(253), pair.take_int(1, 65535))
        if not is_valid_address(*address):
            raise Refused(DropReason.MALFORMED, "address")
        addresses.append(address)
    if not addresses:
        raise Refused(DropReason.MALFORMED, "no address")
    software = fields.take_text(SOFTWARE_CHARS_MAX)
    if not is_valid_software(software):
        raise Refused(DropReason.MALFORMED, "software version")
    return Alive(author, incarnation, name, tuple(addresses), software, wire)
