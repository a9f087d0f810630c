"""What rides along, how often, and in what order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import RIDERS_MAX, decode_datagram
from protocol.config import ProtocolConfig
from protocol.crypto import SodiumCrypto
from protocol.dissemination import MISFITS_MAX, RUMOURS_MAX, Dissemination, retransmit_limit
from protocol.envelope import PAYLOAD_BYTES_MAX
from protocol.fields import pack
from protocol.identity import Address, NodeId
from protocol.statements import (
    Statement,
    make_accusation,
    make_alive,
    make_left,
    make_offer,
)
from tests.helpers.nodes import address_of, seed_of
from tests.helpers.strategies import CRYPTOS, MESH, statements

CONFIG = ProtocolConfig()
CRYPTO, OTHER = CRYPTOS[0], CRYPTOS[1]
KEYS = [SodiumCrypto(seed_of("dissemination", number)) for number in range(7)]


def _alive(incarnation: int = 1, crypto: int = 0) -> Statement:
    return make_alive(CRYPTOS[crypto], MESH, incarnation, "a", (address_of(0),), "")


def _accuse(subject: int, accuser: int = 0) -> Statement:
    node = NodeId(bytes((subject,)) * 32)
    return make_accusation(CRYPTOS[accuser], MESH, node, 1, is_dead=False)


def _fill(rumours: Dissemination, budget: int = PAYLOAD_BYTES_MAX, members: int = 1) -> list[bytes]:
    riders = rumours.fill(budget, members)
    assert len(riders) <= budget
    return decode_datagram(pack((5,)) + riders)[1]


@pytest.mark.parametrize(
    ("members", "limit"),
    [(0, 0), (1, 4), (9, 4), (10, 8), (99, 8), (100, 12), (999, 12), (1000, 16), (9999, 16)],
)
def test_memberlists_vectors_for_the_retransmit_limit(members: int, limit: int) -> None:
    """mult * ceil(log10(N + 1)), by integers."""
    assert retransmit_limit(CONFIG, members) == limit


def test_a_rumour_is_sent_so_often_and_no_more() -> None:
    """4 times among nine members, and then nothing is left."""
    rumours = Dissemination(CONFIG)
    rumours.add(_alive())
    assert [len(_fill(rumours, members=9)) for _ in range(6)] == [1, 1, 1, 1, 0, 0]
    assert len(rumours) == 0


def test_newer_replaces_older() -> None:
    """One rumour per life, per accuser and subject, per offer."""
    rumours = Dissemination(CONFIG)
    newest = [
        _alive(2),
        make_offer(CRYPTO, MESH, 2, "k", b"new"),
        make_accusation(CRYPTO, MESH, OTHER.node_id, 2, is_dead=True),
    ]
    rumours.add(_alive(1))
    rumours.add(make_offer(CRYPTO, MESH, 1, "k", b"old"))
    rumours.add(make_accusation(CRYPTO, MESH, OTHER.node_id, 1, is_dead=False))
    for statement in newest:
        rumours.add(statement)
    assert sorted(_fill(rumours)) == sorted(statement.wire for statement in newest)


def test_a_goodbye_replaces_the_life_and_the_other_way_round() -> None:
    """Whatever came last about a life is what is told."""
    rumours = Dissemination(CONFIG)
    left = make_left(CRYPTO, MESH, 1)
    rumours.add(_alive(1))
    rumours.add(left)
    assert _fill(rumours) == [left.wire]
    rumours.add(_alive(2))
    assert _fill(rumours) == [_alive(2).wire]


def test_accusations_end_with_their_subjects_answer() -> None:
    """Of one subject all go, those of others stay."""
    rumours = Dissemination(CONFIG)
    kept = _accuse(2)
    for statement in (_accuse(1, 0), _accuse(1, 1), kept):
        rumours.add(statement)
    rumours.drop_accusations(bytes((1,)) * 32)
    assert _fill(rumours) == [kept.wire]


def test_least_sent_first_then_newest() -> None:
    """So a new death overtakes a hundred old ones."""
    rumours = Dissemination(CONFIG)
    first, second, third = _accuse(1), _accuse(2), _accuse(3)
    rumours.add(first)
    rumours.add(second)
    room = len(first.wire) + 3
    assert _fill(rumours, room, 99) == [second.wire]
    assert _fill(rumours, room, 99) == [first.wire]
    rumours.add(third)
    assert _fill(rumours, room, 99) == [third.wire]


def test_no_class_starves() -> None:
    """Each class has its share, whatever the others want to say."""
    rumours = Dissemination(CONFIG)
    for subject in range(1, 60):
        rumours.add(_accuse(subject))
    life, offer = _alive(), make_offer(CRYPTO, MESH, 1, "k", b"v")
    record = bytes(300)
    rumours.add(life)
    rumours.add(offer)
    rumours.add_record(record)
    riders = _fill(rumours, members=9)
    assert life.wire in riders
    assert offer.wire in riders
    assert record in riders
    assert len(riders) > 4


def test_unused_shares_go_to_the_most_urgent() -> None:
    """Deaths alone fill the whole datagram."""
    rumours = Dissemination(CONFIG)
    for subject in range(1, 60):
        rumours.add(_accuse(subject))
    riders = _fill(rumours)
    assert len(riders) == PAYLOAD_BYTES_MAX // (len(_accuse(1).wire) + 2)


def test_what_does_not_fit_holds_up_nobody_for_long() -> None:
    """A few large ones are passed over for smaller ones that fit."""
    rumours = Dissemination(CONFIG)
    small = make_offer(CRYPTO, MESH, 1, "small", b"")
    rumours.add(small)
    for number in range(MISFITS_MAX - 1):
        rumours.add(make_offer(CRYPTO, MESH, 2 + number, f"large{number}", bytes(700)))
    assert _fill(rumours, 600, 9) == [small.wire]


def test_a_rumour_larger_than_its_share_waits_for_its_turn_only() -> None:
    """And the smaller ones behind it do not wait for it."""
    rumours = Dissemination(CONFIG)
    many = tuple(Address(f"2001:db8:1234:5678:9abc:def0:1234:{n:04x}", 7700) for n in range(4))
    large = [make_alive(KEYS[n], MESH, 1, "a" * 40, many, "") for n in range(6)]
    assert len(large[0].wire) > 270
    small = [_accuse(subject) for subject in range(1, 40)]
    first = make_alive(KEYS[6], MESH, 1, "small", (address_of(0),), "")
    rumours.add(first)
    for statement in (*small, *large):
        rumours.add(statement)
    seen: dict[bytes, None] = {}
    for _ in range(8):
        seen.update(dict.fromkeys(_fill(rumours, members=99)))
    assert first.wire in seen
    assert all(statement.wire in seen for statement in large)


class TestHeap:
    """Most urgent first, whatever is added, dropped and sent in between."""

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("accuse", "accuse", "accuse", "drop", "expel", "fill")),
                st.integers(1, 9),
                st.integers(0, 6),
            ),
            max_size=300,
        )
    )
    def test_no_datagram_holds_a_rumour_twice(self, story: list[tuple[str, int, int]]) -> None:
        """And none is sent more often than the limit, nor after it was dropped."""
        rumours = Dissemination(CONFIG)
        sent: dict[bytes, int] = {}
        for what, subject, accuser in story:
            node = NodeId(bytes((subject,)) * 32)
            match what:
                case "accuse":
                    statement = _accuse(subject, accuser % 4)
                    rumours.add(statement)
                    sent[statement.wire] = 0
                case "drop":
                    rumours.drop_accusations(node)
                    sent = {wire: n for wire, n in sent.items() if wire.find(node) < 0}
                case "expel":
                    author = CRYPTOS[accuser % 4].node_id
                    rumours.drop_member(author)
                    sent = {wire: n for wire, n in sent.items() if wire.find(author) < 0}
                case _:
                    riders = _fill(rumours, 1_000, 9)
                    assert len(riders) == len(dict.fromkeys(riders))
                    for wire in riders:
                        sent[wire] += 1
        assert all(count <= 4 for count in sent.values())

    def test_a_heap_full_of_what_is_over_is_cleaned_in_the_middle_of_a_datagram(self) -> None:
        """Those that are taken out just then come back once."""
        rumours = Dissemination(CONFIG)
        for accuser in range(4):
            for subject in range(1, 60):
                rumours.add(_accuse(subject, accuser))
            for subject in range(3, 60):
                rumours.drop_accusations(bytes((subject,)) * 32)
            for _ in range(3):
                riders = _fill(rumours, members=99)
                assert len(riders) == len(dict.fromkeys(riders))


def test_premises_ride_before_conclusions() -> None:
    """Records first: the receiver takes the riders in order."""
    rumours = Dissemination(CONFIG)
    rumours.add(_alive())
    rumours.add_record(bytes(200))
    assert _fill(rumours) == [bytes(200), _alive().wire]


def test_the_queue_is_bounded() -> None:
    """Of too many rumours of a class the oldest goes."""
    rumours = Dissemination(CONFIG)
    for number in range(RUMOURS_MAX + 1):
        rumours.add_record(number.to_bytes(4, "big"))
    assert len(rumours) == RUMOURS_MAX
    rumours.clear()
    assert len(rumours) == 0


@given(
    st.lists(statements, max_size=30),
    st.lists(st.binary(min_size=1, max_size=400), max_size=5),
    st.integers(0, PAYLOAD_BYTES_MAX),
)
def test_riders_fit_their_budget_and_end(
    told: list[Statement], wires: list[bytes], budget: int
) -> None:
    """Never more than the budget, never too many, and in the end everything that fits was sent."""
    rumours = Dissemination(CONFIG)
    for statement in told:
        rumours.add(statement)
    for wire in wires:
        rumours.add_record(wire)
    before = len(rumours)
    sent = 0
    for _ in range(4 * before + 4):
        riders = _fill(rumours, budget, 9)
        assert len(riders) <= RIDERS_MAX
        sent += len(riders)
    assert sent <= 4 * before
    if budget == PAYLOAD_BYTES_MAX:
        assert len(rumours) == 0
