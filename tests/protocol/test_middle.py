"""Nodes that begin in the middle, for simulations: they know what another knows, and then go on."""

import functools

from protocol.config import SECOND
from protocol.events import AddressesChanged, RecordIssued, Started
from protocol.identity import Address, NodeId
from protocol.records import Records
from tests.helpers.nodes import Mesh, address_of, seed_of


def _mesh() -> Mesh:
    """Node 0 has heard of everybody, the others then know what it knows."""
    mesh = Mesh(4)
    for machine in mesh.machines:
        mesh.start(machine.index)
    for index in (1, 2, 3):
        mesh.exchange(0, index)
    for machine in mesh.machines:
        mesh[machine.index].begin_like(mesh[0])
    mesh.post.clear()
    return mesh


def test_all_know_the_same() -> None:
    """And see each other alive, and stay so."""
    mesh = _mesh()
    assert mesh.is_one()
    assert len({mesh[index]._knowledge.total for index in range(4)}) == 1
    mesh.advance(30 * SECOND)
    assert mesh.is_one()
    for index in range(4):
        before = mesh[index]._knowledge.total
        mesh[index]._knowledge.rebuild()
        assert mesh[index]._knowledge.total == before


def test_what_one_learns_later_is_its_own() -> None:
    """What is shared is copied by who changes it; gossip tells the others."""
    mesh = _mesh()
    invite = mesh.authorities.issue(seed_of("later"))
    mesh.give(1, RecordIssued(invite.wire))
    assert invite in mesh[1].authority.records()
    for index in (0, 2, 3):
        assert invite not in mesh[index].authority.records()
        assert mesh[index]._knowledge.total != mesh[1]._knowledge.total
    mesh.advance(10 * SECOND)
    assert all(invite in mesh[index].authority.records() for index in range(4))
    assert len({mesh[index]._knowledge.total for index in range(4)}) == 1


def test_a_life_that_changes_later_is_each_ones_own_news() -> None:
    """The tables of members are shared in the same way."""
    mesh = _mesh()
    before = mesh[0].members.incarnation(mesh.id(1))
    mesh.give(1, AddressesChanged((address_of(9),)))
    assert mesh[1].members.incarnation(mesh.id(1)) == before + 1
    for index in (0, 2, 3):
        assert mesh[index].members.incarnation(mesh.id(1)) == before
        assert mesh[index]._knowledge.total != mesh[1]._knowledge.total
    mesh.advance(10 * SECOND)
    for index in range(4):
        assert mesh[index].members.incarnation(mesh.id(1)) == before + 1
        total = mesh[index]._knowledge.total
        mesh[index]._knowledge.rebuild()
        assert mesh[index]._knowledge.total == total == mesh[0]._knowledge.total


def test_who_is_acquainted_is_read_at_once() -> None:
    """No datagram is dropped, and no challenge sent."""
    mesh = Mesh(4)
    numbers = {machine.id: machine.index for machine in mesh.machines}

    def meet(asker: int, peer: NodeId) -> tuple[Address, bytes]:
        other = numbers[peer]
        token = mesh[other].envelope.token_for(mesh.id(asker), mesh.machines[asker].address)
        return mesh.machines[other].address, token

    for machine in mesh.machines:
        mesh.boot(machine.index).envelope.begin_acquainted(functools.partial(meet, machine.index))
    for machine in mesh.machines:
        mesh.give(machine.index, Started((machine.address,)))
    for index in (1, 2, 3):
        mesh.exchange(0, index)
    mesh.advance(10 * SECOND)
    assert mesh.is_one()
    assert [machine.drops() for machine in mesh.machines] == [[]] * 4


def test_checked_records_are_shared_within_limits() -> None:
    """The oldest goes, and would be checked again."""
    mesh = Mesh(2)
    records = Records(capacity=2)
    known = mesh.boot(0).authority.records()
    for record in known[:3]:
        records.trust(record)
    assert records.find(known[0].wire) is None
    assert records.find(known[2].wire) is known[2]
