"""Keys, names and addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import (
    Address,
    NodeId,
    is_literal,
    is_valid_address,
    is_valid_name,
    key_from_text,
    key_text,
    mesh_id_of,
    mesh_tag,
    short_id,
)


@given(st.binary(max_size=40))
def test_keys_survive_their_text(key: bytes) -> None:
    """key_from_text(key_text(k)) == k, in lower case without padding."""
    text = key_text(key)
    assert key_from_text(text) == key
    assert text == text.lower()
    assert "=" not in text


@pytest.mark.parametrize("text", ["1", "A2", "a!", "ab=", "é", "zz", "a" * 51 + " "])
def test_only_the_one_text_of_a_key_is_read(text: str) -> None:
    """Other spellings of the same bytes would be a second name for one node."""
    with pytest.raises(ValueError, match="not a base32 key"):
        key_from_text(text)


@pytest.mark.parametrize(
    ("name", "is_valid"),
    [("a", True), ("a-9", True), ("x" * 63, True), ("", False), ("x" * 64, False)]
    + [(bad, False) for bad in ("A", "a b", "a\n", "ä", "a.b", "\x1b[0m")],
)
def test_names(name: str, is_valid: bool) -> None:
    """1 to 63 of a-z, 0-9 and hyphen: nothing that a terminal would obey."""
    assert is_valid_name(name) is is_valid


@pytest.mark.parametrize(
    ("host", "port", "is_valid"),
    [
        ("10.0.0.1", 1, True),
        ("fd00::1", 65535, True),
        ("host", 7700, True),
        ("a.example.org.", 7700, True),
        ("127.0.0.1", 7700, True),
        ("10.0.0.1", 0, False),
        ("10.0.0.1", 65536, False),
        ("0.0.0.0", 7700, False),
        ("::", 7700, False),
        ("224.0.0.1", 7700, False),
        ("ff02::1", 7700, False),
        ("fe80::1%eth0", 7700, False),
        ("1234", 7700, False),
        ("-a", 7700, False),
        ("a..b", 7700, False),
        ("a b", 7700, False),
        ("a\n", 7700, False),
        ("", 7700, False),
        ("a" * 254, 7700, False),
    ],
)
def test_addresses(host: str, port: int, is_valid: bool) -> None:
    """Only what others could dial is an address."""
    assert is_valid_address(host, port) is is_valid


def test_addresses_as_text() -> None:
    """IPv6 in brackets, so that the port can be told apart."""
    assert str(Address("10.0.0.1", 7700)) == "10.0.0.1:7700"
    assert str(Address("fd00::1", 7700)) == "[fd00::1]:7700"


def test_short_forms_are_prefixes() -> None:
    """Tag and short id are the first bytes of what they stand for."""
    mesh = mesh_id_of(bytes(32))
    node = NodeId(bytes(range(32)))
    assert mesh_tag(mesh) == mesh[:4]
    assert short_id(node) == node[:8]
    assert len(mesh) == 16


@pytest.mark.parametrize(
    ("host", "expected"),
    [("10.0.0.1", True), ("::1", True), ("fe80::1", True), ("gpu.local", False), ("10.1", False)],
)
def test_literals_are_told_from_names(host: str, expected: bool) -> None:
    """Only names are looked up."""
    assert is_literal(host) is expected
