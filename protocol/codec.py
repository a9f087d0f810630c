"""The one place where messages become bytes and bytes become messages; every length is bounded.

A datagram's payload is a row of msgpack values: the message as an array (type, fields...), then
one blob per statement or record that rides along, then padding (nil).
A stream message is one msgpack array (type, fields...).
Decoding raises Refused(MALFORMED) and nothing else, whatever the bytes are.
"""

import enum
from typing import Any, Final

import msgpack

from protocol.errors import DropReason, Refused
from protocol.fields import (
    Fields,
    pack,
    pack_short,
    refuse_extension,
    refuse_map,
    unpack_fields,
)
from protocol.identity import (
    INCARNATION_MAX,
    NODE_ID_BYTES,
    SHORT_ID_BYTES,
    SIGNATURE_BYTES,
    NodeId,
)
from protocol.messages import (
    Ack,
    DatagramMessage,
    Difference,
    Digest,
    Entry,
    Gossip,
    Join,
    JoinAnswer,
    Load,
    Nack,
    Origin,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
    StreamAck,
    StreamMessage,
    StreamProbe,
)
from protocol.records import RECORD_BYTES_MAX, JoinProof
from protocol.sessions import TOKEN_BYTES
from protocol.statements import STATEMENT_BYTES_MAX

RIDERS_MAX: Final = 32
"""Statements and records in one datagram."""
STREAM_BYTES_MAX: Final = 8 * 2**20
"""One stream message."""
STREAM_RECORDS_MAX: Final = 32_768
STREAM_STATEMENTS_MAX: Final = 131_072
BUCKETS: Final = 64
"""Of a digest; each bucket's sum has 8 bytes."""
ENTRIES_MAX: Final = 16_384
STREAM_ARRAYS_MAX: Final = ENTRIES_MAX + 1_024
"""Entries are arrays; a later version may add some."""
ID_BYTES: Final = 8
"""Of a record or member that is asked for."""
COORDINATE_ITEMS_MAX: Final = 16
PREMISES_MAX: Final = 64
_SEQUENCE_MAX: Final = INCARNATION_MAX
_COUNT_MAX: Final = 2**31
_PADDING: Final = b"\xc0"
_SUM_MAX: Final = 2**64 - 1


class _Datagram(enum.IntEnum):
    PING = 1
    ACK = 2
    PING_REQUEST = 3
    RELAYED_ACK = 4
    GOSSIP = 5
    NACK = 6


class _Stream(enum.IntEnum):
    PUSH_PULL = 1
    JOIN = 2
    JOIN_ANSWER = 3
    DIGEST = 4
    DIFFERENCE = 5
    PROBE = 6
    ACK = 7


def encode_datagram(message: DatagramMessage) -> bytes:
    """A message without riders; append each rider with `encode_rider`."""
    match message:
        case Ping():
            origin = message.origin
            fields = (
                _Datagram.PING,
                message.sequence,
                _load_fields(message.load),
                None if origin is None else (origin.prober, origin.sequence),
                message.digest,
            )
            return pack_short(fields if message.token is None else (*fields, message.token))
        case Ack():
            return pack_short(
                (
                    _Datagram.ACK,
                    message.sequence,
                    _load_fields(message.load),
                    message.proof,
                    message.digest,
                    message.coordinate,
                )
            )
        case PingRequest():
            return pack_short((_Datagram.PING_REQUEST, message.sequence, message.target))
        case RelayedAck():
            return pack_short(
                (_Datagram.RELAYED_ACK, message.sequence, message.target, message.proof)
            )
        case Nack():
            return pack_short(
                (_Datagram.NACK, message.sequence, message.target, message.accusation)
            )
        case _:
            return pack_short((_Datagram.GOSSIP,))


def encode_rider(wire: bytes) -> bytes:
    """A statement or record as it rides in a datagram: at most three bytes longer than itself."""
    return pack_short(wire)


def decode_datagram(payload: bytes) -> tuple[DatagramMessage, list[bytes]]:
    """The message and its riders. Raises Refused(MALFORMED)."""
    # Most carry nothing but padding. Should the message itself end as padding does, this fails.
    try:
        return _decode_message(unpack_fields(payload.rstrip(_PADDING))), []
    except Refused:
        return _decode_row(payload)


def _decode_row(payload: bytes) -> tuple[DatagramMessage, list[bytes]]:
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
            value = fields.take()
            origin = None if value is None else _origin(Fields(value))
            return Ping(sequence, load, origin, _take_sum(fields), _take_token(fields))
        case _Datagram.ACK:
            sequence = fields.take_int(0, _SEQUENCE_MAX)
            load, proof = _take_load(fields), fields.take_blob(SIGNATURE_BYTES)
            return Ack(sequence, load, proof, _take_sum(fields), _take_coordinate(fields))
        case _Datagram.PING_REQUEST:
            sequence = fields.take_int(0, _SEQUENCE_MAX)
            return PingRequest(sequence, NodeId(fields.take_bytes(NODE_ID_BYTES)))
        case _Datagram.RELAYED_ACK:
            sequence = fields.take_int(0, _SEQUENCE_MAX)
            target = NodeId(fields.take_bytes(NODE_ID_BYTES))
            return RelayedAck(sequence, target, fields.take_bytes(SIGNATURE_BYTES))
        case _Datagram.NACK:
            sequence = fields.take_int(0, _SEQUENCE_MAX)
            target = NodeId(fields.take_bytes(NODE_ID_BYTES))
            return Nack(sequence, target, fields.take_blob(STATEMENT_BYTES_MAX))
        case _:
            # A type that a later version added: what rides along is still worth reading.
            return Gossip()


def _origin(fields: Fields) -> Origin:
    return Origin(NodeId(fields.take_bytes(NODE_ID_BYTES)), fields.take_int(0, _SEQUENCE_MAX))


def _take_sum(fields: Fields) -> int | None:
    """A digest, if this version of the sender has one."""
    value = fields.take() if fields.has_more else None
    if value is None:
        return None
    if type(value) is not int or value < 0:  # none of msgpack's is above 64 bits
        raise Refused(DropReason.MALFORMED, "sum")
    return value


def _take_token(fields: Fields) -> bytes | None:
    value = fields.take() if fields.has_more else None
    if value is not None and not (isinstance(value, bytes) and len(value) == TOKEN_BYTES):
        raise Refused(DropReason.MALFORMED, "token")
    return value


def _take_coordinate(fields: Fields) -> tuple[int, ...] | None:
    """Only integers; `coordinates.py` judges them."""
    value = fields.take() if fields.has_more else None
    if value is None:
        return None
    if not isinstance(value, tuple) or len(value) > COORDINATE_ITEMS_MAX:
        raise Refused(DropReason.MALFORMED, "coordinate")
    for item in value:
        if type(item) is not int:
            raise Refused(DropReason.MALFORMED, "coordinate")
    return value


def _load_fields(load: Load | None) -> tuple[int, int, int] | None:
    return None if load is None else (load.queued, load.running, load.slots)


def _take_load(fields: Fields) -> Load | None:
    value = fields.take()
    if value is None:
        return None
    inner = Fields(value)
    return Load(
        inner.take_int(0, _COUNT_MAX), inner.take_int(0, _COUNT_MAX), inner.take_int(0, _COUNT_MAX)
    )


def encode_stream(message: StreamMessage) -> bytes:
    """One message of a gossip stream."""
    match message:
        case PushPull():
            return pack(
                (
                    _Stream.PUSH_PULL,
                    int(message.is_reply),
                    message.records,
                    message.statements,
                    message.wanted,
                )
            )
        case Join():
            proof = message.proof
            return pack(
                (
                    _Stream.JOIN,
                    message.invite,
                    proof.node,
                    proof.invite_key,
                    proof.invite_signature,
                    proof.node_signature,
                )
            )
        case JoinAnswer():
            return pack((_Stream.JOIN_ANSWER, message.refusal, message.records, message.statements))
        case Digest():
            return pack(
                (_Stream.DIGEST, message.members, message.records, message.premises, message.alive)
            )
        case Difference():
            entries = tuple((e.node, e.state, e.incarnation, e.content) for e in message.entries)
            return pack(
                (
                    _Stream.DIFFERENCE,
                    message.member_buckets,
                    entries,
                    message.record_buckets,
                    message.record_ids,
                )
            )
        case StreamProbe():
            origin = message.origin
            return pack((_Stream.PROBE, origin.prober, origin.sequence, message.accusation))
        case _:
            origin = message.origin
            return pack((_Stream.ACK, origin.prober, origin.sequence, message.proof, message.alive))


def decode_stream(data: bytes) -> StreamMessage:
    """The inverse of `encode_stream`. Raises Refused: MALFORMED, TOO_LONG."""
    if len(data) > STREAM_BYTES_MAX:
        raise Refused(DropReason.TOO_LONG)
    fields = unpack_fields(data, STREAM_ARRAYS_MAX, STREAM_STATEMENTS_MAX)
    match fields.take_int(0, 255):
        case _Stream.PUSH_PULL:
            is_reply = fields.take_int(0, 1) == 1
            return PushPull(is_reply, *_take_state(fields), _take_wanted(fields))
        case _Stream.JOIN:
            invite = fields.take_blob(RECORD_BYTES_MAX)
            return Join(invite, _take_proof(fields))
        case _Stream.JOIN_ANSWER:
            refusal = fields.take_text(64)
            return JoinAnswer(refusal, *_take_state(fields))
        case _Stream.DIGEST:
            members, records = fields.take_bytes(8 * BUCKETS), fields.take_bytes(8 * BUCKETS)
            premises = fields.take_blobs(PREMISES_MAX, RECORD_BYTES_MAX)
            return Digest(members, records, premises, fields.take_blob(STATEMENT_BYTES_MAX))
        case _Stream.DIFFERENCE:
            return _decode_difference(fields)
        case _Stream.PROBE:
            origin = _origin(fields)
            return StreamProbe(origin, fields.take_blob(STATEMENT_BYTES_MAX))
        case _Stream.ACK:
            origin, proof = _origin(fields), fields.take_bytes(SIGNATURE_BYTES)
            return StreamAck(origin, proof, fields.take_blob(STATEMENT_BYTES_MAX))
        case _:
            raise Refused(DropReason.UNKNOWN_KIND, "stream message")


def _decode_difference(fields: Fields) -> Difference:
    member_buckets = fields.take_int(0, _SUM_MAX)
    entries = tuple(map(_entry, fields.take_array(ENTRIES_MAX)))
    record_buckets = fields.take_int(0, _SUM_MAX)
    ids = fields.take_blobs(STREAM_RECORDS_MAX, ID_BYTES)
    return Difference(member_buckets, entries, record_buckets, ids)


def _entry(value: object) -> Entry:
    fields = Fields(value)
    return Entry(
        fields.take_bytes(SHORT_ID_BYTES),
        fields.take_int(0, 2),
        fields.take_int(0, INCARNATION_MAX),
        fields.take_int(0, _SUM_MAX),
    )


def _take_wanted(fields: Fields) -> tuple[bytes, ...] | None:
    value = fields.take() if fields.has_more else None
    if value is None:
        return None
    return Fields((value,)).take_blobs(ENTRIES_MAX + STREAM_RECORDS_MAX, ID_BYTES)


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
