"""Where things are sent, and how full."""

from protocol.codec import decode_datagram, encode_datagram
from protocol.config import SECOND
from protocol.effects import SendDatagram
from protocol.envelope import DATAGRAM_BYTES_MAX, Opened
from protocol.events import AddressFound, LeaveRequested, OfferChanged
from protocol.identity import Address
from protocol.messages import Gossip, PushPull
from protocol.statements import make_alive
from tests.helpers.nodes import Insider, Mesh, address_of

GOSSIP = encode_datagram(Gossip())


def _sent(mesh: Mesh, index: int) -> list[Address]:
    return [e.to for e in mesh.machines[index].log if isinstance(e, SendDatagram)]


def _stated(mesh: Mesh, *addresses: Address) -> Insider:
    """Node 1 is an insider that states these addresses, and has proven none."""
    mesh.start(0)
    insider = Insider(mesh, 1)
    alive = make_alive(insider.crypto, mesh.authorities.mesh, 1, "a", addresses, "")
    mesh[0]._membership.accept_alive(alive, mesh.now)
    mesh[0]._outbox.drain()
    mesh.machines[0].log.clear()
    return insider


def test_unproven_members_are_tried_at_all_stated_addresses_in_turn() -> None:
    """One dead interface does not hide a member."""
    mesh = Mesh(2)
    addresses = (address_of(50), address_of(51), address_of(52))
    _stated(mesh, *addresses)
    mesh.advance(3 * SECOND, deliver=False)
    assert list(dict.fromkeys(_sent(mesh, 0))) == list(addresses)


def test_a_proven_address_is_used_alone() -> None:
    """Whatever is stated or hinted beside it."""
    mesh = Mesh(2)
    insider = _stated(mesh, address_of(50), address_of(51))
    insider.tell(0, GOSSIP)
    mesh.give(0, AddressFound(mesh.id(1), address_of(60)))
    mesh.machines[0].log.clear()
    mesh.advance(3 * SECOND, deliver=False)
    assert list(dict.fromkeys(_sent(mesh, 0))) == [insider.address]
    known = mesh[0].address_of(mesh.id(1))
    assert known == (insider.address, address_of(50), address_of(51), address_of(60))


def test_newly_stated_addresses_are_tried_before_the_proven_one() -> None:
    """A member that says it moved is looked for where it says; proving comes again."""
    mesh = Mesh(2)
    insider = _stated(mesh, address_of(50))
    crypto, mesh_id = insider.crypto, mesh.authorities.mesh
    for incarnation, is_proven in ((2, False), (3, True)):
        if is_proven:
            insider.tell(0, GOSSIP)
        moved = address_of(60 + incarnation)
        alive = make_alive(crypto, mesh_id, incarnation, "a", (moved,), "")
        mesh[0]._membership.accept_alive(alive, mesh.now)
        assert mesh[0].address_of(mesh.id(1)) == (moved,)


def test_hints_come_first_for_the_missing() -> None:
    """What mDNS says now is newer than what a dead member once stated."""
    mesh = Mesh(2)
    _stated(mesh, address_of(50))
    mesh.advance(60 * SECOND, deliver=False)
    mesh.give(0, AddressFound(mesh.id(1), address_of(60)))
    assert mesh[0].address_of(mesh.id(1)) == (address_of(60), address_of(50))


def test_no_address_no_datagram() -> None:
    """A member of whom nothing is known is not written to."""
    mesh = Mesh(3)
    mesh.start(0)
    assert mesh[0].address_of(mesh.id(1)) == ()
    mesh[0]._outbox.send(mesh.id(1), Gossip())
    assert not mesh[0]._outbox.open_stream(mesh.id(1), _push())
    assert mesh[0]._outbox.drain() == []


def test_unusable_keys_are_not_written_to() -> None:
    """A member whose key has no pair key gets nothing, and nothing breaks."""
    mesh = Mesh(2)
    insider = _stated(mesh, address_of(50))
    mesh.machines[0].crypto.pair_key = lambda peer: None  # type: ignore[method-assign]  # a stub
    mesh[0]._outbox.send(insider.crypto.node_id, Gossip())
    assert mesh[0]._outbox.drain() == []


def _push() -> PushPull:
    return PushPull(False, (), ())


def test_no_datagram_is_too_long() -> None:
    """Under a storm of large rumours of every class each stays within 1,200 bytes."""
    mesh = Mesh(12).start_all()
    sizes: list[int] = []
    for machine in mesh.machines:
        for number in range(6):
            value = bytes((machine.index, number)) * 350
            mesh.give(machine.index, OfferChanged(f"key-{number}" + "k" * 50, value))
    for index in (3, 5, 7):
        mesh.crash(index)
    mesh.give(4, LeaveRequested())
    mesh.advance(30 * SECOND)
    mesh.start(3)
    mesh.advance(10 * SECOND)
    for machine in mesh.machines:
        sizes += [len(e.data) for e in machine.log if isinstance(e, SendDatagram)]
    assert max(sizes) <= DATAGRAM_BYTES_MAX
    assert max(sizes) > 1_100


def test_goodbyes_go_out_at_once() -> None:
    """Not with the next gossip: the process may have a second to live."""
    mesh = Mesh(3).start_all()
    insider = Insider(mesh, 2)
    mesh.machines[2].node = None
    effects = mesh.give(0, LeaveRequested())
    assert sorted(e.to for e in effects if isinstance(e, SendDatagram)) == [
        address_of(1),
        address_of(2),
    ]
    left = mesh[0].members.gone(mesh.id(0))
    assert left is not None
    assert left.left is not None
    for effect in effects:
        if isinstance(effect, SendDatagram) and effect.to == address_of(1):
            received = mesh[1]._envelope.open(effect.data, address_of(0), mesh.id(0))
            assert isinstance(received, Opened)
            assert left.left.wire in decode_datagram(received.payload)[1]
    assert insider.index == 2


def test_who_speaks_no_version_of_ours_is_sent_nothing() -> None:
    """It could not read a byte of it."""
    mesh = Mesh(2)
    insider = _stated(mesh, address_of(50))
    alive = make_alive(
        insider.crypto, mesh.authorities.mesh, 2, "a", (address_of(50),), "", 0, (2, 3)
    )
    mesh[0]._membership.accept_alive(alive, mesh.now)
    mesh[0]._outbox.drain()
    mesh[0]._outbox.send(mesh.id(1), Gossip())
    assert mesh[0]._outbox.drain() == []
