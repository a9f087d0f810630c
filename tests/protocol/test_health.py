"""When a node takes itself for the slow one: every way in which its health score moves."""

import itertools

import pytest

from protocol.config import SECOND, ProtocolConfig
from protocol.events import Delayed, SendFailed
from protocol.identity import Address
from protocol.members import State
from protocol.messages import Nack
from protocol.statements import make_accusation, make_left
from tests.helpers.nodes import Mesh
from tests.helpers.taps import STEP, run, tapped, to_the_end, until_asked


class TestHealth:
    """The local health multiplier moves as Lifeguard says, and stretches what it should."""

    def test_an_answer_makes_it_better(self) -> None:
        """By one at the end of the interval, not below 0."""
        mesh, (target,) = tapped(2, 1)
        mesh[0]._awareness.note(2)
        scores = []
        for _ in range(200):
            run(mesh, STEP)
            target.answer(0)
            scores.append(mesh[0].health_score)
        assert [score for score, _ in itertools.groupby(scores)] == [2, 1, 0]

    def test_a_failed_probe_without_helpers_makes_it_worse_once(self) -> None:
        """Then the target is suspected: its further silence says nothing about us."""
        mesh, (target,) = tapped(2, 1)
        while mesh.state(0, 1) is State.ALIVE:
            assert mesh[0].health_score == 0
            run(mesh, STEP)
        assert mesh[0].health_score == 1
        while mesh.state(0, 1) is State.SUSPECT:
            run(mesh, STEP)
            assert mesh[0].health_score == 1
        target.take()

    @pytest.mark.parametrize("nacks", [0, 1, 2, 3])
    def test_only_when_all_helpers_are_silent_too_it_gets_worse(self, nacks: int) -> None:
        """By one for each; one that nacked shows that our own network works."""
        mesh, (*helpers, target) = tapped(5, 1, 2, 3, 4)
        request = until_asked(mesh, target, *helpers)
        for helper in helpers[:nacks]:
            assert helper.say(0, Nack(request.sequence, target.id, b"")) == []
        to_the_end(mesh, request)
        assert mesh.state(0, 4) is State.SUSPECT
        assert mesh[0].health_score == (0 if nacks else 3)

    def test_who_left_meanwhile_has_not_failed(self) -> None:
        """No verdict, no point."""
        mesh, (target,) = tapped(2, 1)
        while not target.pings(0):
            run(mesh, STEP)
        left = make_left(target.insider.crypto, mesh.authorities.mesh, 50)
        mesh[0]._intake.take(left.wire, mesh.now)
        run(mesh, 3 * SECOND)
        assert mesh.state(0, 1) is State.LEFT
        assert mesh[0].health_score == 0

    def test_refuting_makes_it_worse(self) -> None:
        """Who is suspected may be slow; the same accusation again is old."""
        mesh, (tap,) = tapped(2, 1)
        incarnation = mesh[0].members.incarnation(mesh.id(0))
        wire = make_accusation(
            tap.insider.crypto, mesh.authorities.mesh, mesh.id(0), incarnation, is_dead=False
        ).wire
        for _ in range(3):
            mesh[0]._intake.take_all((wire,), tap.id, mesh.now)
        assert mesh[0].health_score == 1

    def test_it_stretches_interval_and_time_out(self) -> None:
        """Score N: N + 1 times as long until helpers are asked, and until the verdict."""
        mesh, (target,) = tapped(2, 1)
        mesh[0]._awareness.note(3)
        while not target.pings(0):
            run(mesh, STEP)
        probe = mesh[0]._prober._probe
        assert probe is not None
        timeout = mesh[0]._round_trips.timeout_ns(target.id)
        assert timeout < SECOND // 2
        factor = mesh[0].health_score + 1
        assert factor in (3, 4)
        assert probe.helpers_ns - probe.pinged_ns == factor * timeout
        assert probe.ends_ns - probe.pinged_ns == factor * SECOND

    def test_helpers_have_half_of_the_interval(self) -> None:
        """However long the time-out of a far or unknown member is."""
        config = ProtocolConfig(probe_timeout_ns=900_000_000)
        mesh = Mesh(2, protocol=config).start_all()
        mesh[0]._round_trips.forget(mesh.id(1))
        while mesh[0]._prober._probe is None:
            mesh.advance(STEP)
        prober = mesh[0]._prober
        prober._start_probe(mesh.now)
        probe = prober._probe
        assert probe is not None
        assert probe.helpers_ns - probe.pinged_ns == SECOND // 2

    def test_being_late_makes_it_worse(self) -> None:
        """A machine that is busy should judge slowly before others must notice."""
        mesh, _ = tapped(2, 1)
        mesh.give(0, Delayed(SECOND))
        assert mesh[0].health_score == 1

    def test_own_send_errors_count_once_per_probe_of_its_target(self) -> None:
        """An interface that is down must not make the others look dead."""
        mesh, (helper, target) = tapped(3, 1, 2)
        while (probe := mesh[0]._prober._probe) is None or probe.target != target.id:
            run(mesh, STEP)
            helper.answer(0)
        before = mesh[0].health_score
        for to in (helper.insider.address, Address("203.0.113.1", 1)):
            mesh.give(0, SendFailed(to))
        assert mesh[0].health_score == before == 0
        for _ in range(3):
            mesh.give(0, SendFailed(target.insider.address))
        assert mesh[0].health_score == 1

    def test_send_errors_between_probes_are_nobodys(self) -> None:
        """A node that probes nobody judges nobody."""
        mesh = Mesh(1).start_all()
        mesh.give(0, SendFailed(Address("203.0.113.1", 1)))
        assert mesh[0].health_score == 0
