"""The one place for what a node remembers over a restart, and its form on disk.

Lives are kept as looked-for acquaintances, deaths and goodbyes as what they are: a rumour from
before the restart revives nobody.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Final

from protocol.authority import Authority
from protocol.codec import STREAM_RECORDS_MAX, STREAM_STATEMENTS_MAX
from protocol.crypto import Crypto
from protocol.errors import DropReason, Refused
from protocol.fields import Fields, pack, unpack_fields
from protocol.identity import INCARNATION_MAX, NODE_ID_BYTES, NodeId
from protocol.members import Gone, Members, State
from protocol.records import RECORD_BYTES_MAX
from protocol.statements import (
    STATEMENT_BYTES_MAX,
    Alive,
    Left,
    Statement,
    Statements,
    decode_statement,
)

SNAPSHOT_VERSION: Final = 1
_LONG_AGO_NS: Final = -(2**62)
"""When who was gone already went: this run's clock cannot tell, and nobody asks more exactly."""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything but own numbers, which are written more strictly (see `effects.Persist`)."""

    records: tuple[bytes, ...] = ()
    """Authority, premises first."""
    lives: tuple[bytes, ...] = ()
    """The last signed Alive of every other member, also of those that are gone."""
    goodbyes: tuple[bytes, ...] = ()
    """The signed Left of those that left."""
    deaths: tuple[tuple[NodeId, int], ...] = ()
    """Who is dead in this view, at which incarnation."""


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """One msgpack array."""
    return pack(
        (
            SNAPSHOT_VERSION,
            snapshot.records,
            snapshot.lives,
            snapshot.goodbyes,
            snapshot.deaths,
        )
    )


def decode_snapshot(data: bytes) -> Snapshot:
    """The inverse of `encode_snapshot`. Raises Refused: MALFORMED, BAD_VERSION."""
    fields = unpack_fields(data)
    if fields.take_int(0, 2**31) != SNAPSHOT_VERSION:
        raise Refused(DropReason.BAD_VERSION)
    records = fields.take_blobs(STREAM_RECORDS_MAX, RECORD_BYTES_MAX)
    lives = fields.take_blobs(STREAM_STATEMENTS_MAX, STATEMENT_BYTES_MAX)
    goodbyes = fields.take_blobs(STREAM_STATEMENTS_MAX, STATEMENT_BYTES_MAX)
    deaths: list[tuple[NodeId, int]] = []
    for item in fields.take_array(STREAM_STATEMENTS_MAX):
        death = Fields(item)
        node = NodeId(death.take_bytes(NODE_ID_BYTES))
        deaths.append((node, death.take_int(1, INCARNATION_MAX)))
    return Snapshot(records, lives, goodbyes, tuple(deaths))


def take_snapshot(own: NodeId, authority: Authority, members: Members) -> Snapshot:
    """What a node should remember of everybody else."""
    lives = [alive.wire for alive in members.acquaintances.values()]
    goodbyes: list[bytes] = []
    deaths: list[tuple[NodeId, int]] = []
    for node in members.all():
        if node == own:
            continue
        alive, gone = members.alive_record(node), members.gone(node)
        if alive is not None:
            lives.append(alive.wire)
        if gone is not None and gone.left is not None:
            goodbyes.append(gone.left.wire)
        elif gone is not None:
            deaths.append((node, gone.incarnation))
    records = tuple(record.wire for record in authority.records())
    return Snapshot(records, tuple(lives), tuple(goodbyes), tuple(deaths))


def recall(
    snapshot: Snapshot,
    crypto: Crypto,
    authority: Authority,
    members: Members,
    statements: Statements,
) -> None:
    """Take a snapshot into empty tables; what is damaged or no longer counts is left out."""
    authority.load(snapshot.records)
    lives: dict[NodeId, Alive] = {}
    for statement in _verified(snapshot.lives, crypto, authority, statements):
        if isinstance(statement, Alive):
            lives[statement.author] = statement
    gone: dict[NodeId, Gone] = {
        node: Gone(State.DEAD, incarnation, _LONG_AGO_NS, None)
        for node, incarnation in snapshot.deaths
        if node in lives
    }
    for statement in _verified(snapshot.goodbyes, crypto, authority, statements):
        if isinstance(statement, Left):
            incarnation = statement.incarnation
            gone[statement.author] = Gone(State.LEFT, incarnation, _LONG_AGO_NS, statement)
    members.acquaintances.update(lives)
    for node, how in gone.items():
        if node in lives:
            members.put_past(lives[node])
        members.put_gone(node, how)


def _verified(
    wires: tuple[bytes, ...], crypto: Crypto, authority: Authority, statements: Statements
) -> Iterator[Statement]:
    for wire in wires:
        with contextlib.suppress(Refused):
            statement = decode_statement(wire)
            is_own = statement.author == crypto.node_id
            if not is_own and authority.admission(statement.author) is not None:
                statements.verify(crypto, statement)
                yield statement
