"""Probing: direct, through helpers, and what nobody can fake."""

import itertools

import pytest

from protocol.codec import decode_datagram, encode_datagram
from protocol.config import SECOND
from protocol.effects import LoadLearned, MembershipChanged, SendDatagram
from protocol.envelope import Opened, Unproven
from protocol.errors import DropReason
from protocol.events import DeadlineReached, LoadChanged, Resumed
from protocol.identity import Address, NodeId
from protocol.members import State
from protocol.messages import (
    Ack,
    DatagramMessage,
    Gossip,
    Load,
    Origin,
    Ping,
    PingRequest,
    RelayedAck,
)
from protocol.helper import RELAYS_MAX
from tests.helpers.nodes import Insider, Mesh, Parcel, drops_in

STEP = SECOND // 20


class Tap:
    """An insider in the place of a machine: reads what is sent there, answers as told."""

    def __init__(self, mesh: Mesh, index: int) -> None:
        mesh.machines[index].node = None
        self.mesh = mesh
        self.insider = Insider(mesh, index)

    def introduce(self, *to: int) -> None:
        """Prove our address to machines, and let them prove theirs."""
        for index in to:
            self.insider.tell(index, encode_datagram(Gossip()), self.insider.alive(50).wire)

    def take(self) -> list[tuple[int, DatagramMessage]]:
        """What has been sent here: (from, message); unproven senders are challenged."""
        found: list[tuple[int, DatagramMessage]] = []
        mine = [p for p in self.mesh.post if p.to == self.insider.address]
        self.mesh.post = [p for p in self.mesh.post if p.to != self.insider.address]
        for parcel in mine:
            found += self._read(parcel)
        return found

    def _read(self, parcel: Parcel) -> list[tuple[int, DatagramMessage]]:
        sender = next(m for m in self.mesh.machines if m.address == parcel.source)
        received = self.insider.envelope.open(parcel.data, parcel.source, sender.id)
        if isinstance(received, Unproven):
            challenge = Parcel(self.insider.address, parcel.source, received.challenge)
            self.mesh.hand_over(challenge)
            return self.take()
        if isinstance(received, Opened):
            return [(sender.index, decode_datagram(received.payload)[0])]
        return []

    def say(self, to: int, message: DatagramMessage) -> list[DropReason]:
        """Send a message; returns what was refused."""
        return drops_in(self.insider.tell(to, encode_datagram(message)))


def _tapped(size: int, *tapped: int) -> tuple[Mesh, list[Tap]]:
    """A mesh that knows all its members alive; the tapped ones are ours."""
    mesh = Mesh(size).start_all()
    taps = [Tap(mesh, index) for index in tapped]
    for tap in taps:
        tap.introduce(*[i for i in range(size) if i not in tapped])
        mesh.settle()
    return mesh, taps


def _run(mesh: Mesh, duration: int) -> None:
    """Let time pass in small steps, delivering between real nodes only."""
    for _ in range(duration // STEP):
        mesh.now += STEP
        for machine in mesh.machines:
            while machine.node is not None and machine.node.deadline <= mesh.now:
                mesh.give(machine.index, DeadlineReached())
        mesh.requests.clear()
        taps = [m.address for m in mesh.machines if m.node is None]
        kept = [p for p in mesh.post if p.to in taps]
        mesh.post = [p for p in mesh.post if p.to not in taps]
        while mesh.post:
            mesh.hand_over(mesh.post.pop(0))
            kept += [p for p in mesh.post if p.to in taps]
            mesh.post = [p for p in mesh.post if p.to not in taps]
        mesh.post = kept


def _pings(tap: Tap, sender: int) -> list[Ping]:
    return [m for s, m in tap.take() if s == sender and isinstance(m, Ping)]


def test_everybody_is_probed_once_per_pass() -> None:
    """Round-robin in a shuffled order: in any N intervals each other member is pinged."""
    mesh = Mesh(6).start_all()
    mesh.advance(5 * SECOND)
    counts = dict.fromkeys((m.address for m in mesh.machines), 0)
    own_ping: list[tuple[Address, int]] = []
    original = mesh.hand_over

    def spy(parcel: Parcel) -> object:
        own_ping.append((parcel.to, mesh.now))
        return original(parcel)

    mesh.hand_over = spy  # type: ignore[method-assign, assignment]  # a spy on one mesh
    mesh.advance(5 * SECOND)
    for to, _ in own_ping:
        counts[to] += 1
    assert all(count >= 5 for count in counts.values())


def test_an_answer_in_time_keeps_a_member_alive() -> None:
    """An ack with the right number, from the right key."""
    mesh, (tap,) = _tapped(2, 1)
    mesh.give(0, LoadChanged(Load(1, 2, 3)))
    for _ in range(20):
        _run(mesh, SECOND // 2)
        for ping in _pings(tap, 0):
            assert ping.load == Load(1, 2, 3)
            assert tap.say(0, Ack(ping.sequence, Load(4, 5, 6))) == []
    assert mesh.state(0, 1) is State.ALIVE
    assert mesh[0].round_trip_ns(mesh.id(1)) is not None
    assert LoadLearned(mesh.id(1), Load(4, 5, 6)) in mesh.machines[0].log


def test_silence_is_suspected_no_earlier_than_the_end_of_the_interval() -> None:
    """One probe lasts one interval; then the verdict, and death after the suspicion."""
    mesh, (tap,) = _tapped(2, 1)
    while not _pings(tap, 0):
        _run(mesh, STEP)
    started = mesh.now
    while mesh.state(0, 1) is State.ALIVE:
        _run(mesh, STEP)
    assert SECOND - STEP <= mesh.now - started <= SECOND + STEP
    _run(mesh, 5 * SECOND)
    assert mesh.state(0, 1) is State.DEAD


def test_wrong_answers_are_nobodys() -> None:
    """Another number, an answer to nothing, an unasked relayed ack: unexpected."""
    mesh, (tap,) = _tapped(2, 1)
    _run(mesh, SECOND)
    assert tap.say(0, Ack(12345, None)) == [DropReason.UNEXPECTED]
    assert tap.say(0, RelayedAck(12345, mesh.id(1), bytes(64))) == [DropReason.UNEXPECTED]
    _run(mesh, 7 * SECOND)
    assert mesh.state(0, 1) is State.DEAD


def test_a_second_answer_is_no_new_round_trip() -> None:
    """Only the first ack of a probe is measured."""
    mesh, (tap,) = _tapped(2, 1)
    pings: list[Ping] = []
    while not pings:
        _run(mesh, STEP)
        pings = _pings(tap, 0)
    tap.say(0, Ack(pings[-1].sequence, None))
    measured = mesh[0].round_trip_ns(mesh.id(1))
    mesh.now += SECOND // 4
    assert tap.say(0, Ack(pings[-1].sequence, None)) == []
    assert mesh[0].round_trip_ns(mesh.id(1)) == measured


def _until_asked(mesh: Mesh, target: Tap, helper: Tap) -> PingRequest:
    """Let node 0 find the target silent and ask the helper."""
    for _ in range(200):
        _run(mesh, STEP)
        for sender, message in helper.take():
            if sender == 0 and isinstance(message, Ping):
                helper.say(0, Ack(message.sequence, None))
            match sender, message:
                case 0, PingRequest(target=asked) if asked == target.insider.crypto.node_id:
                    return PingRequest(message.sequence, asked)
    raise AssertionError("no helper was asked")


class TestHelpers:
    """Indirect probes."""

    def test_a_targets_signature_through_a_helper_saves_it(self) -> None:
        """The helper brings what only the target can sign for this probe."""
        mesh, (helper, target) = _tapped(3, 1, 2)
        request = _until_asked(mesh, target, helper)
        proof = _proof(mesh, target, mesh.id(0), request.sequence)
        assert helper.say(0, RelayedAck(request.sequence, request.target, proof)) == []
        _run(mesh, SECOND // 2)
        assert mesh.state(0, 2) is State.ALIVE

    def test_a_helper_cannot_invent_an_answer(self) -> None:
        """Its own signature, a proof for another probe, or for another prober: refused."""
        mesh, (helper, target) = _tapped(3, 1, 2)
        request = _until_asked(mesh, target, helper)
        for proof in (
            bytes(64),
            _proof(mesh, helper, mesh.id(0), request.sequence),
            _proof(mesh, target, mesh.id(0), request.sequence - 1),
            _proof(mesh, target, mesh.id(1), request.sequence),
        ):
            answer = RelayedAck(request.sequence, request.target, proof)
            assert helper.say(0, answer) == [DropReason.UNEXPECTED]
        _run(mesh, 7 * SECOND)
        assert mesh.state(0, 2) is State.DEAD

    def test_numbers_cannot_be_foreseen(self) -> None:
        """Nobody can collect proofs for probes to come while the target still lives."""
        mesh, (tap,) = _tapped(2, 1)
        numbers: list[int] = []
        for _ in range(40):
            _run(mesh, SECOND // 4)
            for ping in _pings(tap, 0):
                numbers.append(ping.sequence)
                tap.say(0, Ack(ping.sequence, None))
        steps = [b - a for a, b in itertools.pairwise(dict.fromkeys(numbers))]
        assert len(steps) > 5
        assert min(map(abs, steps)) > 2**30

    def test_a_real_helper_pings_and_passes_on(self) -> None:
        """Node 0 does not reach node 2, node 1 does: node 2 stays alive."""
        mesh = Mesh(3).start_all()
        two = mesh.machines[2].address
        one_way = {(mesh.machines[0].address, two), (two, mesh.machines[0].address)}
        original = mesh.hand_over

        def cut(parcel: Parcel) -> object:
            return None if (parcel.source, parcel.to) in one_way else original(parcel)

        mesh.hand_over = cut  # type: ignore[method-assign, assignment]  # a cut wire
        for _ in range(30):
            mesh.advance(SECOND)
            mesh.requests.clear()
            assert mesh.state(0, 2) is State.ALIVE
        assert mesh[0].round_trip_ns(mesh.id(2)) is None or mesh.state(2, 0) is State.ALIVE

    def test_helping_with_nobody_is_refused(self) -> None:
        """Strangers, the gone, and the asker itself are no targets."""
        mesh, (tap,) = _tapped(2, 1)
        for target in (NodeId(bytes(32)), mesh.id(1)):
            assert tap.say(0, PingRequest(1, target)) == [DropReason.UNEXPECTED]

    def test_short_proofs_are_not_passed_on(self) -> None:
        """The prober would take the helper for the one who sent nonsense."""
        mesh, (prober, target) = _tapped(3, 1, 2)
        prober.take()
        target.take()
        prober.say(0, PingRequest(7, mesh.id(2)))
        (ping,) = [m for m in _pings(target, 0) if m.origin is not None]
        assert ping.origin == Origin(mesh.id(1), 7)
        for proof in (b"", bytes(63)):
            assert target.say(0, Ack(ping.sequence, None, proof)) == [DropReason.UNEXPECTED]
        assert target.say(0, Ack(ping.sequence, None, bytes(64))) == []
        relayed = [m for _, m in prober.take() if isinstance(m, RelayedAck)]
        assert relayed == [RelayedAck(7, mesh.id(2), bytes(64))]
        assert target.say(0, Ack(ping.sequence, None, bytes(64))) == [DropReason.UNEXPECTED]

    def test_pending_help_is_bounded(self) -> None:
        """Of too many requests the oldest is forgotten."""
        mesh, (prober, target) = _tapped(3, 1, 2)
        prober.say(0, PingRequest(999, mesh.id(2)))
        target.take()
        for number in range(RELAYS_MAX + 1):
            prober.say(0, PingRequest(number, mesh.id(2)))
        pings = [ping for ping in _pings(target, 0) if ping.origin is not None]
        assert len(pings) == RELAYS_MAX + 1
        first, last = pings[0], pings[-1]
        assert target.say(0, Ack(first.sequence, None, bytes(64))) == [DropReason.UNEXPECTED]
        assert target.say(0, Ack(last.sequence, None, bytes(64))) == []
        assert len(mesh[0]._helper._relays) == RELAYS_MAX - 1


def _proof(mesh: Mesh, target: Tap, prober: NodeId, sequence: int) -> bytes:
    text = b"meshd ack 1     " + mesh.authorities.mesh + prober + sequence.to_bytes(8, "big")
    return target.insider.crypto.sign(text)


def test_a_target_signs_for_the_prober_that_is_named() -> None:
    """The proof in an ack fits the origin of its ping, and there is none without."""
    mesh, (tap,) = _tapped(2, 1)
    tap.say(0, Ping(4, None))
    tap.take()
    origin = Origin(NodeId(bytes(32)), 99)
    tap.say(0, Ping(5, None, origin))
    tap.say(0, Ping(6, None))
    acks = [m for _, m in tap.take() if isinstance(m, Ack)]
    assert [ack.sequence for ack in acks] == [5, 6]
    text = b"meshd ack 1     " + mesh.authorities.mesh + bytes(32) + (99).to_bytes(8, "big")
    assert tap.insider.crypto.verify(mesh.id(0), acks[0].proof, text)
    assert acks[1].proof == b""


def test_a_restarted_target_is_reached_again_at_once() -> None:
    """It answers with a challenge: that counts as reached, and the ping goes out again."""
    mesh = Mesh(2).start_all()
    mesh.crash(1)
    mesh.start(1)
    mesh.requests.clear()
    mesh.advance(10 * SECOND)
    states = [e.state for e in mesh.machines[0].log if isinstance(e, MembershipChanged)]
    assert State.SUSPECT not in states
    assert mesh.is_one()


def test_a_target_that_only_challenges_gains_one_interval() -> None:
    """Being reached starts the probe over once, not for ever."""
    mesh, (tap,) = _tapped(2, 1)
    while mesh.state(0, 1) is State.ALIVE:
        _run(mesh, STEP)
        mine = [p for p in mesh.post if p.to == tap.insider.address]
        mesh.post.clear()
        for parcel in mine:
            mesh.now += 1
            forgetful = Insider(mesh, 1)
            received = forgetful.envelope.open(parcel.data, parcel.source, mesh.id(0))
            assert isinstance(received, Unproven)
            mesh.hand_over(Parcel(tap.insider.address, parcel.source, received.challenge))
        assert mesh.now < 30 * SECOND
    assert mesh.state(0, 1) is State.SUSPECT


def test_a_suspect_hears_its_accusation_with_the_ping() -> None:
    """Lifeguard's buddy system: so it can refute, whatever gossip does."""
    mesh, (tap,) = _tapped(2, 1)
    while mesh.state(0, 1) is not State.SUSPECT:
        _run(mesh, STEP)
    tap.take()
    riders: list[bytes] = []
    while not riders:
        _run(mesh, STEP)
        mesh[0]._rumours.clear()
        for parcel in [p for p in mesh.post if p.to == tap.insider.address]:
            received = tap.insider.envelope.open(parcel.data, parcel.source, mesh.id(0))
            payload = getattr(received, "payload", b"")
            message, found = decode_datagram(payload)
            if isinstance(message, Ping):
                riders += found
        mesh.post.clear()
    accusation = mesh[0]._membership.accusation_of(mesh.id(1))
    assert accusation is not None
    assert accusation.wire in riders


def test_after_a_gap_the_running_probe_has_no_verdict() -> None:
    """We were not there to hear the answer."""
    mesh, (tap,) = _tapped(2, 1)
    while not _pings(tap, 0):
        _run(mesh, STEP)
    mesh.now += 3600 * SECOND
    mesh.give(0, Resumed(3600 * SECOND))
    mesh.give(0, DeadlineReached())
    assert mesh.state(0, 1) is State.ALIVE
    assert mesh[0].deadline <= mesh.now + SECOND


def test_newcomers_are_probed_in_the_running_pass() -> None:
    """They enter at a random place still to come, each once."""
    mesh = Mesh(5).start_all()
    prober = mesh[0]._prober
    order = prober._order[prober._position :]
    assert len(dict.fromkeys(prober._order)) == len(prober._order)
    prober.add_member(NodeId(bytes(32)))
    prober.add_member(NodeId(bytes(32)))
    assert prober._order.count(NodeId(bytes(32))) == 1
    assert prober._order.index(NodeId(bytes(32))) >= prober._position
    assert len(order) + 1 == len(prober._order[prober._position :])


def test_round_trips_are_smoothed_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the new sample; the oldest of too many is forgotten."""
    monkeypatch.setattr("protocol.prober.ROUND_TRIPS_MAX", 2)
    prober = Mesh(1).boot(0)._prober
    one, two, three = (NodeId(bytes((n,)) * 32) for n in range(3))
    prober._learn_round_trip(one, 800)
    prober._learn_round_trip(one, 1600)
    assert prober.round_trip_ns(one) == 900
    prober._learn_round_trip(two, 1)
    prober._learn_round_trip(three, 1)
    assert prober.round_trip_ns(one) is None
    assert prober.round_trip_ns(three) == 1


def test_a_lone_node_probes_nobody() -> None:
    """And keeps a deadline all the same."""
    mesh = Mesh(1).start_all()
    mesh.advance(20 * SECOND)
    sent = [e for e in mesh.machines[0].log if isinstance(e, SendDatagram)]
    assert sent == []
    assert mesh[0].deadline <= mesh.now + SECOND
