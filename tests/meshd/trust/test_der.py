"""DER: one form for each value; whatever has another is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.trust import der

tags = st.integers(0, 255)


@given(tags, st.binary(max_size=300), st.binary(max_size=9))
def test_what_is_written_is_read(tag: int, content: bytes, after: bytes) -> None:
    """The content, and all that follows."""
    assert der.take(tag, der.value(tag, content) + after) == (content, after)


@pytest.mark.parametrize("size", [0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000])
def test_lengths_of_every_form(size: int) -> None:
    """Short, and in one to three bytes."""
    assert der.take(4, der.value(4, bytes(size))) == (bytes(size), b"")


@given(tags, st.binary(max_size=12))
def test_any_bytes_are_a_value_or_refused(tag: int, data: bytes) -> None:
    """What is taken is what would be written: no second spelling."""
    try:
        content, after = der.take(tag, data)
    except der.BadDer:
        return
    assert der.value(tag, content) + after == data


@pytest.mark.parametrize(
    "data",
    [
        "",
        "30",
        "310100",
        "3001",
        "3080 00 0000",
        "308100",
        "30817f" + "00" * 127,
        "30820080" + "00" * 128,
        "3084 00000001 00",
        "3084 01000000",
        "30ff",
        "3082 01",
    ],
)
def test_other_forms_are_refused(data: str) -> None:
    """Cut off, another tag, no length, a length in more bytes than it needs or in too many."""
    with pytest.raises(der.BadDer):
        der.take(der.SEQUENCE, bytes.fromhex(data))


@pytest.mark.parametrize(
    ("number", "written"), [(0, "020100"), (127, "02017f"), (128, "02020080"), (256, "02020100")]
)
def test_integers_are_never_negative(number: int, written: str) -> None:
    """A leading bit is kept from meaning a sign (X.690, section 8.3)."""
    assert der.integer(number).hex() == written
