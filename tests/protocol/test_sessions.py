"""So many peers are remembered; who was forgotten is met anew, as safely as the first time."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.crypto import SodiumCrypto
from protocol.envelope import Envelope, Opened, Received, Told, Unproven
from protocol.errors import DropReason, Refused
from protocol.identity import Address, NodeId
from protocol.sessions import WINDOW_BITS, Sessions
from tests.helpers.nodes import address_of, seed_of
from tests.helpers.strategies import MESH

PEERS = [NodeId(bytes((number,)) * 32) for number in range(4)]


class End:
    """One node's envelope at one address."""

    def __init__(self, number: int, sessions_max: int = 8) -> None:
        self.crypto = SodiumCrypto(seed_of("sessions", number))
        self.id = self.crypto.node_id
        self.address = address_of(number)
        secret = seed_of("sessions", "secret", number)
        self.envelope = Envelope(self.crypto, MESH, 7, secret, sessions_max=sessions_max)

    def seal(self, peer: "End") -> bytes:
        """A datagram to the peer."""
        data = self.envelope.seal(peer.id, b"payload")
        assert data is not None
        return data

    def open(self, data: bytes, sender: "End") -> Received:
        """Read a datagram of the sender's."""
        return self.envelope.open(data, sender.address, sender.id)

    def is_read(self, data: bytes, sender: "End") -> bool:
        """Whether it reads this one; a challenge is carried back."""
        received = self.open(data, sender)
        if isinstance(received, Unproven):
            assert isinstance(sender.open(received.challenge, self), Told)
        return isinstance(received, Opened)


def _counter(data: bytes) -> int:
    counter: int = struct.unpack_from(">Q", data, 30)[0]
    return counter


@given(st.lists(st.integers(0, 3), max_size=30))
def test_the_least_recently_used_is_forgotten(uses: list[int]) -> None:
    """Never more than the most, and always those that were used last."""
    sessions = Sessions(2)
    recent: list[NodeId] = []
    for peer in (PEERS[number] for number in uses):
        if sessions.find(peer) is None:
            sessions.make(peer, bytes(32))
        sessions.note_use(peer)
        recent = [*(other for other in recent if other != peer), peer][-2:]
        assert len(sessions) == len(recent)
        assert all(sessions.find(other) is not None for other in recent)


def test_no_counter_comes_twice() -> None:
    """However often two peers push each other out of a table with room for one."""
    one, others = End(0, sessions_max=1), [End(1), End(2)]
    counters = [_counter(one.seal(others[turn % 2])) for turn in range(20)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(counters)]
    assert min(gaps) > WINDOW_BITS  # nor does an old challenge echo a recent one


def test_who_was_forgotten_is_met_anew() -> None:
    """One challenge each way, then datagrams are read as before."""
    one, near, far = End(0, sessions_max=1), End(1), End(2)
    assert not one.is_read(near.seal(one), near)
    assert one.is_read(near.seal(one), near)
    one.seal(far)
    assert not one.is_read(near.seal(one), near)
    assert one.is_read(near.seal(one), near)
    assert not near.is_read(one.seal(near), one)
    assert near.is_read(one.seal(near), one)


def test_what_a_forgotten_peer_said_is_not_read_again() -> None:
    """Its counters are forgotten, but the token that it showed is void."""
    one, near, far = End(0, sessions_max=1), End(1), End(2)
    one.is_read(near.seal(one), near)
    recorded = near.seal(one)
    assert one.is_read(recorded, near)
    one.seal(far)
    answer = one.open(recorded, near)
    assert isinstance(answer, Unproven)
    assert answer.reason is DropReason.UNPROVEN


def test_who_begins_acquainted_needs_no_challenge() -> None:
    """The token is the one that the peer wants; whoever is not there is a stranger as ever."""
    one, near, far = End(0), End(1), End(2)

    def meet(peer: NodeId) -> tuple[Address, bytes] | None:
        if peer != near.id:
            return None
        return near.address, near.envelope.token_for(one.id, one.address)

    one.envelope.begin_acquainted(meet)
    assert near.is_read(one.seal(near), one)
    assert one.envelope.is_read_at(near.id, near.address)
    assert near.envelope.token_for(one.id, one.address) == meet(near.id)[1]  # type: ignore[index]
    assert not far.is_read(one.seal(far), one)


def test_a_challenge_from_before_is_refused() -> None:
    """It echoes a counter of a session that was forgotten."""
    one, near, far = End(0, sessions_max=1), End(1), End(2)
    unproven = near.open(one.seal(near), one)
    assert isinstance(unproven, Unproven)
    one.seal(far)
    one.seal(near)
    with pytest.raises(Refused) as caught:
        one.open(unproven.challenge, near)
    assert caught.value.reason is DropReason.BAD_CHALLENGE
