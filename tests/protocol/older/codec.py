"""How the first release read datagrams and stream messages.

Frozen as the first release had it, without what encodes: never mended, only read with.
"""

import enum
from typing import Any, Final

import msgpack

from protocol.errors import DropReason, Refused
from protocol.identity import INCARNATION_MAX, NODE_ID_BYTES, SIGNATURE_BYTES, NodeId
from protocol.records import JoinProof
from tests.protocol.older.fields import Fields, refuse_extension, refuse_map, unpack_fields
from tests.protocol.older.messages import (
    Ack,
    DatagramMessage,
    Gossip,
    Join,
    JoinAnswer,
    Load,
    Origin,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
    StreamMessage,
)
from tests.protocol.older.statements import STATEMENT_BYTES_MAX

RECORD_BYTES_MAX: Final = 400
RIDERS_MAX: Final = 32
"""Statements and records in one datagram."""
STREAM_BYTES_MAX: Final = 8 * 2**20
"""One stream message."""
STREAM_RECORDS_MAX: Final = 32_768
STREAM_STATEMENTS_MAX: Final = 131_072
_SEQUENCE_MAX: Final = INCARNATION_MAX
_COUNT_MAX: Final = 2**31


class _Datagram(enum.IntEnum):
    PING = 1
    ACK = 2
    PING_REQUEST = 3
    RELAYED_ACK = 4
    GOSSIP = 5


class _Stream(enum.IntEnum):
    PUSH_PULL = 1
    JOIN = 2
    JOIN_ANSWER = 3


def decode_datagram(payload: bytes) -> tuple[DatagramMessage, list[bytes]]:
    """The message and its riders. Raises Refused(MALFORMED)."""
    unpacker = msgpack.Unpacker(
        raw=False,
        use_list=False,
        max_buffer_size=len(payload) + 1,
        object_pairs_hook=refuse_map,
        ext_hook=refuse_extension,
    )
    unpacker.feed(payload)
    try:
        values = _take_values(unpacker)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise Refused(DropReason.MALFORMED, type(error).__name__) from error
    if not values:
        raise Refused(DropReason.MALFORMED, "empty")
    riders: list[bytes] = []
    for value in values[1:]:
        if not isinstance(value, bytes) or len(value) > STATEMENT_BYTES_MAX:
            raise Refused(DropReason.MALFORMED, "rider")
        riders.append(value)
    return _decode_message(Fields(values[0])), riders


def _take_values(unpacker: Any) -> list[object]:  # noqa: ANN401  # msgpack ships no types
    values: list[object] = []
    for value in unpacker:
        if value is None and values:
            break  # padding runs to the end
        values.append(value)
        if len(values) > RIDERS_MAX + 1:
            raise Refused(DropReason.MALFORMED, "too many riders")
    return values


def _decode_message(fields: Fields) -> DatagramMessage:
    match fields.take_int(0, 255):
        case _Datagram.PING:
            sequence = fields.take_int(0, _SEQUENCE_MAX)
            load = _take_load(fields)
            origin = fields.take()
            return Ping(sequence, load, None if origin is None else _origin(Fields(origin)))
        case _Datagram.ACK:
            sequence = fields.take_int(0, _SEQUENCE_MAX)
            return Ack(sequence, _take_load(fields), fields.take_blob(SIGNATURE_BYTES))
        case _Datagram.PING_REQUEST:
            sequence = fields.take_int(0, _SEQUENCE_MAX)
            return PingRequest(sequence, NodeId(fields.take_bytes(NODE_ID_BYTES)))
        case _Datagram.RELAYED_ACK:
            sequence = fields.take_int(0, _SEQUENCE_MAX)
            target = NodeId(fields.take_bytes(NODE_ID_BYTES))
            return RelayedAck(sequence, target, fields.take_bytes(SIGNATURE_BYTES))
        case _:
            # A type that a later version added: what rides along is still worth reading.
            return Gossip()


def _origin(fields: Fields) -> Origin:
    return Origin(NodeId(fields.take_bytes(NODE_ID_BYTES)), fields.take_int(0, _SEQUENCE_MAX))


def _take_load(fields: Fields) -> Load | None:
    value = fields.take()
    if value is None:
        return None
    inner = Fields(value)
    return Load(
        inner.take_int(0, _COUNT_MAX), inner.take_int(0, _COUNT_MAX), inner.take_int(0, _COUNT_MAX)
    )


def decode_stream(data: bytes) -> StreamMessage:
    """The inverse of `encode_stream`. Raises Refused: MALFORMED, TOO_LONG."""
    if len(data) > STREAM_BYTES_MAX:
        raise Refused(DropReason.TOO_LONG)
    fields = unpack_fields(data)
    match fields.take_int(0, 255):
        case _Stream.PUSH_PULL:
            is_reply = fields.take_int(0, 1) == 1
            return PushPull(is_reply, *_take_state(fields))
        case _Stream.JOIN:
            invite = fields.take_blob(RECORD_BYTES_MAX)
            return Join(invite, _take_proof(fields))
        case _Stream.JOIN_ANSWER:
            refusal = fields.take_text(64)
            return JoinAnswer(refusal, *_take_state(fields))
        case _:
            raise Refused(DropReason.MALFORMED, "unknown stream message")


def _take_proof(fields: Fields) -> JoinProof:
    return JoinProof(
        NodeId(fields.take_bytes(NODE_ID_BYTES)),
        fields.take_bytes(NODE_ID_BYTES),
        fields.take_bytes(SIGNATURE_BYTES),
        fields.take_bytes(SIGNATURE_BYTES),
    )


def _take_state(fields: Fields) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    records = fields.take_blobs(STREAM_RECORDS_MAX, RECORD_BYTES_MAX)
    return records, fields.take_blobs(STREAM_STATEMENTS_MAX, STATEMENT_BYTES_MAX)
