"""The one place for what members state about themselves and others: signed, so it can be relayed.

    wire = msgpack array (kind, author, ...) followed by the author's 64-byte Ed25519 signature
    signed = "meshd statement 1" + mesh id + that array

A statement is immutable and is identified by its wire bytes; equal bytes share one object, so
that ten thousand simulated views of one member hold ten thousand references to one record.

Rule 1: a member's life (`Alive`, `Left`) and its offers are stated by the member itself.
Rule 2: an `Accusation` speaks only of what its author believes. Nobody acts on another's word.
Rule 3: decoding checks the form, `Statements.verify` the signature; both before any state.
"""

import dataclasses
import enum
from collections import OrderedDict
from typing import Final

from protocol.crypto import Crypto
from protocol.errors import DropReason, Refused
from protocol.fields import Fields, pack, unpack_fields
from protocol.identity import (
    INCARNATION_MAX,
    NODE_ID_BYTES,
    SIGNATURE_BYTES,
    Address,
    MeshId,
    NodeId,
    is_valid_address,
    is_valid_name,
)

STATEMENT_BYTES_MAX: Final = 1000
"""An offer of the largest value with its key, author and signature is below this."""
ADDRESSES_MAX: Final = 4
ADDRESS_BYTES_MAX: Final = 600
"""All hosts of one Alive together, so that it stays within STATEMENT_BYTES_MAX."""
SOFTWARE_CHARS_MAX: Final = 32
RUN_MAX: Final = 2**64 - 1
OFFER_KEY_CHARS_MAX: Final = 64
OFFER_VALUE_BYTES_MAX: Final = 700
_DOMAIN: Final = b"meshd statement 1"


class Kind(enum.IntEnum):
    """The first item of a statement's array."""

    ALIVE = 1
    LEFT = 2
    ACCUSATION = 3
    OFFER = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Alive:
    """Its author lives: under this name, reachable there."""

    author: NodeId
    incarnation: int
    name: str
    addresses: tuple[Address, ...]
    """Where to send, best first; 1 to 4."""
    software: str
    """Version of the sender's program, for people."""
    wire: bytes = dataclasses.field(compare=False, repr=False)
    run: int = 0
    """Of two runs of one identity (a copied home) the one with the higher number is the newer."""
    versions: tuple[int, int] = (1, 1)
    """Lowest and highest protocol version that the author speaks."""

    @property
    def subject(self) -> NodeId:
        """Whom this is about."""
        return self.author


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """Its author said goodbye at this incarnation; it stays a member and may come back."""

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

    author: NodeId
    subject: NodeId
    incarnation: int
    """The incarnation whose signed Alive the accuser holds."""
    is_dead: bool
    wire: bytes = dataclasses.field(compare=False, repr=False)
    is_refused: bool = False
    """Not mere silence: the subject's host answered the accuser that the process is gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """One key and value of what its author offers; an empty value removes the key."""

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


def _sign(crypto: Crypto, mesh: MeshId, body: bytes) -> bytes:
    return body + crypto.sign(_DOMAIN + mesh + body)


def make_alive(
    crypto: Crypto,
    mesh: MeshId,
    incarnation: int,
    name: str,
    addresses: tuple[Address, ...],
    software: str,
    run: int = 0,
    versions: tuple[int, int] = (1, 1),
) -> Alive:
    """State that this node lives."""
    stated = tuple(map(tuple, addresses))
    body = pack((Kind.ALIVE, crypto.node_id, incarnation, name, stated, software, run, *versions))
    wire = _sign(crypto, mesh, body)
    return Alive(crypto.node_id, incarnation, name, addresses, software, wire, run, versions)


def make_left(crypto: Crypto, mesh: MeshId, incarnation: int) -> Left:
    """State that this node says goodbye."""
    wire = _sign(crypto, mesh, pack((Kind.LEFT, crypto.node_id, incarnation)))
    return Left(crypto.node_id, incarnation, wire)


def make_accusation(
    crypto: Crypto,
    mesh: MeshId,
    subject: NodeId,
    incarnation: int,
    *,
    is_dead: bool,
    is_refused: bool = False,
) -> Accusation:
    """State that this node cannot reach `subject`."""
    body = pack(
        (Kind.ACCUSATION, crypto.node_id, subject, incarnation, int(is_dead), int(is_refused))
    )
    wire = _sign(crypto, mesh, body)
    return Accusation(crypto.node_id, subject, incarnation, is_dead, wire, is_refused)


def make_offer(crypto: Crypto, mesh: MeshId, version: int, key: str, value: bytes) -> Offer:
    """State one thing that this node offers."""
    wire = _sign(crypto, mesh, pack((Kind.OFFER, crypto.node_id, version, key, value)))
    return Offer(crypto.node_id, version, key, value, wire)


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
            is_dead = fields.take_int(0, 1) == 1
            is_refused = fields.has_more and fields.take_int(0, 1) == 1
            return Accusation(author, subject, incarnation, is_dead, wire, is_refused)
        case Kind.OFFER:
            version = fields.take_int(1, INCARNATION_MAX)
            key = fields.take_text(OFFER_KEY_CHARS_MAX)
            if not is_valid_offer_key(key):
                raise Refused(DropReason.MALFORMED, "offer key")
            return Offer(author, version, key, fields.take_blob(OFFER_VALUE_BYTES_MAX), wire)
        case _:
            raise Refused(DropReason.UNKNOWN_KIND)


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
    run, versions = 0, (1, 1)
    if fields.has_more:
        run = fields.take_int(0, RUN_MAX)
        versions = (lowest := fields.take_int(1, 255), fields.take_int(lowest, 255))
    return Alive(author, incarnation, name, tuple(addresses), software, wire, run, versions)


class Statements:
    """Statements whose signatures hold, by their bytes: each is checked once and shared.

    Bounded; the least recently used goes first and would merely be checked again.
    """

    def __init__(self, mesh: MeshId, capacity: int = 65_536) -> None:
        self._mesh = mesh
        self._capacity = capacity
        self._verified: OrderedDict[bytes, Statement] = OrderedDict()

    def find(self, wire: bytes) -> Statement | None:
        """The verified statement with exactly these bytes, if it was seen before."""
        found = self._verified.get(wire)
        if found is not None:
            self._verified.move_to_end(wire)
        return found

    def verify(self, crypto: Crypto, statement: Statement) -> None:
        """Check and remember. Raises Refused(BAD_SIGNATURE)."""
        wire = statement.wire
        if wire in self._verified:
            return
        body, signature = wire[:-SIGNATURE_BYTES], wire[-SIGNATURE_BYTES:]
        if not crypto.verify(statement.author, signature, _DOMAIN + self._mesh + body):
            raise Refused(DropReason.BAD_SIGNATURE)
        self.trust(statement)

    def trust(self, statement: Statement) -> None:
        """Remember a statement that needs no check: our own."""
        self._verified[statement.wire] = statement
        if len(self._verified) > self._capacity:
            self._verified.popitem(last=False)
