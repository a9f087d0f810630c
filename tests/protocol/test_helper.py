"""Helping another prober: what is tried, what is told, and what it costs at most.

Node 0 is the helper; machine 1, a tap, is the prober, and machine 2 its target.
"""

import pytest

from protocol.config import MILLISECOND, SECOND, ProtocolConfig
from protocol.crypto import SodiumCrypto
from protocol.errors import DropReason
from protocol.events import StreamFailure
from protocol.helper import RELAYS_MAX, RELAYS_PER_PROBER
from protocol.identity import NodeId
from protocol.messages import (
    Ack,
    DatagramMessage,
    Nack,
    Origin,
    Ping,
    PingRequest,
    RelayedAck,
    StreamAck,
    StreamProbe,
)
from protocol.records import Role
from protocol.statements import Accusation, Statements, decode_statement, make_alive, make_left
from tests.helpers.nodes import Mesh
from tests.helpers.taps import STEP, Tap, proof_of, run, tapped

CONFIG = ProtocolConfig()


def _asked(number: int = 7) -> tuple[Mesh, Tap, Tap, Ping]:
    """The prober has asked for help; returns the helper's ping of the target too."""
    mesh, (prober, target) = tapped(3, 1, 2)
    prober.take()
    target.take()
    assert prober.say(0, PingRequest(number, target.id)) == []
    (ping,) = [ping for ping in target.pings(0) if ping.origin is not None]
    return mesh, prober, target, ping


def _told(prober: Tap) -> list[DatagramMessage]:
    """What the prober was told by the helper, but for the helper's own probes."""
    return [m for m in prober.answer(0) if isinstance(m, RelayedAck | Nack)]


def _wait(mesh: Mesh, duration: int, *taps: Tap) -> None:
    """Let time pass; the taps answer the helper's own pings."""
    for _ in range(duration // STEP):
        run(mesh, STEP)
        for tap in taps:
            tap.answer(0)


def _accusation(mesh: Mesh, nack: DatagramMessage) -> Accusation:
    assert isinstance(nack, Nack)
    statement = decode_statement(nack.accusation)
    Statements(mesh.authorities.mesh).verify(SodiumCrypto(bytes(32)), statement)
    assert isinstance(statement, Accusation)
    return statement


class TestPing:
    """The target is pinged for the prober."""

    def test_the_ping_names_the_prober(self) -> None:
        """So that the target's signature counts for that probe alone."""
        _, prober, _, ping = _asked()
        assert ping.origin == Origin(prober.id, 7)
        assert ping.sequence != 7

    def test_its_answer_is_passed_on_once(self) -> None:
        """With the target's signature, to the prober only; then the help is over."""
        mesh, prober, target, ping = _asked()
        proof = proof_of(mesh, target, prober.id, 7)
        assert target.say(0, Ack(ping.sequence, None, proof)) == []
        assert _told(prober) == [RelayedAck(7, target.id, proof)]
        assert target.say(0, Ack(ping.sequence, None, proof)) == [DropReason.UNEXPECTED]
        _wait(mesh, 3 * SECOND, target)
        assert _told(prober) == []
        assert target.take_streams() == []

    def test_short_proofs_are_not_passed_on(self) -> None:
        """The prober would take the helper for the one who sent nonsense."""
        _, prober, target, ping = _asked()
        for proof in (b"", bytes(63)):
            assert target.say(0, Ack(ping.sequence, None, proof)) == [DropReason.UNEXPECTED]
        assert prober.say(0, Ack(ping.sequence, None, bytes(64))) == [DropReason.UNEXPECTED]
        assert _told(prober) == []

    def test_helping_with_nobody_is_refused(self) -> None:
        """Strangers, the asker itself, we ourselves, and who is gone are no targets."""
        mesh, (prober, target) = tapped(3, 1, 2)
        left = make_left(target.insider.crypto, mesh.authorities.mesh, 50)
        mesh[0]._intake.take(left.wire, mesh.now)
        for node in (NodeId(bytes(32)), prober.id, mesh.id(0), target.id):
            assert prober.say(0, PingRequest(1, node)) == [DropReason.UNEXPECTED]

    def test_who_speaks_no_version_of_ours_is_no_target(self) -> None:
        """That we cannot talk to somebody says nothing about its life."""
        mesh, (prober, target) = tapped(3, 1, 2)
        where, later = (target.insider.address,), (2, 3)
        alive = make_alive(
            target.insider.crypto, mesh.authorities.mesh, 51, "later", where, "", 0, later
        )
        mesh[0]._intake.take(alive.wire, mesh.now)
        assert prober.say(0, PingRequest(1, target.id)) == [DropReason.UNEXPECTED]

    @pytest.mark.parametrize(("in_all", "kept"), [(RELAYS_MAX, RELAYS_PER_PROBER), (4, 4)])
    def test_pending_help_is_bounded(
        self, monkeypatch: pytest.MonkeyPatch, in_all: int, kept: int
    ) -> None:
        """Of too many requests, by one prober or in all, the oldest is forgotten."""
        monkeypatch.setattr("protocol.helper.RELAYS_MAX", in_all)
        mesh, prober, target, first = _asked()
        for number in range(RELAYS_PER_PROBER):
            prober.say(0, PingRequest(number, target.id))
        last = [ping for ping in target.pings(0) if ping.origin is not None][-1]
        assert target.say(0, Ack(first.sequence, None, bytes(64))) == [DropReason.UNEXPECTED]
        assert target.say(0, Ack(last.sequence, None, bytes(64))) == []
        assert len(mesh[0]._helper._relays) == kept - 1
        assert len(mesh[0]._helper._deadlines) == kept - 1


class TestStream:
    """If the ping goes unanswered, the target is tried by stream."""

    def test_after_the_time_out_of_its_round_trip(self) -> None:
        """In the prober's name; in time for an answer before the nack."""
        mesh, prober, target, _ = _asked()
        patience = mesh[0]._round_trips.timeout_ns(target.id)
        assert patience == CONFIG.probe_timeout_min_ns < CONFIG.nack_ns // 2
        _wait(mesh, patience - STEP, target)
        assert target.take_streams() == []
        _wait(mesh, STEP, target)
        assert target.take_streams() == [(0, StreamProbe(Origin(prober.id, 7)))]

    def test_unknown_targets_are_tried_half_way_to_the_nack(self) -> None:
        """The nack does not wait for a stream that has just begun."""
        mesh, (prober, target) = tapped(3, 1, 2)
        mesh[0]._round_trips.forget(target.id)
        prober.say(0, PingRequest(7, target.id))
        (relay,) = mesh[0]._helper._relays.values()
        assert relay.stream_ns - mesh.now == CONFIG.nack_ns // 2 == 200 * MILLISECOND

    def test_its_signed_answer_is_passed_on(self) -> None:
        """As if it had come in a datagram; the prober checks the proof."""
        mesh, prober, target, _ = _asked()
        _wait(mesh, 200 * MILLISECOND, target)
        origin = Origin(prober.id, 7)
        proof = proof_of(mesh, target, prober.id, 7)
        assert target.say_on_stream(0, StreamAck(origin, proof)) == []
        assert _told(prober) == [RelayedAck(7, target.id, proof)]
        assert target.say_on_stream(0, StreamAck(origin, proof)) == [DropReason.UNEXPECTED]

    def test_answers_that_nobody_waits_for(self) -> None:
        """Another peer's, or one for another probe."""
        mesh, prober, target, _ = _asked()
        _wait(mesh, 200 * MILLISECOND, target)
        for sender, origin in (
            (prober, Origin(prober.id, 7)),
            (target, Origin(prober.id, 8)),
            (target, Origin(target.id, 7)),
        ):
            refused = sender.say_on_stream(0, StreamAck(origin, bytes(64)))
            assert refused == [DropReason.UNEXPECTED]
        assert _told(prober) == []


class TestNack:
    """The other answer."""

    def test_silence_is_told_at_80_percent(self) -> None:
        """With the helper's own signed accusation, which claims no more than silence."""
        mesh, prober, target, _ = _asked()
        assert 10 * CONFIG.nack_ns == 8 * CONFIG.probe_timeout_ns
        _wait(mesh, CONFIG.nack_ns - STEP, target)
        assert _told(prober) == []
        _wait(mesh, STEP, target)
        (nack,) = _told(prober)
        assert isinstance(nack, Nack)
        assert (nack.sequence, nack.target) == (7, target.id)
        accusation = _accusation(mesh, nack)
        assert (accusation.author, accusation.subject) == (mesh.id(0), target.id)
        assert accusation.incarnation == mesh[0].members.incarnation(target.id)
        assert not accusation.is_refused
        assert not accusation.is_dead

    def test_helping_is_no_suspicion_of_ones_own(self) -> None:
        """What it signed for the prober does not change the helper's view."""
        mesh, prober, target, _ = _asked()
        _wait(mesh, CONFIG.nack_ns, target)
        assert len(_told(prober)) == 1
        assert target.id not in mesh[0].members.suspicions

    def test_a_late_answer_is_still_passed_on(self) -> None:
        """Until two intervals are over; then it is forgotten."""
        for late in (False, True):
            mesh, prober, target, ping = _asked()
            _wait(mesh, 2 * SECOND - STEP + 2 * STEP * late, target, prober)
            refused = target.say(0, Ack(ping.sequence, None, bytes(64)))
            assert refused == ([DropReason.UNEXPECTED] if late else [])
            assert bool(_told(prober)) is not late
            assert mesh[0]._helper._relays == {}
            assert len(mesh[0]._helper._deadlines) == 0

    def test_a_refusal_is_told_at_once(self) -> None:
        """Its accusation says so; the time-out adds nothing."""
        mesh, prober, target, _ = _asked()
        _wait(mesh, 200 * MILLISECOND, target)
        target.fail_stream(0, StreamFailure.REFUSED)
        target.fail_stream(0, StreamFailure.REFUSED)
        (nack,) = _told(prober)
        assert _accusation(mesh, nack).is_refused
        _wait(mesh, SECOND, target)
        assert _told(prober) == []

    @pytest.mark.parametrize("reason", [StreamFailure.TIMED_OUT, StreamFailure.OTHER])
    def test_other_failures_are_silence(self, reason: StreamFailure) -> None:
        """They may be our own fault."""
        mesh, prober, target, _ = _asked()
        _wait(mesh, 200 * MILLISECOND, target)
        target.fail_stream(0, reason)
        assert _told(prober) == []
        _wait(mesh, 200 * MILLISECOND, target)
        (nack,) = _told(prober)
        assert not _accusation(mesh, nack).is_refused

    def test_a_refusal_of_another_stream_is_not_told(self) -> None:
        """Before our own stream, or of another member's."""
        mesh, prober, target, _ = _asked()
        target.fail_stream(0, StreamFailure.REFUSED)
        _wait(mesh, 200 * MILLISECOND, target)
        prober.fail_stream(0, StreamFailure.REFUSED)
        assert _told(prober) == []

    def test_who_is_gone_meanwhile_is_not_accused(self) -> None:
        """The nack shows that our network works, and says nothing of the target."""
        mesh, prober, target, _ = _asked()
        left = make_left(target.insider.crypto, mesh.authorities.mesh, 50)
        mesh[0]._intake.take(left.wire, mesh.now)
        _wait(mesh, CONFIG.nack_ns, target)
        assert _told(prober) == [Nack(7, target.id, b"")]

    @pytest.mark.parametrize("role", [Role.CLIENT, Role.OBSERVER])
    def test_clients_and_observers_help_without_accusing(self, role: Role) -> None:
        """Their word against others counts nowhere, so they do not give it."""
        mesh = Mesh(3, roles=[Role.WORKER, role, Role.WORKER]).start_all()
        node = mesh[1]
        assert node._membership.word_against(mesh.id(2), True) is None
        assert node._helper.on_ping_request(mesh.id(0), PingRequest(7, mesh.id(2)), mesh.now)
        mesh.now += CONFIG.nack_ns
        node._helper.advance(mesh.now)
        relay = next(iter(node._helper._relays.values()))
        assert relay.is_nacked
        assert node._membership.accusation_of(mesh.id(2)) is None
