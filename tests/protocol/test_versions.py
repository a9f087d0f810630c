"""Nodes that speak different ranges of protocol versions in one mesh."""

import itertools

import pytest

from protocol.codec import decode_stream
from protocol.config import SECOND
from protocol.effects import Effect, MembershipChanged, OpenStream, SendDatagram
from protocol.errors import DropReason
from protocol.identity import Address
from protocol.members import State
from protocol.messages import StreamProbe
from protocol.versions import common_version
from tests.helpers.nodes import Mesh

SPOKEN = ((1, 1), (1, 2), (2, 2), (1, 3))
"""Lowest and highest version of each machine."""
USED = {(0, 1): 1, (0, 2): None, (0, 3): 1, (1, 2): 2, (1, 3): 2, (2, 3): 2}
"""What each pair uses; None: they have no version in common."""
PAIRS = tuple(itertools.permutations(range(len(SPOKEN)), 2))
APART = ((0, 2), (2, 0))


def _used(one: int, other: int) -> int | None:
    return USED[min(one, other), max(one, other)]


def _mesh() -> Mesh:
    """Everybody has exchanged with everybody, and then half a minute passes."""
    mesh = Mesh(len(SPOKEN), versions=SPOKEN).start_all()
    mesh.advance(30 * SECOND)
    return mesh


def _sealed_to(mesh: Mesh, address: Address, effects: list[Effect]) -> list[bytes]:
    """Sealed datagrams (type 0) to an address."""
    sent = [e for e in effects if isinstance(e, SendDatagram) and e.to == address]
    return [e.data for e in sent if e.data[1] == 0]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_highest_common_version_is_used(one: int, other: int) -> None:
    """By either side, whoever's range is the wider; None when the ranges do not meet."""
    assert common_version(SPOKEN[other], SPOKEN[one]) == _used(one, other)


def test_it_is_the_first_byte_of_each_datagram() -> None:
    """Per pair, once lives are known; without a common version nothing is sent."""
    mesh = _mesh()
    for one, other in PAIRS:
        log, address = mesh.machines[one].log, mesh.machines[other].address
        seen = {data[0] for data in _sealed_to(mesh, address, log)}
        assert seen == ({_used(one, other)} - {None})


def test_everybody_is_alive_for_everybody() -> None:
    """Also who cannot talk to each other: nobody was suspected for a moment."""
    mesh = _mesh()
    assert mesh.is_one()
    for machine in mesh.machines:
        assert not [effect for effect in machine.log if isinstance(effect, MembershipChanged)]


def test_without_a_common_version_nobody_is_probed_or_accused() -> None:
    """Neither by datagram nor by stream, and nothing is held against the other."""
    mesh = _mesh()
    for one, other in APART:
        machine = mesh.machines[one]
        assert not _sealed_to(mesh, mesh.machines[other].address, machine.log)
        for effect in machine.log:
            if isinstance(effect, OpenStream) and effect.peer == mesh.id(other):
                assert not isinstance(decode_stream(effect.data), StreamProbe)
        assert mesh[one]._membership.accusation_of(mesh.id(other)) is None
        assert mesh[one].round_trip_ns(mesh.id(other)) is None


def test_a_death_is_heard_of_without_a_common_version() -> None:
    """Who cannot probe a member believes those who can, after his own time-out."""
    mesh = _mesh()
    mesh.crash(2)
    accusers: set[bytes] = set()
    for _ in range(120):
        mesh.advance(SECOND // 2)
        suspicion = mesh[0].members.suspicions.get(mesh.id(2))
        accusers.update(suspicion.accusers if suspicion is not None else ())
    assert mesh.state(0, 2) is State.DEAD
    assert accusers
    assert accusers <= {mesh.id(1), mesh.id(3)}


def test_datagrams_are_read_wherever_there_is_a_common_version() -> None:
    """A challenge is in a version that its receiver reads: so tokens are told, and pings answered.

    Were it not so, probes would be saved by the stream alone, and nobody would seem dead.
    """
    mesh = _mesh()
    for one, other in PAIRS:
        if _used(one, other) is not None:
            assert mesh[one].round_trip_ns(mesh.id(other)) is not None
    for machine in mesh.machines:
        assert DropReason.BAD_VERSION not in machine.drops()
        assert DropReason.UNPROVEN not in machine.drops()
