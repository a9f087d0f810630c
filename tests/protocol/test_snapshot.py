"""What a node remembers over a restart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.authority import Authority
from protocol.errors import DropReason, Refused
from protocol.fields import pack
from protocol.members import Members, State
from protocol.snapshot import (
    Snapshot,
    decode_snapshot,
    encode_snapshot,
    recall,
    take_snapshot,
)
from protocol.statements import Statements, make_accusation, make_alive, make_left
from tests.helpers.nodes import Mesh, address_of, refusal, tampered
from tests.helpers.strategies import snapshots

MESH = Mesh(4)
CRYPTOS = [machine.crypto for machine in MESH.machines]
IDS = [machine.id for machine in MESH.machines]


def _alive(index: int, incarnation: int) -> bytes:
    mesh = MESH.authorities.mesh
    return make_alive(CRYPTOS[index], mesh, incarnation, "n", (address_of(index),), "").wire


def _left(index: int, incarnation: int) -> bytes:
    return make_left(CRYPTOS[index], MESH.authorities.mesh, incarnation).wire


def _recall(snapshot: Snapshot) -> tuple[Authority, Members]:
    authority, members = Authority(CRYPTOS[0], MESH.authorities.root), Members()
    recall(snapshot, CRYPTOS[0], authority, members, Statements(authority.mesh))
    return authority, members


@given(snapshots)
def test_snapshots_survive(snapshot: Snapshot) -> None:
    """decode(encode(s)) == s."""
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


@given(st.binary(max_size=300))
def test_any_bytes_are_a_snapshot_or_refused(data: bytes) -> None:
    """A damaged file is refused, never an exception of another kind."""
    expected = (None, DropReason.MALFORMED, DropReason.BAD_VERSION)
    assert refusal(decode_snapshot, data) in expected


def test_other_versions_are_refused_as_such() -> None:
    """A later version's file is not half understood."""
    with pytest.raises(Refused) as caught:
        decode_snapshot(pack((2, (), (), (), ())))
    assert caught.value.reason is DropReason.BAD_VERSION
    with pytest.raises(Refused):
        decode_snapshot(pack((1, (), (), (), ((IDS[1], 0),))))


@given(snapshots)
def test_any_snapshot_is_recalled(snapshot: Snapshot) -> None:
    """What is damaged, forged or of strangers is left out without a word."""
    _, members = _recall(snapshot)
    assert members.all() == []


def test_lives_deaths_and_goodbyes_come_back_as_what_they_are() -> None:
    """A life becomes somebody to look for, a death and a goodbye stay."""
    snapshot = Snapshot(
        records=MESH.records,
        lives=(_alive(1, 3), _alive(2, 4), _alive(3, 5)),
        goodbyes=(_left(2, 4),),
        deaths=((IDS[3], 5),),
    )
    authority, members = _recall(snapshot)
    assert members.present() == []
    assert list(members.acquaintances) == [IDS[1]]
    assert members.state(IDS[1]) is None
    assert (members.state(IDS[2]), members.incarnation(IDS[2])) == (State.LEFT, 4)
    assert (members.state(IDS[3]), members.incarnation(IDS[3])) == (State.DEAD, 5)
    again = take_snapshot(IDS[0], authority, members)
    assert sorted(again.lives) == sorted(snapshot.lives)
    assert (again.goodbyes, again.deaths) == (snapshot.goodbyes, snapshot.deaths)
    assert sorted(again.records) == sorted(MESH.records)


def test_a_goodbye_without_a_life_is_kept() -> None:
    """A member that we only ever heard leaving stays left."""
    authority, members = _recall(Snapshot(records=MESH.records, goodbyes=(_left(1, 7),)))
    assert members.state(IDS[1]) is State.LEFT
    assert take_snapshot(IDS[0], authority, members).goodbyes == (_left(1, 7),)


def test_what_does_not_count_is_left_out() -> None:
    """No strangers, no forgeries, nothing of our own, nothing of the wrong kind."""
    stranger = Mesh(1, label="other").machines[0].crypto
    mesh = MESH.authorities.mesh
    forged = tampered(_alive(1, 3))
    accusation = make_accusation(CRYPTOS[1], mesh, IDS[2], 1, is_dead=True).wire
    snapshot = Snapshot(
        records=(*MESH.records, b"junk"),
        lives=(
            make_alive(stranger, mesh, 1, "x", (address_of(9),), "").wire,
            forged,
            _alive(0, 9),
            accusation,
            b"junk",
        ),
        goodbyes=(_left(0, 9), make_left(stranger, mesh, 1).wire, _alive(2, 1)),
        deaths=((IDS[1], 3),),
    )
    _, members = _recall(snapshot)
    assert members.all() == []
    assert not members.acquaintances
