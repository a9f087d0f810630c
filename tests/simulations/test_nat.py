"""What address translators let through (RFC 3489)."""

import pytest

from protocol.config import SECOND
from protocol.identity import Address
from simulations.nat import KEPT_NS, Nat, NatKind

OWN = Address("10.0.0.1", 7700)
PEER = Address("10.0.0.2", 7700)
ITS_OTHER_PORT = Address("10.0.0.2", 7701)
STRANGER = Address("10.0.0.3", 7700)


@pytest.mark.parametrize(
    ("kind", "gets_in"),
    [
        (NatKind.FULL_CONE, [PEER, ITS_OTHER_PORT, STRANGER]),
        (NatKind.RESTRICTED, [PEER, ITS_OTHER_PORT]),
        (NatKind.PORT_RESTRICTED, [PEER]),
        (NatKind.SYMMETRIC, [PEER]),
    ],
)
def test_who_gets_in(kind: NatKind, gets_in: list[Address]) -> None:
    """Nobody before a datagram went out, then as the class says, until it is forgotten."""
    nat = Nat(kind)
    everybody = [PEER, ITS_OTHER_PORT, STRANGER]
    assert not any(nat.lets_in(OWN, OWN, source, 0) for source in everybody)
    seen = nat.send(OWN, PEER, SECOND)
    assert [one for one in everybody if nat.lets_in(OWN, seen, one, 2 * SECOND)] == gets_in
    late = SECOND + KEPT_NS + 1
    assert not any(nat.lets_in(OWN, seen, source, late) for source in everybody)


def test_only_a_symmetric_one_shows_everybody_another_port() -> None:
    """The same one to the same peer."""
    for kind in NatKind:
        nat = Nat(kind)
        ports = [nat.send(OWN, to, 0).port for to in (PEER, STRANGER, PEER)]
        assert ports[0] == ports[2]
        assert (ports[0] != ports[1]) == (kind is NatKind.SYMMETRIC)


def test_a_symmetric_one_lets_nobody_in_at_anothers_port() -> None:
    """A mapping is for one peer."""
    nat = Nat(NatKind.SYMMETRIC)
    to_peer, to_stranger = nat.send(OWN, PEER, 0), nat.send(OWN, STRANGER, 0)
    assert nat.lets_in(OWN, to_peer, PEER, 1)
    assert not nat.lets_in(OWN, to_stranger, PEER, 1)
    assert not nat.lets_in(OWN, OWN, PEER, 1)
