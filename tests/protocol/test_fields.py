"""Typed, bounded values out of foreign msgpack."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DropReason, Refused
from protocol.fields import Fields, pack, unpack, unpack_array, unpack_fields
from tests.helpers.nodes import refusal

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner).map(tuple),
    max_leaves=20,
)


@given(_values)
def test_packing_loses_nothing(value: object) -> None:
    """unpack(pack(x)) == x for everything that the wire uses."""
    assert unpack(pack(value)) == value


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    """Decoding raises Refused(MALFORMED) and nothing else."""
    for decode in (unpack, unpack_fields):
        assert refusal(decode, data) in (None, DropReason.MALFORMED)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="reserved byte"),
        pytest.param(b"\x92\xc0", id="truncated"),
        pytest.param(b"\x90\x90", id="two values"),
        pytest.param(b"\xc0", id="no array"),
        pytest.param(b"\x91" * 100_000 + b"\xc0", id="too deep"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="array bomb"),
        pytest.param(b"\xc6\xff\xff\xff\xff", id="blob bomb"),
        pytest.param(b"\x91\xa1\xff", id="no UTF-8"),
        pytest.param(b"\x91\x80", id="map"),
        pytest.param(b"\x91\x81\xa1a\x01", id="filled map"),
        pytest.param(b"\xd5\x05\x01\x02", id="extension, which msgpack makes a tuple"),
    ],
)
def test_what_no_message_contains_is_refused(data: bytes) -> None:
    """Nothing but one array of plain values is a message."""
    with pytest.raises(Refused) as caught:
        unpack_fields(data)
    assert caught.value.reason is DropReason.MALFORMED


def test_unpack_reads_maps_for_those_who_want_them() -> None:
    """Values of offers are maps; messages are not."""
    assert unpack(msgpack.packb({"a": 1})) == {"a": 1}


def test_arrays_and_their_items_are_counted() -> None:
    """Both bounds are exact, at any depth."""
    value = pack((1, (2, 3), ((),)))
    assert unpack_fields(value, 4, 3).take() == 1
    for arrays, items in ((3, 3), (4, 2)):
        with pytest.raises(Refused):
            unpack_fields(value, arrays, items)


def test_fields_are_taken_in_order_and_later_ones_ignored() -> None:
    """That is how later versions add fields."""
    fields = Fields((1, b"ab", b"abc", "text", (1, 2), (b"x",), None, "from the future"))
    assert fields.take_int(0, 1) == 1
    assert fields.take_bytes(2) == b"ab"
    assert fields.take_blob(3) == b"abc"
    assert fields.take_text(4) == "text"
    assert fields.take_array(2) == (1, 2)
    assert fields.take_blobs(1, 1) == (b"x",)
    assert fields.take() is None


@pytest.mark.parametrize(
    ("method", "arguments", "item"),
    [
        ("take_int", (0, 5), 6),
        ("take_int", (0, 5), -1),
        ("take_int", (0, 5), True),
        ("take_int", (0, 5), 1.0),
        ("take_int", (0, 5), "1"),
        ("take_bytes", (2,), b"abc"),
        ("take_bytes", (2,), "ab"),
        ("take_blob", (2,), b"abc"),
        ("take_blob", (2,), "a"),
        ("take_text", (2,), "abc"),
        ("take_text", (2,), b"a"),
        ("take_array", (1,), (1, 2)),
        ("take_array", (1,), b"a"),
        ("take_blobs", (1, 1), (b"a", b"b")),
        ("take_blobs", (1, 1), (b"ab",)),
        ("take_blobs", (1, 1), ("a",)),
    ],
)
def test_wrong_types_and_sizes_are_refused(
    method: str, arguments: tuple[int, ...], item: object
) -> None:
    """Each bound holds, and no type passes for another (True is no integer)."""
    with pytest.raises(Refused):
        getattr(Fields((item,)), method)(*arguments)


def test_missing_fields_are_refused() -> None:
    """An array may be longer than expected, never shorter."""
    with pytest.raises(Refused, match="missing"):
        Fields(()).take()
    for make in (lambda: Fields([1]), lambda: unpack_array(b"\x01")):
        with pytest.raises(Refused, match="not an array"):
            make()
