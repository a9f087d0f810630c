"""Messages and bytes."""

from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import (
    BUCKETS,
    COORDINATE_ITEMS_MAX,
    ENTRIES_MAX,
    PREMISES_MAX,
    RIDERS_MAX,
    STREAM_BYTES_MAX,
    STREAM_STATEMENTS_MAX,
    decode_datagram,
    decode_stream,
    encode_datagram,
    encode_rider,
    encode_stream,
)
from protocol.coordinates import POSITION_NS_MAX
from protocol.envelope import PAYLOAD_BYTES_MAX
from protocol.errors import DropReason, Refused
from protocol.fields import pack
from protocol.identity import INCARNATION_MAX, NodeId
from protocol.messages import (
    Ack,
    DatagramMessage,
    Difference,
    Entry,
    Gossip,
    Load,
    Nack,
    Origin,
    Ping,
    PushPull,
    StreamMessage,
)
from protocol.sessions import TOKEN_BYTES
from protocol.statements import STATEMENT_BYTES_MAX, make_accusation
from tests.helpers.nodes import refusal
from tests.helpers.strategies import (
    CRYPTOS,
    MESH,
    datagram_messages,
    later_items,
    stream_messages,
)

_ID = bytes(32)
_SUMS = bytes(8 * BUCKETS)


@given(datagram_messages, st.lists(st.binary(max_size=200), max_size=5), st.integers(0, 9))
def test_datagrams_survive(message: DatagramMessage, riders: list[bytes], padding: int) -> None:
    """decode(encode(m) + riders + padding) == m, riders."""
    payload = encode_datagram(message) + b"".join(map(encode_rider, riders)) + b"\xc0" * padding
    assert decode_datagram(payload) == (message, riders)


@given(stream_messages)
def test_stream_messages_survive(message: StreamMessage) -> None:
    """decode(encode(m)) == m."""
    assert decode_stream(encode_stream(message)) == message


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    """Whatever arrives: a value, or Refused as MALFORMED or of a later version."""
    decoders: tuple[Callable[[bytes], object], ...] = (decode_datagram, decode_stream)
    for decode in decoders:
        assert refusal(decode, data) in (None, DropReason.MALFORMED, DropReason.UNKNOWN_KIND)


@given(datagram_messages, st.data())
def test_mutated_messages_are_a_message_or_refused(
    message: DatagramMessage, data: st.DataObject
) -> None:
    """One changed byte, one cut: still a value or Refused(MALFORMED)."""
    payload = bytearray(encode_datagram(message) + encode_rider(b"rider"))
    index = data.draw(st.integers(0, len(payload) - 1))
    payload[index] ^= data.draw(st.integers(1, 255))
    for candidate in (bytes(payload), bytes(payload[:index])):
        assert refusal(decode_datagram, candidate) in (None, DropReason.MALFORMED)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc0" * 8, id="only padding"),
        pytest.param(pack((5,)) + pack("text"), id="a rider that is no blob"),
        pytest.param(pack((5,)) + encode_rider(bytes(STATEMENT_BYTES_MAX + 1)), id="long rider"),
        pytest.param(pack((5,)) + encode_rider(b"") * (RIDERS_MAX + 1), id="too many riders"),
        pytest.param(pack((5,)) + b"\x80", id="a map rides along"),
        pytest.param(pack((1, -1, None, None)), id="negative sequence"),
        pytest.param(pack((1, 2**53, None, None)), id="huge sequence"),
        pytest.param(pack((1, 1, (1, 2), None)), id="half a load"),
        pytest.param(pack((1, 1, None, (b"short", 1))), id="short prober"),
        pytest.param(pack((4, 1, bytes(32), bytes(63))), id="short proof"),
        pytest.param(pack((-1,)), id="negative type"),
        pytest.param(pack((1, 1, None)), id="a ping without origin"),
        pytest.param(pack((1, 1, None, None, -1)), id="negative digest"),
        pytest.param(pack((1, 1, None, None, b"8 bytes.")), id="digest as bytes"),
        pytest.param(pack((2, 1, None)), id="an ack without proof"),
        pytest.param(pack((2, 1, None, bytes(65))), id="long proof"),
        pytest.param(pack((2, 1, None, b"", True)), id="digest true"),
        pytest.param(pack((2, 1, None, b"", None, 7)), id="coordinate that is no array"),
        pytest.param(pack((2, 1, None, b"", None, (1.5,))), id="coordinate of fractions"),
        pytest.param(pack((2, 1, None, b"", None, (None,))), id="coordinate of nothings"),
        pytest.param(
            pack((2, 1, None, b"", None, (0,) * (COORDINATE_ITEMS_MAX + 1))), id="long coordinate"
        ),
        pytest.param(pack((6, 1, bytes(31), b"")), id="short target"),
        pytest.param(pack((6, 1, _ID)), id="a nack without accusation"),
        pytest.param(pack((6, 1, _ID, bytes(STATEMENT_BYTES_MAX + 1))), id="long accusation"),
    ],
)
def test_malformed_datagrams(payload: bytes) -> None:
    """Each bound of a datagram's payload holds."""
    with pytest.raises(Refused) as caught:
        decode_datagram(payload)
    assert caught.value.reason is DropReason.MALFORMED


class TestLaterVersions:
    """What a later version adds is skipped by length; what we know is read as ever."""

    @given(datagram_messages, later_items, st.lists(st.binary(max_size=200), max_size=3))
    def test_datagrams(
        self, message: DatagramMessage, more: tuple[object, ...], riders: list[bytes]
    ) -> None:
        """Additional items at the end of any message change nothing."""
        if isinstance(message, Ping) and message.token is None:
            more = (None, *more)  # it is left out where there is none
        payload = _extended(encode_datagram(message), more)
        payload += b"".join(map(encode_rider, riders))
        assert decode_datagram(payload) == (message, riders)

    @given(stream_messages, later_items)
    def test_streams(self, message: StreamMessage, more: tuple[object, ...]) -> None:
        """The same on streams."""
        assert decode_stream(_extended(encode_stream(message), more)) == message

    @given(later_items)
    def test_parts_of_messages(self, more: tuple[object, ...]) -> None:
        """A load, an origin and an entry may grow too."""
        ping = pack((1, 5, (1, 2, 3, *more), (_ID, 7, *more)))
        expected = Ping(5, Load(1, 2, 3), Origin(NodeId(_ID), 7))
        assert decode_datagram(ping) == (expected, [])
        difference = pack((5, 1, ((bytes(8), 1, 2, 3, *more),), 0, ()))
        entry = Entry(bytes(8), 1, 2, 3)
        assert decode_stream(difference) == Difference(1, (entry,), 0, ())

    @given(st.integers(7, 255), later_items, st.lists(st.binary(max_size=200), max_size=RIDERS_MAX))
    def test_unknown_types_still_bring_their_riders(
        self, kind: int, fields: tuple[object, ...], riders: list[bytes]
    ) -> None:
        """A message that a later version added is read as gossip."""
        payload = pack((kind, *fields)) + b"".join(map(encode_rider, riders))
        assert decode_datagram(payload) == (Gossip(), riders)

    @given(st.integers(8, 255), later_items)
    def test_unknown_stream_messages_are_refused(
        self, kind: int, fields: tuple[object, ...]
    ) -> None:
        """Nobody can answer what it does not understand; it says so and goes on."""
        assert refusal(decode_stream, pack((kind, *fields))) is DropReason.UNKNOWN_KIND


def _extended(encoded: bytes, more: tuple[object, ...]) -> bytes:
    """As a later version would say it."""
    return pack((*msgpack.unpackb(encoded, raw=False, use_list=False), *more))


def test_what_is_behind_the_padding_is_ignored() -> None:
    """Padding runs to the end."""
    assert decode_datagram(pack((5,)) + b"\xc0\xc1\xff") == (Gossip(), [])


def test_streams_are_bounded() -> None:
    """One byte more than allowed is refused before anything is decoded."""
    with pytest.raises(Refused) as caught:
        decode_stream(bytes(STREAM_BYTES_MAX + 1))
    assert caught.value.reason is DropReason.TOO_LONG


def test_a_stream_message_holds_only_so_many_arrays() -> None:
    """Millions of tiny ones in a few megabytes would cost seconds; entries all fit."""
    entries = (Entry(bytes(8), 0, 1, 2),) * ENTRIES_MAX
    full = Difference(0, entries, 0, ())
    assert decode_stream(encode_stream(full)) == full
    count = STREAM_STATEMENTS_MAX
    with pytest.raises(Refused, match="too many arrays"):
        decode_stream(b"\xdd" + count.to_bytes(4, "big") + b"\x91\x91\x90" * count)


def test_an_array_of_a_stream_message_holds_only_so_many_items() -> None:
    """As many as the longest of ours; millions of numbers in one would cost memory."""
    full = PushPull(False, (), (b"",) * STREAM_STATEMENTS_MAX, None)
    assert decode_stream(encode_stream(full)) == full
    count = STREAM_STATEMENTS_MAX + 1
    numbers = b"\xdd" + count.to_bytes(4, "big") + b"\x01" * count
    assert refusal(decode_stream, numbers) is DropReason.MALFORMED
    assert refusal(decode_stream, b"\x92\x01" + numbers) is DropReason.MALFORMED


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pack((1, 2, (), ())), id="neither request nor reply"),
        pytest.param(pack((1, 1, (bytes(401),), ())), id="long record"),
        pytest.param(pack((1, 1, (), (), 5)), id="wanted is no array"),
        pytest.param(pack((1, 1, (), (), (bytes(9),))), id="long id wanted"),
        pytest.param(pack((1, 1, (), (), (5,))), id="a number wanted"),
        pytest.param(pack((4, _SUMS, _SUMS[1:], (), b"")), id="short sums"),
        pytest.param(pack((4, _SUMS, _SUMS, (b"",) * (PREMISES_MAX + 1), b"")), id="premises"),
        pytest.param(pack((4, _SUMS, _SUMS, (), bytes(1001))), id="long alive"),
        pytest.param(pack((5, -1, (), 0, ())), id="negative buckets"),
        pytest.param(pack((5, 0, ((bytes(7), 0, 0, 0),), 0, ())), id="short id"),
        pytest.param(pack((5, 0, ((bytes(8), 3, 0, 0),), 0, ())), id="fourth state"),
        pytest.param(pack((5, 0, ((bytes(8), 0, -1, 0),), 0, ())), id="negative incarnation"),
        pytest.param(pack((5, 0, ((bytes(8), 0, 0, -1),), 0, ())), id="negative content"),
        pytest.param(pack((5, 0, (b"entry",), 0, ())), id="entry that is no array"),
        pytest.param(pack((5, 0, (), 0, (bytes(9),))), id="long record id"),
        pytest.param(pack((6, _ID[1:], 1, b"")), id="short prober"),
        pytest.param(pack((6, _ID, 1, bytes(1001))), id="long accusation"),
        pytest.param(pack((7, _ID, 1, bytes(63), b"")), id="short proof"),
        pytest.param(pack((7, _ID, 1, bytes(64), bytes(1001))), id="long life"),
    ],
)
def test_malformed_streams(data: bytes) -> None:
    """Each bound of a stream message holds."""
    assert refusal(decode_stream, data) is DropReason.MALFORMED


def test_a_push_pull_that_wants_nothing_is_not_one_that_wants_all() -> None:
    """No list means everything, an empty one nothing."""
    for wanted in (None, ()):
        message = PushPull(False, (), (), wanted)
        decoded = decode_stream(encode_stream(message))
        assert decoded == message


@given(st.binary(max_size=STATEMENT_BYTES_MAX))
def test_a_rider_costs_three_bytes_at_most(wire: bytes) -> None:
    """So the largest statement fits into a datagram beside gossip and pings."""
    assert len(wire) < len(encode_rider(wire)) <= len(wire) + 3


def test_messages_leave_room() -> None:
    """The largest that a node sends: every rider fits beside a ping, and beside an answer the
    accusation of whom it answers (the buddy system).
    """
    number, load = INCARNATION_MAX, Load(2**31, 2**31, 2**31)
    ping = Ping(number, load, Origin(NodeId(_ID), number), 2**64 - 1, bytes(TOKEN_BYTES))
    where = (*(-POSITION_NS_MAX,) * 8, POSITION_NS_MAX, -100_000_000, 1_500_000)
    ack = Ack(number, load, bytes(64), 2**64 - 1, where)
    word = make_accusation(
        CRYPTOS[0], MESH, CRYPTOS[1].node_id, number, is_dead=True, is_refused=True
    )
    nack = Nack(number, CRYPTOS[1].node_id, word.wire)
    rider = encode_rider(word.wire)
    assert len(encode_datagram(ping)) + STATEMENT_BYTES_MAX + 3 <= PAYLOAD_BYTES_MAX
    assert len(encode_datagram(ack)) + len(rider) <= 330
    assert len(encode_datagram(nack)) <= 220
