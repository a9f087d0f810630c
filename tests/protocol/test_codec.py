"""Messages and bytes."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import (
    RIDERS_MAX,
    STREAM_BYTES_MAX,
    decode_datagram,
    decode_stream,
    encode_datagram,
    encode_rider,
    encode_stream,
)
from protocol.envelope import PAYLOAD_BYTES_MAX
from protocol.errors import DropReason, Refused
from protocol.fields import pack
from protocol.messages import DatagramMessage, Gossip, StreamMessage
from protocol.statements import STATEMENT_BYTES_MAX
from tests.helpers.nodes import refusal
from tests.helpers.strategies import datagram_messages, stream_messages


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
    """Whatever arrives: a value, or Refused(MALFORMED)."""
    decoders: tuple[Callable[[bytes], object], ...] = (decode_datagram, decode_stream)
    for decode in decoders:
        assert refusal(decode, data) in (None, DropReason.MALFORMED)


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
    ],
)
def test_malformed_datagrams(payload: bytes) -> None:
    """Each bound of a datagram's payload holds."""
    with pytest.raises(Refused) as caught:
        decode_datagram(payload)
    assert caught.value.reason is DropReason.MALFORMED


def test_unknown_types_still_bring_their_riders() -> None:
    """A message that a later version added is read as gossip."""
    assert decode_datagram(pack((99, "new")) + encode_rider(b"r")) == (Gossip(), [b"r"])


def test_what_is_behind_the_padding_is_ignored() -> None:
    """Padding runs to the end."""
    assert decode_datagram(pack((5,)) + b"\xc0\xc1\xff") == (Gossip(), [])


def test_streams_are_bounded() -> None:
    """One byte more than allowed is refused before anything is decoded."""
    with pytest.raises(Refused) as caught:
        decode_stream(bytes(STREAM_BYTES_MAX + 1))
    assert caught.value.reason is DropReason.TOO_LONG
    for bad in (pack((9,)), pack((1, 2, (), ())), pack((1, 1, (bytes(401),), ()))):
        with pytest.raises(Refused):
            decode_stream(bad)


@given(st.binary(max_size=STATEMENT_BYTES_MAX))
def test_a_rider_costs_three_bytes_at_most(wire: bytes) -> None:
    """So the largest statement fits into a datagram beside the largest message."""
    assert len(wire) < len(encode_rider(wire)) <= len(wire) + 3
    assert STATEMENT_BYTES_MAX + 3 + 120 <= PAYLOAD_BYTES_MAX


@given(datagram_messages)
def test_messages_are_short(message: DatagramMessage) -> None:
    """The largest message leaves room for the largest rider."""
    assert len(encode_datagram(message)) <= 120
