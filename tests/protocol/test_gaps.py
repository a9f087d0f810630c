"""Standing still: a laptop that wakes accuses nobody of its own absence."""

from protocol.codec import encode_stream
from protocol.config import SECOND, ProtocolConfig
from protocol.deadlines import NEVER
from protocol.effects import MembershipChanged, OpenStream
from protocol.events import DeadlineReached, LeaveRequested, Resumed, StreamReceived
from protocol.members import State
from protocol.messages import PushPull
from protocol.statements import make_accusation
from tests.helpers.nodes import Mesh
from tests.helpers.taps import STEP, Tap, run, tapped


class TestGaps:
    """A process that stood still accuses nobody until it has agreed with somebody."""

    def _suspicious(self) -> tuple[Mesh, list[Tap]]:
        """Node 0 suspects machine 1; machine 2 will be silent too; nobody tells us anything."""
        mesh, taps = tapped(3, 1, 2)
        mesh[0]._membership.suspect(mesh.id(1), mesh.now, is_refused=False)
        mesh.now += 100 * SECOND
        mesh.give(0, Resumed(100 * SECOND))
        mesh.machines[0].log.clear()
        return mesh, taps

    def test_while_held_nobody_is_accused_or_declared_dead(self) -> None:
        """For as long as nobody is agreed with, at most 30 s; then it goes on."""
        mesh, _ = self._suspicious()
        run(mesh, ProtocolConfig().hold_ns - SECOND)
        assert mesh.state(0, 1) is State.SUSPECT
        assert mesh.state(0, 2) is State.ALIVE
        changes = [e for e in mesh.machines[0].log if isinstance(e, MembershipChanged)]
        assert changes == []
        run(mesh, 60 * SECOND)
        assert mesh.state(0, 1) is State.DEAD
        assert mesh.state(0, 2) is not State.ALIVE

    def test_agreeing_with_one_member_ends_it(self) -> None:
        """Then the silent are judged as ever."""
        mesh = Mesh(3).start_all()
        mesh.crash(2)
        mesh.now += 100 * SECOND
        mesh.give(0, Resumed(100 * SECOND))
        assert mesh[0]._is_held(mesh.now)
        mesh.advance(5 * SECOND)
        assert not mesh[0]._is_held(mesh.now)
        mesh.advance(10 * SECOND)
        assert mesh.state(0, 2) is not State.ALIVE

    def test_suspects_get_the_time_back(self) -> None:
        """The gap counts for nobody."""
        mesh, _ = tapped(3, 1, 2)
        mesh[0]._membership.suspect(mesh.id(1), mesh.now, is_refused=False)
        before = mesh[0].members.suspicions[mesh.id(1)].deadline_ns
        mesh.give(0, Resumed(100 * SECOND))
        assert mesh[0].members.suspicions[mesh.id(1)].deadline_ns == before + 100 * SECOND

    def test_the_running_probe_has_no_verdict(self) -> None:
        """We were not there to hear the answer; its health score says nothing either."""
        mesh, (tap,) = tapped(2, 1)
        while not tap.pings(0):
            run(mesh, STEP)
        mesh.now += 3600 * SECOND
        mesh.give(0, Resumed(3600 * SECOND))
        mesh.give(0, DeadlineReached())
        assert mesh.state(0, 1) is State.ALIVE
        assert mesh[0].health_score == 0
        assert mesh[0].deadline <= mesh.now + SECOND

    def test_a_late_accuser_makes_no_gap(self) -> None:
        """A suspicion that is over because of who came just now was due no earlier than now: its
        driver would else think that it stood still.
        """
        mesh = Mesh(10).start_all()
        subject = mesh.id(9)
        mesh.crash(9)

        def accused_by(index: int) -> None:
            known = mesh[0].members.incarnation(subject)
            crypto = mesh.machines[index].crypto
            word = make_accusation(crypto, mesh.authorities.mesh, subject, known, is_dead=False)
            data = encode_stream(PushPull(False, (), (word.wire,), ()))
            mesh[0].handle(StreamReceived(1, mesh.id(index), data, mesh.wall_s), mesh.now)
            assert mesh[0].deadline >= mesh.now

        accused_by(1)
        end = mesh.now + 14 * SECOND
        while mesh[0].deadline <= end:
            mesh.now = max(mesh.now, mesh[0].deadline)
            mesh[0].handle(DeadlineReached(), mesh.now)
        mesh.now = end
        for index in (2, 3, 4):
            accused_by(index)
        assert mesh[0].deadline == mesh.now

    def test_who_is_alone_is_not_held(self) -> None:
        """There is nobody to ask, and nobody to accuse."""
        mesh = Mesh(1).start_all()
        mesh.give(0, Resumed(100 * SECOND))
        assert not mesh[0]._is_held(mesh.now)

    def test_before_the_start_and_after_the_goodbye_nothing_happens(self) -> None:
        """No probe starts, nobody is asked."""
        mesh = Mesh(2)
        mesh.boot(0)
        assert mesh.give(0, Resumed(SECOND)) == []
        assert mesh[0].deadline == NEVER
        mesh.start_all()
        mesh.give(0, LeaveRequested())
        assert not any(isinstance(e, OpenStream) for e in mesh.give(0, Resumed(SECOND)))
        assert mesh[0]._prober.deadline_ns == NEVER
