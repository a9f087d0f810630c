"""The table of members and the rule of what supersedes what."""

import pytest

from protocol.identity import NodeId
from protocol.members import Gone, Members, State, supersedes
from protocol.statements import make_alive, make_left
from protocol.suspicion import Suspicion
from tests.helpers.nodes import address_of
from tests.helpers.strategies import CRYPTOS, MESH

A, S, D, L = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT
LOWER, EQUAL, HIGHER = 4, 5, 6
MATRIX = {
    # new: {known: (lower, equal, higher)}
    A: {A: "nny", S: "nny", D: "nny", L: "nny"},
    S: {A: "nyn", S: "nnn", D: "nnn", L: "nnn"},
    D: {A: "nyn", S: "nyn", D: "nnn", L: "nnn"},
    L: {A: "nyy", S: "nyy", D: "nyy", L: "nny"},
}


@pytest.mark.parametrize("new", list(State))
@pytest.mark.parametrize("known", list(State))
@pytest.mark.parametrize("incarnation", [LOWER, EQUAL, HIGHER])
def test_precedence(new: State, known: State, incarnation: int) -> None:
    """The whole matrix of README.md: 4 x 4 states, lower, equal and higher incarnation."""
    expected = MATRIX[new][known][incarnation - LOWER] == "y"
    assert supersedes(new, incarnation, known, EQUAL) is expected


def test_nothing_supersedes_itself() -> None:
    """What arrives twice changes nothing the second time, so rumours end."""
    for state in State:
        assert not supersedes(state, 5, state, 5)


CRYPTO = CRYPTOS[0]
NODE = CRYPTO.node_id
ALIVE = make_alive(CRYPTO, MESH, 3, "a", (address_of(0),), "")
LEFT = make_left(CRYPTO, MESH, 4)


def test_a_member_comes_and_goes() -> None:
    """Each entry keeps state, incarnation and presence in step."""
    members = Members()
    assert (members.state(NODE), members.incarnation(NODE), NODE in members) == (None, 0, False)
    members.put_alive(ALIVE)
    assert (members.state(NODE), members.incarnation(NODE), NODE in members) == (A, 3, True)
    members.suspicions[NODE] = Suspicion(3, 0, 1, 6, 1, 0)
    assert members.state(NODE) is S
    assert members.is_present(NODE)
    members.put_gone(NODE, Gone(D, 3, 7, None))
    assert (members.state(NODE), members.present(), members.missing()) == (D, [], [NODE])
    assert not members.suspicions
    members.put_gone(NODE, Gone(L, 4, 8, LEFT))
    assert (members.state(NODE), members.incarnation(NODE)) == (L, 4)
    assert members.present_count == 0
    assert len(members) == 1
    members.put_alive(ALIVE)
    assert (members.state(NODE), members.present_count) == (A, 1)
    members.remove(NODE)
    assert (members.state(NODE), members.all(), NODE in members) == (None, [], False)


def test_acquaintances_are_looked_for_but_not_seen() -> None:
    """A remembered life gives an address, not a member."""
    members = Members()
    members.acquaintances[NODE] = ALIVE
    assert members.state(NODE) is None
    assert NODE not in members
    assert members.missing() == [NODE]
    assert members.last_known(NODE) is ALIVE
    members.put_alive(ALIVE)
    assert members.missing() == []


def test_gone_before_ever_seen() -> None:
    """A goodbye may come before the life that it ended."""
    members = Members()
    other = NodeId(b"x" * 32)
    members.put_alive(make_alive(CRYPTOS[1], MESH, 1, "b", (address_of(1),), ""))
    members.put_gone(NODE, Gone(L, 4, 8, LEFT))
    assert NODE in members
    assert members.present_count == 1
    assert members.all() == [CRYPTOS[1].node_id, NODE]
    assert members.gone(NODE) is not None
    assert members.gone(other) is None
    members.put_past(ALIVE)
    assert members.state(NODE) is L
    assert members.alive_record(NODE) is ALIVE
