"""Probing: direct, through helpers and by stream, and what nobody can fake."""

import itertools

import pytest

from protocol.codec import decode_datagram
from protocol.config import SECOND
from protocol.effects import LoadLearned, MembershipChanged, SendDatagram
from protocol.envelope import Unproven
from protocol.errors import DropReason
from protocol.events import ContactLost, DeadlineReached, LoadChanged, StreamFailure
from protocol.identity import Address, NodeId
from protocol.members import State
from protocol.messages import (
    Ack,
    DatagramMessage,
    Load,
    Origin,
    Ping,
    PingRequest,
    RelayedAck,
    StreamAck,
    StreamProbe,
)
from protocol.statements import make_alive
from tests.helpers.nodes import Insider, Mesh, Parcel
from tests.helpers.taps import STEP, Tap, proof_of, run, tapped, to_the_end, until_asked


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
    mesh, (tap,) = tapped(2, 1)
    mesh.give(0, LoadChanged(Load(1, 2, 3)))
    for _ in range(20):
        run(mesh, SECOND // 2)
        for ping in tap.pings(0):
            assert ping.load == Load(1, 2, 3)
            assert tap.say(0, Ack(ping.sequence, Load(4, 5, 6))) == []
    assert mesh.state(0, 1) is State.ALIVE
    assert mesh[0].round_trip_ns(mesh.id(1)) is not None
    assert LoadLearned(mesh.id(1), Load(4, 5, 6)) in mesh.machines[0].log


def test_silence_is_suspected_no_earlier_than_the_end_of_the_interval() -> None:
    """One probe lasts one interval; then the verdict, and death after the suspicion."""
    mesh, (tap,) = tapped(2, 1)
    while not tap.pings(0):
        run(mesh, STEP)
    started = mesh.now
    while mesh.state(0, 1) is State.ALIVE:
        run(mesh, STEP)
    assert SECOND - STEP <= mesh.now - started <= SECOND + STEP
    run(mesh, 7 * SECOND)
    assert mesh.state(0, 1) is State.DEAD


def test_wrong_answers_are_nobodys() -> None:
    """Another number, an answer to nothing, an unasked relayed ack: unexpected."""
    mesh, (tap,) = tapped(2, 1)
    run(mesh, SECOND)
    assert tap.say(0, Ack(12345, None)) == [DropReason.UNEXPECTED]
    assert tap.say(0, RelayedAck(12345, mesh.id(1), bytes(64))) == [DropReason.UNEXPECTED]
    run(mesh, 9 * SECOND)
    assert mesh.state(0, 1) is State.DEAD


def test_a_second_answer_is_no_new_round_trip() -> None:
    """Only the first ack of a probe is measured."""
    mesh, (tap,) = tapped(2, 1)
    pings: list[Ping] = []
    while not pings:
        run(mesh, STEP)
        pings = tap.pings(0)
    tap.say(0, Ack(pings[-1].sequence, None))
    measured = mesh[0].round_trip_ns(mesh.id(1))
    mesh.now += SECOND // 4
    assert tap.say(0, Ack(pings[-1].sequence, None)) == []
    assert mesh[0].round_trip_ns(mesh.id(1)) == measured


class TestHelpers:
    """Indirect probes."""

    def test_a_targets_signature_through_a_helper_saves_it(self) -> None:
        """The helper brings what only the target can sign for this probe."""
        mesh, (helper, target) = tapped(3, 1, 2)
        request = until_asked(mesh, target, helper)
        proof = proof_of(mesh, target, mesh.id(0), request.sequence)
        assert helper.say(0, RelayedAck(request.sequence, request.target, proof)) == []
        run(mesh, SECOND // 2)
        assert mesh.state(0, 2) is State.ALIVE

    def test_a_helper_cannot_invent_an_answer(self) -> None:
        """Its own signature, a proof for another probe, or for another prober: refused."""
        mesh, (helper, target) = tapped(3, 1, 2)
        request = until_asked(mesh, target, helper)
        for proof in (
            bytes(64),
            proof_of(mesh, helper, mesh.id(0), request.sequence),
            proof_of(mesh, target, mesh.id(0), request.sequence - 1),
            proof_of(mesh, target, mesh.id(1), request.sequence),
        ):
            answer = RelayedAck(request.sequence, request.target, proof)
            assert helper.say(0, answer) == [DropReason.UNEXPECTED]
        to_the_end(mesh, request)
        assert mesh.state(0, 2) is State.SUSPECT

    def test_numbers_cannot_be_foreseen(self) -> None:
        """Nobody can collect proofs for probes to come while the target still lives."""
        mesh, (tap,) = tapped(2, 1)
        numbers: list[int] = []
        for _ in range(40):
            run(mesh, SECOND // 4)
            for ping in tap.pings(0):
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


class TestStreams:
    """The stream probe that goes out with the requests for help."""

    def test_it_is_opened_with_the_helpers(self) -> None:
        """Not before; it names us and our probe."""
        mesh, (helper, target) = tapped(3, 1, 2)
        request = until_asked(mesh, target, helper)
        expected = StreamProbe(Origin(mesh.id(0), request.sequence))
        assert target.take_streams() == [(0, expected)]
        to_the_end(mesh, request)
        assert target.take_streams() == []

    def test_a_suspect_hears_its_accusation_by_stream_too(self) -> None:
        """So that it can refute where datagrams are lost."""
        mesh, (helper, target) = tapped(3, 1, 2)
        until_asked(mesh, target, helper)
        while mesh.state(0, 2) is State.ALIVE:
            run(mesh, STEP)
        target.take_streams()
        until_asked(mesh, target, helper)
        word = mesh[0]._membership.accusation_of(target.id)
        assert word is not None
        (told,) = [m for _, m in target.take_streams() if isinstance(m, StreamProbe)]
        assert told.accusation == word.wire

    def test_who_answers_in_time_is_not_tried_by_stream(self) -> None:
        """Neither helpers nor streams, while acks come."""
        mesh, taps = tapped(3, 1, 2)
        others: list[DatagramMessage] = []
        for _ in range(100):
            run(mesh, STEP)
            others += [message for tap in taps for message in tap.answer(0)]
        assert not any(isinstance(message, PingRequest) for message in others)
        assert mesh.requests == []

    def test_a_signed_answer_saves_the_target(self) -> None:
        """Where only datagrams are lost."""
        mesh, (helper, target) = tapped(3, 1, 2)
        request = until_asked(mesh, target, helper)
        origin = Origin(mesh.id(0), request.sequence)
        proof = proof_of(mesh, target, *_named(origin))
        assert target.say_on_stream(0, StreamAck(origin, proof)) == []
        to_the_end(mesh, request)
        assert mesh.state(0, 2) is State.ALIVE

    def test_anything_less_proves_nothing(self) -> None:
        """A connection alone, a wrong proof, another origin, another peer's answer."""
        mesh, (helper, target) = tapped(3, 1, 2)
        request = until_asked(mesh, target, helper)
        origin = Origin(mesh.id(0), request.sequence)
        good = proof_of(mesh, target, *_named(origin))
        other = Origin(mesh.id(0), request.sequence - 1)
        foreign = Origin(helper.id, request.sequence)
        for sender, named, proof in (
            (target, origin, bytes(64)),
            (target, origin, proof_of(mesh, helper, *_named(origin))),
            (target, other, proof_of(mesh, target, *_named(other))),
            (target, foreign, proof_of(mesh, target, *_named(foreign))),
            (helper, origin, good),
            (helper, origin, proof_of(mesh, helper, *_named(origin))),
        ):
            assert sender.say_on_stream(0, StreamAck(named, proof)) == [DropReason.UNEXPECTED]
        to_the_end(mesh, request)
        assert mesh.state(0, 2) is State.SUSPECT
        assert target.say_on_stream(0, StreamAck(origin, good)) == [DropReason.UNEXPECTED]

    @pytest.mark.parametrize(
        ("reason", "is_evidence"),
        [
            (StreamFailure.REFUSED, True),
            (StreamFailure.TIMED_OUT, False),
            (StreamFailure.OTHER, False),
        ],
    )
    def test_only_a_refusal_says_that_the_process_is_gone(
        self, reason: StreamFailure, is_evidence: bool
    ) -> None:
        """And that is no verdict: the interval goes on, and the suspicion takes its time."""
        mesh, (helper, target) = tapped(3, 1, 2)
        request = until_asked(mesh, target, helper)
        target.fail_stream(0, reason)
        assert mesh.state(0, 2) is State.ALIVE
        to_the_end(mesh, request)
        suspicion = mesh[0].members.suspicions[target.id]
        assert (mesh.id(0) in suspicion.refused_at) is is_evidence
        assert not suspicion.is_gone

    def test_a_refusal_of_something_else_is_no_evidence(self) -> None:
        """Before our stream probe, or of another member's stream."""
        mesh, (helper, target) = tapped(3, 1, 2)
        probe = None
        while probe is None or probe.target != target.id or probe.is_answered:
            run(mesh, STEP)
            helper.answer(0)
            probe = mesh[0]._prober._probe
        assert not probe.is_helped
        target.fail_stream(0, StreamFailure.REFUSED)
        request = until_asked(mesh, target, helper)
        helper.fail_stream(0, StreamFailure.REFUSED)
        to_the_end(mesh, request)
        assert mesh[0].members.suspicions[target.id].refused_at == {}

    def test_a_target_that_answers_after_a_refusal_lives(self) -> None:
        """Its stream port may be closed by mistake; its signature counts."""
        mesh, (helper, target) = tapped(3, 1, 2)
        request = until_asked(mesh, target, helper)
        target.fail_stream(0, StreamFailure.REFUSED)
        assert target.say(0, Ack(request.sequence, None)) == []
        to_the_end(mesh, request)
        assert mesh.state(0, 2) is State.ALIVE


def _named(origin: Origin) -> tuple[NodeId, int]:
    return origin.prober, origin.sequence


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
    mesh, (tap,) = tapped(2, 1)
    while mesh.state(0, 1) is State.ALIVE:
        run(mesh, STEP)
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
    mesh, (tap,) = tapped(2, 1)
    while mesh.state(0, 1) is not State.SUSPECT:
        run(mesh, STEP)
    tap.take()
    riders: list[bytes] = []
    while not riders:
        run(mesh, STEP)
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


def test_after_a_challenge_helpers_are_not_asked_twice() -> None:
    """The probe starts over, with the help that is on its way."""
    mesh, (helper, target) = tapped(3, 1, 2)
    request = until_asked(mesh, target, helper)
    probe = mesh[0]._prober._probe
    assert probe is not None
    before = probe.ends_ns
    assert mesh[0]._prober.on_told(target.id, mesh.now)
    assert probe.ends_ns > before
    assert not mesh[0]._prober.on_told(helper.id, mesh.now)
    to_the_end(mesh, request)
    requests = [m for m in helper.answer(0) if isinstance(m, PingRequest)]
    assert requests == []
    assert target.say(0, Ack(request.sequence, None)) == [DropReason.UNEXPECTED]


def test_an_answered_probe_is_not_started_over() -> None:
    """A late challenge changes nothing."""
    mesh, (target,) = tapped(2, 1)
    while not (pings := target.pings(0)):
        run(mesh, STEP)
    target.say(0, Ack(pings[-1].sequence, None))
    assert not mesh[0]._prober.on_told(target.id, mesh.now)


def test_who_speaks_no_version_of_ours_is_neither_probed_nor_accused() -> None:
    """It stays in the view as others see it."""
    mesh, (tap,) = tapped(2, 1)
    crypto, where, later = tap.insider.crypto, (tap.insider.address,), (2, 3)
    alive = make_alive(crypto, mesh.authorities.mesh, 51, "later", where, "", 0, later)
    mesh[0]._prober.hold(mesh.now)
    mesh[0]._intake.take(alive.wire, mesh.now)
    run(mesh, 10 * SECOND)
    assert tap.pings(0) == []
    assert mesh.state(0, 1) is State.ALIVE
    assert mesh[0].health_score == 0


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


def test_a_lone_node_probes_nobody() -> None:
    """And keeps a deadline all the same."""
    mesh = Mesh(1).start_all()
    mesh.advance(20 * SECOND)
    sent = [e for e in mesh.machines[0].log if isinstance(e, SendDatagram)]
    assert sent == []
    assert mesh[0].deadline <= mesh.now + SECOND


def _answers(tap: Tap) -> int:
    """Acks what has come; how many pings that were."""
    pings = [ping for ping in tap.pings(0) if ping.sequence]
    for ping in pings:
        tap.say(0, Ack(ping.sequence, None))
    return len(pings)


class TestAttention:
    """A member with whom a request broke is looked at."""

    def test_it_is_probed_at_once(self) -> None:
        """As soon as the running probe is answered, whoever's turn it would be."""
        mesh, taps = tapped(6, 1, 2, 3, 4, 5)
        probed: list[Tap] = []
        while not probed:
            run(mesh, STEP)
            probed = [tap for tap in taps if _answers(tap)]
        last = next(tap for tap in reversed(taps) if tap is not probed[0])
        mesh.give(0, ContactLost(last.id))
        assert mesh[0].deadline <= mesh.now
        mesh.give(0, DeadlineReached())
        assert last.pings(0)

    def test_no_flood_of_it_makes_probes_more_frequent(self) -> None:
        """One more in each interval at most, however much breaks."""
        mesh, taps = tapped(4, 1, 2, 3)
        probes = 0
        for _ in range(100):
            for tap in taps:
                mesh.give(0, ContactLost(tap.id))
            mesh.give(0, DeadlineReached())
            probes += sum(_answers(tap) for tap in taps)
            run(mesh, SECOND // 10)
        assert 15 <= probes <= 21

    def test_it_proves_nothing(self) -> None:
        """Who answers stays alive, however often requests with it break."""
        mesh = Mesh(2).start_all()
        mesh.settle()
        mesh.advance(3 * SECOND)
        for _ in range(50):
            mesh.give(0, ContactLost(mesh.id(1)))
            mesh.advance(SECOND // 10)
        assert mesh.state(0, 1) is State.ALIVE

    def test_a_stranger_is_nobody_to_look_at(self) -> None:
        """Nor are we ourselves, nor the dead."""
        mesh = Mesh(2).start_all()
        mesh.settle()
        for node in (mesh.id(0), NodeId(b"x" * 32)):
            mesh.give(0, ContactLost(node))
        assert not mesh[0]._prober._wanted
