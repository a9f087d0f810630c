"""The outside of a datagram: who, fresh, sealed."""

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.crypto import SodiumCrypto
from protocol.envelope import (
    CHALLENGE_BYTES,
    DATAGRAM_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Envelope,
    Opened,
    Received,
    Told,
    Unintroduced,
    Unproven,
)
from protocol.errors import DropReason, Refused
from protocol.identity import Address, MeshId, NodeId, short_id
from protocol.sessions import TRIED_MAX, WINDOW_BITS, Session
from tests.helpers.nodes import seed_of
from tests.helpers.strategies import MESH

HOME, AWAY = Address("10.0.0.1", 7700), Address("10.9.9.9", 1234)
PEER = Address("10.0.0.2", 7700)


@dataclasses.dataclass
class End:
    """One end of a pair, with its boots."""

    name: str
    address: Address
    boot: int = 100
    mesh: MeshId = MESH

    def __post_init__(self) -> None:
        self.crypto = SodiumCrypto(seed_of("end", self.name))
        self.restart()

    @property
    def id(self) -> NodeId:
        """Its key."""
        return self.crypto.node_id

    def restart(self, *, older: bool = False) -> None:
        """A new boot: nothing is remembered; `older`: the disk or the clock went back."""
        self.boot += -5 if older else 10
        secret = seed_of(self.name, self.boot)
        self.envelope = Envelope(self.crypto, self.mesh, self.boot, secret)

    def seal(self, peer: "End", payload: bytes = b"payload") -> bytes:
        """A datagram to the peer."""
        data = self.envelope.seal(peer.id, payload)
        assert data is not None
        return data

    def open(self, data: bytes, sender: "End", source: Address | None = None) -> Received:
        """Read a datagram of the sender's."""
        assert self.envelope.sender_of(data) == short_id(sender.id)
        return self.envelope.open(data, source or sender.address, sender.id)

    def refuses(self, data: bytes, sender: "End", source: Address | None = None) -> DropReason:
        """Why it does not read a datagram."""
        with pytest.raises(Refused) as caught:
            self.open(data, sender, source)
        return caught.value.reason


def _pair() -> tuple[End, End]:
    """Two ends that have told each other their tokens."""
    a, b = End("a", HOME), End("b", PEER)
    for one, other in ((a, b), (b, a)):
        _introduce(one, other)
    return a, b


def _introduce(one: End, other: End) -> None:
    unproven = other.open(one.seal(other), one)
    assert isinstance(unproven, Unproven)
    assert isinstance(one.open(unproven.challenge, other), Told)
    assert isinstance(other.open(one.seal(other), one), Opened)


def _text(received: Received) -> bytes:
    assert isinstance(received, Opened)
    return received.payload.rstrip(b"\xc0")


@given(st.binary(max_size=PAYLOAD_BYTES_MAX).filter(lambda p: not p.endswith(b"\xc0")))
def test_payloads_arrive_whole(payload: bytes) -> None:
    """open(seal(p)) == p, within the datagram's limit and never shorter than a challenge."""
    a, b = _pair()
    data = a.seal(b, payload)
    assert CHALLENGE_BYTES <= len(data) <= DATAGRAM_BYTES_MAX
    assert _text(b.open(data, a)) == payload


def test_the_first_datagram_is_challenged_and_sent_again() -> None:
    """Nothing is read before the sender has proven its address; what it said is not lost."""
    a, b = End("a", HOME), End("b", PEER)
    first = a.seal(b, b"first")
    unproven = b.open(first, a)
    assert isinstance(unproven, Unproven)
    assert unproven.reason is DropReason.UNPROVEN
    told = a.open(unproven.challenge, b)
    assert told == Told(b.id, b"first")
    assert b.envelope.proven_address(a.id) is None
    assert _text(b.open(a.seal(b, b"again"), a)) == b"again"
    assert b.envelope.proven_address(a.id) == HOME


def test_a_challenge_proves_no_address_that_was_not_asked() -> None:
    """A member reads at its own address and answers as if from a stranger's: nothing is proven."""
    a, b = End("a", HOME), End("b", PEER)
    first = a.envelope.seal(b.id, b"first", to=PEER)
    assert first is not None
    unproven = b.open(first, a)
    assert isinstance(unproven, Unproven)
    told = a.open(unproven.challenge, b, source=AWAY)
    assert isinstance(told, Told)
    assert a.envelope.proven_address(b.id) is None
    assert not a.envelope.is_read_at(b.id, AWAY)


class TestTellingWithoutBeingAsked:
    """Who was told a token may tell its own at once, in what it seals next."""

    def test_it_is_due_until_the_peer_is_heard(self) -> None:
        """Not before the peer has told its token, nor after it has been heard since."""
        a, b = End("a", HOME), End("b", PEER)
        assert a.envelope.token_due(b.id, PEER) is None
        unproven = b.open(a.seal(b), a)
        assert isinstance(unproven, Unproven)
        assert a.envelope.token_due(b.id, PEER) is None
        a.open(unproven.challenge, b)
        token = a.envelope.token_due(b.id, PEER)
        assert token == a.envelope.token_for(b.id, PEER)
        b.envelope.take_token(a.id, token)
        assert isinstance(a.open(b.seal(a), b), Opened)
        assert a.envelope.token_due(b.id, PEER) is None

    def test_it_proves_no_other_address(self) -> None:
        """Told for one place, it is not the one that is wanted from another."""
        a, b = _pair()
        b.envelope.take_token(a.id, a.envelope.token_for(b.id, PEER))
        unproven = a.open(b.seal(a), b, AWAY)
        assert isinstance(unproven, Unproven)
        assert a.envelope.proven_address(b.id) == PEER

    def test_a_late_one_is_known_as_such(self) -> None:
        """So that a token of before does not take the place of a later one."""
        a, b = _pair()
        early, late = a.seal(b), a.seal(b)
        newest, overtaken = b.open(late, a), b.open(early, a)
        assert isinstance(newest, Opened)
        assert isinstance(overtaken, Opened)
        assert newest.is_newest
        assert not overtaken.is_newest

    def test_what_is_repeated_is_not_kept(self) -> None:
        """And what waited before stays."""
        a, b = End("a", HOME), End("b", PEER)
        assert a.envelope.seal(b.id, b"ack") is not None
        again = a.envelope.seal(b.id, b"ping", is_repeated=True)
        assert again is not None
        unproven = b.open(again, a)
        assert isinstance(unproven, Unproven)
        assert a.open(unproven.challenge, b) == Told(b.id, b"ack")


def test_what_was_tried_is_remembered_within_limits() -> None:
    """The last few datagrams to unproven addresses; a challenge of one of them proves its own."""
    a, b = End("a", HOME), End("b", PEER)
    datagrams = [a.envelope.seal(b.id, b"", to=PEER) for _ in range(TRIED_MAX + 5)]
    session = a.envelope.session(b.id)
    assert session is not None
    assert session.tried is not None
    assert len(session.tried) == TRIED_MAX
    last = datagrams[-1]
    assert last is not None
    unproven = b.open(last, a)
    assert isinstance(unproven, Unproven)
    assert isinstance(a.open(unproven.challenge, b), Told)
    assert a.envelope.proven_address(b.id) == PEER


def test_a_challenge_is_never_longer_than_its_cause() -> None:
    """Not for the shortest datagram that earns one, known sender or not."""
    a, b = End("a", HOME), End("b", PEER)
    shortest = a.seal(b, b"")
    for answer in (b.open(shortest, a), b.envelope.refuse_unknown(shortest, HOME)):
        assert isinstance(answer, Unproven)
        assert len(answer.challenge) <= len(shortest)
    with pytest.raises(Refused) as caught:
        b.envelope.sender_of(shortest[:-1])
    assert caught.value.reason is DropReason.TOO_SHORT


def test_only_true_datagrams_of_members_are_challenged() -> None:
    """Knowing a member's short id is not enough to make a node send something."""
    a, b = End("a", HOME), End("b", PEER)
    data = a.seal(b)
    for index in range(14, len(data)):  # from the boot on
        forged = data[:index] + bytes((data[index] ^ 1,)) + data[index + 1 :]
        assert b.refuses(forged, a) is DropReason.BAD_SEAL


def test_replays_die() -> None:
    """Each counter is read once."""
    a, b = _pair()
    data = a.seal(b)
    assert isinstance(b.open(data, a), Opened)
    assert b.refuses(data, a) is DropReason.REPLAYED
    assert b.refuses(data, a, AWAY) is DropReason.REPLAYED


def test_the_windows_edges() -> None:
    """The last 64 counters may come in any order, each once; the 65th is too old to tell."""
    a, b = _pair()
    data = [a.seal(b, bytes((n,))) for n in range(WINDOW_BITS + 1)]
    assert isinstance(b.open(data[-1], a), Opened)
    assert b.refuses(data[0], a) is DropReason.REPLAYED
    for late in reversed(data[1:-1]):
        assert isinstance(b.open(late, a), Opened)
    for late in data:
        assert b.refuses(late, a) is DropReason.REPLAYED


@given(st.lists(st.integers(1, 200), max_size=60))
def test_the_window_is_exact(counters: list[int]) -> None:
    """A counter counts as seen if it was, or if it is 64 or more behind the highest."""
    session = Session(bytes(32))
    seen: list[int] = []
    for counter in counters:
        too_old = bool(seen) and counter <= max(seen) - WINDOW_BITS
        assert session.is_replay(5, counter) is (counter in seen or too_old)
        if not session.is_replay(5, counter):
            session.note(5, counter)
            seen.append(counter)


def test_far_jumps_of_the_counter_clear_the_window() -> None:
    """A jump over the whole window forgets what was in it, and holds no giant number."""
    session = Session(bytes(32))
    session.note(5, 1)
    session.note(5, 2**60)
    assert session.window == 1
    assert session.is_replay(5, 1)
    assert not session.is_replay(5, 2**60 - 1)


def test_recordings_die_with_the_receivers_restart() -> None:
    """Its secret is another one: old datagrams are challenged, not read."""
    a, b = _pair()
    recorded = a.seal(b)
    b.restart()
    assert isinstance(b.open(recorded, a), Unproven)
    assert isinstance(b.open(recorded, a, AWAY), Unproven)


def test_recordings_die_with_the_senders_restart() -> None:
    """Once its new boot was heard, the old one is challenged, which only the living can answer."""
    a, b = _pair()
    recorded = a.seal(b)
    a.restart()
    _introduce(a, b)
    for source in (HOME, AWAY):
        unproven = b.open(recorded, a, source)
        assert isinstance(unproven, Unproven)
        assert unproven.reason is DropReason.OLD_BOOT
        assert a.refuses(unproven.challenge, b) is DropReason.BAD_CHALLENGE
    assert _text(b.open(a.seal(b, b"still here"), a)) == b"still here"


def test_a_home_with_an_older_disk_comes_back() -> None:
    """Its boot is lower than before: it proves that it lives, and its other life's words die."""
    a, b = _pair()
    young = a.seal(b, b"from the life with the higher boot")
    a.restart(older=True)
    first = b.open(a.seal(b, b"it is me"), a)
    assert isinstance(first, Unproven)
    assert first.reason is DropReason.OLD_BOOT
    assert isinstance(a.open(first.challenge, b), Told)
    answer = a.seal(b, b"it is me")
    assert _text(b.open(answer, a)) == b"it is me"
    assert b.refuses(answer, a) is DropReason.REPLAYED
    assert isinstance(b.open(young, a), Unproven)
    assert _text(b.open(a.seal(b, b"and again"), a)) == b"and again"
    assert isinstance(a.open(b.seal(a), b), Unproven)


def test_a_challenge_of_a_peer_with_an_older_disk_is_taken() -> None:
    """It echoes what was sent after the peer was last heard, so it is no recording."""
    a, b = _pair()
    b.restart(older=True)
    unproven = b.open(a.seal(b), a)
    assert isinstance(unproven, Unproven)
    assert isinstance(a.open(unproven.challenge, b), Told)
    assert _text(b.open(a.seal(b, b"hello"), a)) == b"hello"


def test_recordings_die_when_both_restart_together() -> None:
    """Both directions, before anything new was said: nothing old is read."""
    a, b = _pair()
    recorded = [(a, b, a.seal(b)), (b, a, b.seal(a))]
    a.restart()
    b.restart()
    for sender, receiver, data in recorded:
        assert isinstance(receiver.open(data, sender), Unproven)
    for one, other in ((a, b), (b, a)):
        _introduce(one, other)
    for sender, receiver, data in recorded:
        unproven = receiver.open(data, sender)
        assert isinstance(unproven, Unproven)
        assert unproven.reason is DropReason.OLD_BOOT


def test_a_restarted_peer_is_not_sent_its_old_token() -> None:
    """Once we hear its new boot we know that it forgot us, and keep what we say."""
    a, b = _pair()
    a.restart()
    _introduce(a, b)
    unproven = a.open(b.seal(a, b"kept"), b)
    assert isinstance(unproven, Unproven)
    assert b.open(unproven.challenge, a) == Told(a.id, b"kept")


def test_a_new_address_is_challenged_before_the_old_is_forgotten() -> None:
    """A member that moves proves the new place first."""
    a, b = _pair()
    moved = b.open(a.seal(b), a, AWAY)
    assert isinstance(moved, Unproven)
    assert b.envelope.proven_address(a.id) == HOME
    assert isinstance(a.open(moved.challenge, b), Told)
    assert isinstance(b.open(a.seal(b), a, AWAY), Opened)
    assert b.envelope.proven_address(a.id) == AWAY


def test_a_late_datagram_from_an_old_address_moves_nothing_back() -> None:
    """Only the newest counter says where a member is."""
    a, b = _pair()
    late = a.seal(b)
    moved = b.open(a.seal(b), a, AWAY)
    assert isinstance(moved, Unproven)
    a.open(moved.challenge, b)
    assert isinstance(b.open(a.seal(b), a, AWAY), Opened)
    assert isinstance(b.open(late, a), Opened)
    assert b.envelope.proven_address(a.id) == AWAY


def test_the_port_is_part_of_the_address() -> None:
    """A token for one port is none for another."""
    a, b = _pair()
    assert isinstance(b.open(a.seal(b), a, Address(HOME.host, 7701)), Unproven)


def test_tampered_headers() -> None:
    """Every byte of the header matters."""
    a, b = _pair()
    data = a.seal(b)
    reasons = {
        0: DropReason.BAD_VERSION,
        1: DropReason.BAD_CHALLENGE,
        **dict.fromkeys(range(2, 6), DropReason.FOREIGN_MESH),
    }
    for index in [*range(6), *range(14, 38)]:
        changed = data[:index] + bytes((data[index] ^ 1,)) + data[index + 1 :]
        try:
            b.envelope.sender_of(changed)
            reason = b.refuses(changed, a)
        except Refused as refused:
            reason = refused.reason
        expected = [DropReason.BAD_SEAL, DropReason.OLD_BOOT, DropReason.REPLAYED]
        assert reason in ([reasons[index]] if index in reasons else expected), index


def test_a_third_cannot_speak_for_either() -> None:
    """Another's short id on it, or sealed for another: the pair's key does not fit."""
    a, b = _pair()
    c = End("c", AWAY)
    own = c.seal(b)
    as_a = own[:6] + short_id(a.id) + own[14:]
    assert b.refuses(as_a, a, HOME) is DropReason.BAD_SEAL
    assert b.refuses(a.seal(c), a) is DropReason.BAD_SEAL


def test_nothing_returns_to_its_sender() -> None:
    """The direction is part of the key: a reflected datagram is not its own answer."""
    a, b = _pair()
    data = a.seal(b)
    reflected = data[:6] + short_id(b.id) + data[14:]
    assert a.refuses(reflected, b) in (DropReason.BAD_SEAL, DropReason.OLD_BOOT)


def test_the_mesh_is_part_of_the_key() -> None:
    """The same two keys in another mesh with the same tag: nothing opens."""
    a = End("a", HOME)
    b = End("b", PEER, mesh=MeshId(MESH[:4] + bytes(12)))
    assert b.refuses(a.seal(b), a) is DropReason.BAD_SEAL


def test_no_nonce_repeats() -> None:
    """Under one boot every datagram to a peer has its own counter."""
    a, b = _pair()
    counters = [struct.unpack_from(">Q", a.seal(b), 30)[0] for _ in range(100)]
    assert len(dict.fromkeys(counters)) == 100


class TestChallenges:
    """What tells a node which token to use."""

    def _challenge(self, a: End, b: End) -> bytes:
        unproven = b.open(a.seal(b), a, AWAY)
        assert isinstance(unproven, Unproven)
        return unproven.challenge

    def test_each_byte_is_authentic(self) -> None:
        """A changed challenge is refused, whichever byte it is."""
        a, b = _pair()
        challenge = self._challenge(a, b)
        for index in range(14, CHALLENGE_BYTES):
            changed = challenge[:index] + bytes((challenge[index] ^ 1,)) + challenge[index + 1 :]
            assert a.refuses(changed, b) is DropReason.BAD_CHALLENGE
        assert isinstance(a.open(challenge, b), Told)

    def test_a_third_cannot_forge_one(self) -> None:
        """Who sees our datagrams can echo them, but not compute the pair's code."""
        a, b = _pair()
        c = End("c", AWAY)
        data = a.seal(b)
        challenge = c.envelope.refuse_unknown(data, HOME).challenge
        forged = challenge[:6] + short_id(b.id) + challenge[14:-16] + b"\1" * 16
        assert a.refuses(forged, b) is DropReason.BAD_CHALLENGE

    def test_a_stranger_may_ask_for_an_introduction(self) -> None:
        """A code of zeros says only that, and changes nothing."""
        a, b = _pair()
        data = a.seal(b)
        challenge = b.envelope.refuse_unknown(data, HOME).challenge
        assert a.open(challenge, b) == Unintroduced(b.id)
        assert _text(b.open(a.seal(b, b"goes on"), a)) == b"goes on"

    def test_it_must_echo_something_recent_of_this_boot(self) -> None:
        """Old ones, those for an earlier boot, and those for nothing are refused."""
        a, b = _pair()
        old = self._challenge(a, b)
        for _ in range(WINDOW_BITS):
            a.seal(b)
        assert a.refuses(old, b) is DropReason.BAD_CHALLENGE
        recent = self._challenge(a, b)
        a.restart()
        assert a.refuses(recent, b) is DropReason.BAD_CHALLENGE
        (echoed,) = struct.unpack_from(">Q", recent, 30)
        for _ in range(echoed):
            a.seal(b)
        assert a.refuses(recent, b) is DropReason.BAD_CHALLENGE
        nothing_sent = recent[:22] + struct.pack(">QQ", a.boot, 0) + recent[38:46] + bytes(16)
        assert a.refuses(nothing_sent, b) is DropReason.BAD_CHALLENGE

    def test_one_that_tells_nothing_new_is_refused(self) -> None:
        """A repeated challenge does not make us send anything."""
        a, b = _pair()
        challenge = self._challenge(a, b)
        assert isinstance(a.open(challenge, b), Told)
        assert a.refuses(challenge, b) is DropReason.BAD_CHALLENGE

    def test_one_of_an_older_boot_is_refused(self) -> None:
        """A peer that restarted does not take back its old token."""
        a, b = _pair()
        old = self._challenge(a, b)
        b.restart()
        _introduce(a, b)
        _introduce(b, a)
        assert a.refuses(old, b) is DropReason.BAD_CHALLENGE

    def test_its_length_is_exact(self) -> None:
        """A longer one is none."""
        a, b = _pair()
        assert a.refuses(self._challenge(a, b) + b"\0", b) is DropReason.BAD_CHALLENGE

    def test_a_challenge_earns_no_challenge(self) -> None:
        """Two nodes that do not know each other do not answer each other for ever."""
        a, b = _pair()
        challenge = self._challenge(a, b)
        with pytest.raises(Refused) as caught:
            a.envelope.refuse_unknown(challenge, AWAY)
        assert caught.value.reason is DropReason.UNKNOWN_SENDER


def test_sizes_and_versions() -> None:
    """Outside the limits nothing is looked at."""
    b = End("b", PEER)
    for data, reason in (
        (bytes(CHALLENGE_BYTES - 1), DropReason.TOO_SHORT),
        (bytes(DATAGRAM_BYTES_MAX + 1), DropReason.TOO_LONG),
        (b"\2\0" + MESH[:4] + bytes(100), DropReason.BAD_VERSION),
        (b"\1\2" + MESH[:4] + bytes(100), DropReason.BAD_VERSION),
        (b"\1\0" + bytes(104), DropReason.FOREIGN_MESH),
    ):
        with pytest.raises(Refused) as caught:
            b.envelope.sender_of(data)
        assert caught.value.reason is reason


def test_unusable_keys_have_no_sessions() -> None:
    """A member whose key is no point of the curve is neither read nor written to."""
    b = End("b", PEER)
    bad = NodeId(bytes(32))
    assert b.envelope.seal(bad, b"") is None
    assert b.envelope.session(bad) is None
    with pytest.raises(Refused) as caught:
        b.envelope.open(b"\1\0" + MESH[:4] + bytes(100), HOME, bad)
    assert caught.value.reason is DropReason.UNKNOWN_SENDER
    assert b.envelope.proven_address(bad) is None
