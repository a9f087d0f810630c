"""Noticing that many vanished at once."""

import pytest

from protocol.config import SECOND, ProtocolConfig
from protocol.effects import Effect, Partitioned, Reunited
from protocol.identity import NodeId
from protocol.members import Gone, State
from protocol.node import Node
from protocol.partition import PARTITION_NS
from protocol.statements import Alive, make_left
from tests.helpers.nodes import Mesh, Parcel, Request, address_of

CONFIG = ProtocolConfig()
WINDOW = CONFIG.partition_window_ns


def _id(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def _alive(number: int, incarnation: int = 1) -> Alive:
    wire = bytes((number, incarnation))
    return Alive(_id(number), incarnation, "n", (address_of(number),), "s", wire)


def _view(others: int) -> Node:
    """A node that sees so many others alive."""
    node = Mesh(1).boot(0)
    for number in range(others):
        node.members.put_alive(_alive(number))
    node._outbox.drain()
    return node


def _die(node: Node, number: int, now: int = 0) -> list[object]:
    node.members.put_gone(_id(number), Gone(State.DEAD, 1, now, None))
    node._partition.note_death(_id(number), now)
    return list(node._outbox.drain())


def _return(node: Node, number: int) -> list[object]:
    node.members.put_alive(_alive(number, 2))
    node._partition.note_back(_id(number))
    return list(node._outbox.drain())


def test_enough_and_a_large_share_at_once_are_a_partition() -> None:
    """Told once, with how many are lost and how many are here; the count goes on."""
    node = _view(8)
    assert [_die(node, n) for n in range(3)] == [[], [], [Partitioned(3, 5)]]
    assert node.lost_count(0) == 3
    assert _die(node, 3) == []
    assert node.lost_count(0) == 4


@pytest.mark.parametrize(
    ("others", "deaths", "is_told"),
    [(2, 2, False), (3, 3, True), (10, 3, True), (11, 3, False), (11, 4, True), (20, 6, True)],
)
def test_few_or_a_small_share_are_deaths(others: int, deaths: int, is_told: bool) -> None:
    """At least three, and at least 30 % of the mesh as it was."""
    node = _view(others)
    told = [effect for n in range(deaths) for effect in _die(node, n)]
    assert told == ([Partitioned(deaths, others - deaths)] if is_told else [])
    assert (node.lost_count(0) > 0) is is_told


def test_deaths_far_apart_are_deaths() -> None:
    """Only those within the window count together."""
    node = _view(8)
    assert _die(node, 0, 0) == []
    assert _die(node, 1, WINDOW) == []
    assert _die(node, 2, WINDOW + 1) == []
    assert node.lost_count(0) == 0
    assert _die(node, 3, 2 * WINDOW) == [Partitioned(3, 4)]


def test_most_of_them_back_is_a_reunion() -> None:
    """Told once, with how many are here; then everything begins anew."""
    node = _view(8)
    for number in range(4):
        _die(node, number)
    assert [_return(node, n) for n in (3, 0)] == [[], []]
    assert node.lost_count(0) == 2
    assert _return(node, 1) == [Reunited(7)]
    assert node.lost_count(0) == 0
    assert _return(node, 2) == []


def test_the_reunion_counts_from_the_most_that_were_lost() -> None:
    """Also those that were lost after the report."""
    node = _view(12)
    for number in range(8):
        _die(node, number)
    told = [effect for n in range(5) for effect in _return(node, n)]
    assert told == [Reunited(9)]


def test_who_was_never_lost_is_no_reunion() -> None:
    """Newcomers change nothing."""
    node = _view(8)
    for number in range(3):
        _die(node, number)
    assert _return(node, 100) == []
    assert node.lost_count(0) == 3


def test_who_comes_back_at_once_was_not_lost() -> None:
    """A restart between two deaths is no third death."""
    node = _view(8)
    _die(node, 0)
    _return(node, 0)
    assert [_die(node, n) for n in (1, 2)] == [[], []]
    assert _die(node, 0) == [Partitioned(3, 5)]


def test_a_cut_mesh_tells_and_dies_one_by_one_and_tells_the_reunion() -> None:
    """Nothing depends on the report: every member is still given up by its own suspicion."""
    mesh = Mesh(7).start_all()
    side = {mesh.machines[i].address for i in range(3)}
    ids = {mesh.id(i) for i in range(3)}
    hand_over, connect = mesh.hand_over, mesh.connect
    is_cut = True

    def hand(parcel: Parcel) -> list[Effect]:
        crosses = (parcel.source in side) is not (parcel.to in side)
        return [] if is_cut and crosses else hand_over(parcel)

    def open_(request: Request) -> list[Effect]:
        crosses = (mesh.id(request.opener) in ids) is not (request.peer in ids)
        return [] if is_cut and crosses else connect(request)

    mesh.hand_over = hand  # type: ignore[method-assign]  # a cut network
    mesh.connect = open_  # type: ignore[method-assign]  # a cut network
    mesh.advance(75 * SECOND)
    for viewer in range(7):
        missing = [i for i in range(7) if (i < 3) is not (viewer < 3)]
        assert [mesh.state(viewer, i) for i in missing] == [State.DEAD] * len(missing)
        assert mesh[viewer].lost_count(mesh.now) == len(missing)
        told = [e for e in mesh.machines[viewer].log if isinstance(e, Partitioned)]
        assert len(told) == 1
    is_cut = False
    mesh.advance(30 * SECOND)
    assert mesh.is_one()
    for viewer in range(7):
        assert mesh[viewer].lost_count(mesh.now) == 0
        told_back = [e for e in mesh.machines[viewer].log if isinstance(e, Reunited)]
        assert len(told_back) == 1


def test_a_goodbye_or_an_expulsion_ends_the_loss() -> None:
    """Who turns out to have left, or is no member any more, is not missing."""
    mesh = Mesh(5).start_all()
    for index in (1, 2, 3, 4):
        mesh.crash(index)
    for _ in range(600):
        mesh.advance(SECOND)
    assert mesh[0].lost_count(mesh.now) == 4
    node = mesh.id(1)
    left = make_left(mesh.machines[1].crypto, mesh.authorities.mesh, mesh.machines[1].incarnation)
    mesh[0]._membership.accept_left(left, mesh.now)
    assert mesh.state(0, 1) is State.LEFT
    assert mesh[0].lost_count(mesh.now) == 3
    mesh[0]._membership.expel(mesh.id(2))
    assert mesh[0].lost_count(mesh.now) == 2
    assert node not in mesh[0]._partition._recent


def test_a_partition_ends_when_nobody_came_back_for_an_hour() -> None:
    """Who is missing then is gone; the next loss is reported again."""
    node = _view(8)
    for number in range(3):
        _die(node, number)
    assert node.lost_count(PARTITION_NS) == 3
    assert node.lost_count(PARTITION_NS + 1) == 0
    later = 2 * PARTITION_NS
    assert [_die(node, n, later) for n in (3, 4, 5)] == [[], [], [Partitioned(3, 2)]]
