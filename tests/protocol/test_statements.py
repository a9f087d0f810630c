"""What members state, signed."""

import dataclasses

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.crypto import SodiumCrypto
from protocol.errors import DropReason, Refused
from protocol.fields import pack
from protocol.identity import Address, MeshId, NodeId
from protocol.statements import (
    ADDRESS_BYTES_MAX,
    RUN_MAX,
    STATEMENT_BYTES_MAX,
    Alive,
    Statement,
    Statements,
    decode_statement,
    is_valid_offer_key,
    make_alive,
    make_left,
    make_offer,
)
from tests.helpers.nodes import refusal
from tests.helpers.strategies import CRYPTOS, MESH, later_items, statements

CRYPTO = CRYPTOS[0]
OTHER_MESH = MeshId(bytes(16))
UNREADABLE = (DropReason.MALFORMED, DropReason.UNKNOWN_KIND)


class CountingCrypto(SodiumCrypto):
    """Counts checks."""

    checks = 0

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        """As ever."""
        self.checks += 1
        return super().verify(key, signature, data)


@given(statements)
def test_statements_survive(statement: Statement) -> None:
    """decode(wire) == the statement, its signature holds, and it fits its limit."""
    decoded = decode_statement(statement.wire)
    assert decoded == statement
    assert decoded.wire == statement.wire
    Statements(MESH).verify(CRYPTO, decoded)
    assert len(statement.wire) <= STATEMENT_BYTES_MAX


@given(st.binary(max_size=1100))
def test_any_bytes_are_a_statement_or_refused(data: bytes) -> None:
    """Decoding raises Refused, as malformed or of an unknown kind, and nothing else."""
    assert refusal(decode_statement, data) in (None, *UNREADABLE)


@given(statements, st.data())
def test_no_changed_statement_verifies(statement: Statement, data: st.DataObject) -> None:
    """One changed byte: malformed, of no kind that we know, or a bad signature."""
    wire = bytearray(statement.wire)
    index = data.draw(st.integers(0, len(wire) - 1))
    wire[index] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Refused) as caught:
        Statements(MESH).verify(CRYPTO, decode_statement(bytes(wire)))
    assert caught.value.reason in (*UNREADABLE, DropReason.BAD_SIGNATURE)


def test_another_meshs_statement_does_not_verify() -> None:
    """The mesh is part of what is signed: one key in two meshes cannot be played off."""
    left = make_left(CRYPTO, OTHER_MESH, 1)
    with pytest.raises(Refused) as caught:
        Statements(MESH).verify(CRYPTO, left)
    assert caught.value.reason is DropReason.BAD_SIGNATURE


def _signed(*fields: object) -> bytes:
    return pack(fields) + bytes(64)


_ID = bytes(32)
_ADDRESS = ("10.0.0.1", 7700)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(_signed(9, bytes(31), 1), id="unknown kind without an author"),
        pytest.param(_signed(2, _ID, 0), id="incarnation zero"),
        pytest.param(_signed(2, _ID, 2**53), id="huge incarnation"),
        pytest.param(_signed(2, bytes(31), 1), id="short author"),
        pytest.param(_signed(3, _ID, _ID, 1, 2), id="neither suspect nor dead"),
        pytest.param(_signed(4, _ID, 1, "", b""), id="empty key"),
        pytest.param(_signed(4, _ID, 1, "\x1b[2J", b""), id="key that a terminal obeys"),
        pytest.param(_signed(4, _ID, 1, "é", b""), id="key outside ASCII"),
        pytest.param(_signed(4, _ID, 1, "k" * 65, b""), id="long key"),
        pytest.param(_signed(4, _ID, 1, "k", bytes(701)), id="long value"),
        pytest.param(_signed(1, _ID, 1, "Bad Name", (_ADDRESS,), ""), id="name"),
        pytest.param(_signed(1, _ID, 1, "a", (), ""), id="no address"),
        pytest.param(_signed(1, _ID, 1, "a", (_ADDRESS,) * 5, ""), id="five addresses"),
        pytest.param(_signed(1, _ID, 1, "a", (("0.0.0.0", 1),), ""), id="no address at all"),
        pytest.param(_signed(1, _ID, 1, "a", (("10.0.0.1", 0),), ""), id="port zero"),
        pytest.param(_signed(1, _ID, 1, "a", ("10.0.0.1",), ""), id="address without port"),
        pytest.param(_signed(1, _ID, 1, "a", (_ADDRESS,), "\n"), id="software"),
        pytest.param(_signed(1, _ID, 1, "a", (_ADDRESS,), "v" * 33), id="long software"),
        pytest.param(_signed(1, _ID, 1, "a", (_ADDRESS,), "", 5), id="run without versions"),
        pytest.param(_signed(1, _ID, 1, "a", (_ADDRESS,), "", -1, 1, 1), id="negative run"),
        pytest.param(_signed(1, _ID, 1, "a", (_ADDRESS,), "", "1", 1, 1), id="run as text"),
        pytest.param(_signed(1, _ID, 1, "a", (_ADDRESS,), "", 5, 0, 1), id="version zero"),
        pytest.param(_signed(1, _ID, 1, "a", (_ADDRESS,), "", 5, 1, 256), id="huge version"),
        pytest.param(_signed(1, _ID, 1, "a", (_ADDRESS,), "", 5, 2, 1), id="no version at all"),
        pytest.param(_signed(3, _ID, _ID, 1, 1, 2), id="neither refused nor not"),
        pytest.param(_signed(3, _ID, _ID, 1, 1, None), id="refused is nothing"),
        pytest.param(bytes(64), id="only a signature"),
        pytest.param(_signed(4, _ID, 1, "k", bytes(700)) + bytes(300), id="too long"),
    ],
)
def test_malformed_statements(wire: bytes) -> None:
    """Each bound of each field holds."""
    with pytest.raises(Refused) as caught:
        decode_statement(wire)
    assert caught.value.reason is DropReason.MALFORMED


@pytest.mark.parametrize("kind", [0, 5, 15])
@given(later_items)
def test_kinds_that_later_versions_add_are_nobodys_fault(
    kind: int, more: tuple[object, ...]
) -> None:
    """They are told apart from what is malformed, whatever they hold."""
    assert refusal(decode_statement, _signed(kind, _ID, *more)) is DropReason.UNKNOWN_KIND


@given(statements, later_items)
def test_fields_that_later_versions_add_are_kept_and_ignored(
    statement: Statement, more: tuple[object, ...]
) -> None:
    """A longer array is read as today; its bytes, and so its signature, stay whole."""
    body = (*msgpack.unpackb(statement.wire[:-64], raw=False, use_list=False), *more)
    author = next(c for c in CRYPTOS if c.node_id == statement.author)
    wire = pack(body) + author.sign(b"meshd statement 1" + MESH + pack(body))
    assume(len(wire) <= STATEMENT_BYTES_MAX)
    decoded = decode_statement(wire)
    assert decoded == statement
    assert decoded.wire == wire
    Statements(MESH).verify(CRYPTO, decoded)


@given(later_items)
def test_addresses_may_grow_too(more: tuple[object, ...]) -> None:
    """What a later version says about an address is skipped."""
    wire = _signed(1, _ID, 1, "a", ((*_ADDRESS, *more),), "s")
    alive = decode_statement(wire)
    assert isinstance(alive, Alive)
    assert alive.addresses == (Address(*_ADDRESS),)


def test_the_largest_statements_fit() -> None:
    """Nobody can state something that nobody would take."""
    host = "a" * 63 + "." + "b" * 63 + "." + "c" * 20
    addresses = tuple(Address(host, 65535) for _ in range(4))
    assert sum(len(address.host) for address in addresses) <= ADDRESS_BYTES_MAX
    software = "\U00020000" * 32
    alive = make_alive(CRYPTO, MESH, 2**53 - 1, "n" * 63, addresses, software, RUN_MAX, (255, 255))
    offer = make_offer(CRYPTO, MESH, 2**53 - 1, "k" * 64, bytes(700))
    for statement in (alive, offer):
        assert decode_statement(statement.wire) == statement


def test_each_statement_is_checked_once() -> None:
    """Equal bytes share one object and one check; the least used are forgotten first."""
    crypto = CountingCrypto(bytes(32))
    cache = Statements(MESH, capacity=2)
    one, two, three = (decode_statement(make_left(CRYPTO, MESH, n).wire) for n in (1, 2, 3))
    for statement in (one, two, one):
        cache.verify(crypto, statement)
    assert crypto.checks == 2
    assert cache.find(one.wire) is one
    cache.verify(crypto, three)
    assert cache.find(two.wire) is None
    assert cache.find(one.wire) is one
    assert len(cache._verified) == 2


def test_a_bad_signature_is_not_remembered() -> None:
    """A second try fails as well."""
    cache = Statements(MESH)
    forged = dataclasses.replace(make_left(CRYPTO, MESH, 1), author=NodeId(bytes(32)))
    for _ in range(2):
        with pytest.raises(Refused):
            cache.verify(CRYPTO, forged)
    assert cache.find(forged.wire) is None


@pytest.mark.parametrize(
    ("key", "is_valid"),
    [("model/ab", True), ("k" * 64, True), ("", False), ("k" * 65, False), ("a\n", False)],
)
def test_offer_keys(key: str, is_valid: bool) -> None:
    """Printable ASCII: a key is shown to people and counted in bytes."""
    assert is_valid_offer_key(key) is is_valid


def test_subjects() -> None:
    """Lives are about their author, accusations about somebody else."""
    alive = make_alive(CRYPTO, MESH, 1, "a", (Address("10.0.0.1", 1),), "")
    assert alive.subject == make_left(CRYPTO, MESH, 1).subject == CRYPTO.node_id
