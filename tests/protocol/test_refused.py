"""How long a suspicion lasts in a view: hard evidence, refutation, and our own state."""

import pytest

from protocol.codec import encode_datagram
from protocol.config import SECOND, ProtocolConfig
from protocol.deadlines import NEVER
from protocol.events import DeadlineReached, LeaveRequested
from protocol.identity import NodeId
from protocol.members import State
from protocol.messages import Gossip
from protocol.statements import make_accusation, make_alive
from protocol.suspicion import refused_timeout
from tests.helpers.nodes import Insider, Mesh, address_of
from tests.helpers.taps import Tap, tapped

GOSSIP = encode_datagram(Gossip())


class TestRefused:
    """Accusers whose stream the subject's host refused."""

    def _accused(self, *hosts: int, subject_at: int = 1) -> tuple[Mesh, NodeId]:
        """Node 0 hears, for each of `hosts`, an accuser there whom the subject's host refused."""
        mesh = Mesh(8)
        mesh.start(0)
        subject = Insider(mesh, 7)
        where = (address_of(subject_at),)
        mesh_id = mesh.authorities.mesh
        alive = make_alive(subject.crypto, mesh_id, 9, "subject", where, "")
        subject.tell(0, GOSSIP, alive.wire)
        for index, host in enumerate(hosts, start=2):
            accuser = Insider(mesh, index)
            life = make_alive(accuser.crypto, mesh_id, 9, "accuser", (address_of(host),), "")
            word = make_accusation(
                accuser.crypto, mesh_id, subject.crypto.node_id, 9, is_dead=False, is_refused=True
            )
            accuser.tell(0, GOSSIP, life.wire, word.wire)
        mesh.post.clear()
        return mesh, subject.crypto.node_id

    @pytest.mark.parametrize(
        ("hosts", "is_gone"),
        [((20,), False), ((20, 20), False), ((20, 21), True), ((50, 50), True), ((50,), False)],
    )
    def test_hosts_are_what_the_accusers_state(self, hosts: tuple[int, ...], is_gone: bool) -> None:
        """Two, or two on the subject's own (here 50); of one foreign host any number is one."""
        mesh, subject = self._accused(*hosts, subject_at=50)
        suspicion = mesh[0].members.suspicions[subject]
        assert suspicion.is_gone is is_gone
        lasts = suspicion.deadline_ns - suspicion.started_ns
        refused = refused_timeout(ProtocolConfig(), mesh[0].members.present_count)
        assert (lasts == refused) is is_gone
        assert lasts >= refused
        call = max(suspicion.started_ns, suspicion.deadline_ns - ProtocolConfig().last_call_ns)
        assert mesh[0]._membership.suspicion_deadlines.get(subject) == call

    def test_it_ends_in_death_no_sooner_than_a_refutation_could_come(self) -> None:
        """1.5 s, and not before."""
        mesh, subject = self._accused(20, 21)
        deadline = mesh[0].members.suspicions[subject].deadline_ns
        mesh[0]._membership.advance(deadline - SECOND)
        assert mesh[0]._membership.suspicion_deadlines.get(subject) == deadline
        mesh[0]._membership.advance(deadline - 1)
        assert mesh[0].members.state(subject) is State.SUSPECT
        mesh[0]._membership.advance(deadline)
        assert mesh[0].members.state(subject) is State.DEAD

    def test_a_refutation_before_the_deadline_always_wins(self) -> None:
        """In the last nanosecond too; the old accusations do not count against the new life."""
        mesh, subject = self._accused(20, 21)
        deadline = mesh[0].members.suspicions[subject].deadline_ns
        crypto = mesh.machines[7].crypto
        alive = make_alive(crypto, mesh.authorities.mesh, 10, "subject", (address_of(1),), "")
        mesh[0]._membership.accept_alive(alive, deadline - 1)
        assert mesh[0].members.state(subject) is State.ALIVE
        mesh[0]._membership.advance(deadline + 60 * SECOND)
        assert mesh[0].members.state(subject) is State.ALIVE

    def test_our_own_evidence_is_signed_anew(self) -> None:
        """First silence, then refused: what we spread says the stronger thing, and keeps it."""
        mesh = Mesh(4).start_all()
        membership, subject = mesh[0]._membership, mesh.id(1)
        membership.suspect(subject, mesh.now, is_refused=False)
        silent = membership.accusation_of(subject)
        membership.suspect(subject, mesh.now, is_refused=True)
        refused = membership.accusation_of(subject)
        membership.suspect(subject, mesh.now, is_refused=False)
        assert silent is not None
        assert refused is not None
        assert (silent.is_refused, refused.is_refused) == (False, True)
        assert membership.accusation_of(subject) is refused


def test_who_is_slow_itself_waits_longer_before_a_death() -> None:
    """Half as long again per point of its own health score, judged at the end."""
    mesh = Mesh(2).start_all()
    mesh[0]._membership.suspect(mesh.id(1), mesh.now, is_refused=False)
    suspicion = mesh[0].members.suspicions[mesh.id(1)]
    mesh[0]._awareness.note(2)
    membership = mesh[0]._membership
    membership.advance(suspicion.deadline_ns)
    assert mesh.state(0, 1) is State.SUSPECT
    end = suspicion.started_ns + 2 * suspicion.timeout_ns
    assert membership.suspicion_deadlines.next_ns == end
    membership.advance(end)
    assert mesh.state(0, 1) is State.DEAD


class TestLastCall:
    """Shortly before a death whoever knows better is asked to object."""

    def _suspect(self) -> tuple[Mesh, list[Tap]]:
        """Node 0 suspects the last of five taps."""
        mesh, taps = tapped(6, 1, 2, 3, 4, 5)
        for tap in taps:
            tap.take()
        mesh[0]._prober.stop()
        mesh[0]._membership.suspect(taps[-1].id, mesh.now, is_refused=False)
        mesh[0]._rumours.clear()
        return mesh, taps

    def test_it_goes_to_three_members_and_the_subject(self) -> None:
        """With our accusation, a second before the end, once."""
        mesh, taps = self._suspect()
        subject = taps[-1]
        suspicion = mesh[0].members.suspicions[subject.id]
        word = mesh[0]._membership.accusation_of(subject.id)
        assert word is not None
        mesh.now = suspicion.deadline_ns - SECOND - 1
        mesh.give(0, DeadlineReached())
        assert [riders for tap in taps for _, _, riders in tap.take_all()] == []
        for _ in range(3):
            mesh.now += 1
            mesh.give(0, DeadlineReached())
        told = {tap.id: riders for tap in taps for _, _, riders in tap.take_all()}
        assert subject.id in told
        assert len(told) == 4
        assert all(riders == [word.wire] for riders in told.values())
        mesh.now = suspicion.deadline_ns
        mesh.give(0, DeadlineReached())
        assert mesh[0].members.state(subject.id) is State.DEAD

    def test_an_objection_saves(self) -> None:
        """The subject's own next life, brought by anybody."""
        mesh, taps = self._suspect()
        subject = taps[-1]
        deadline = mesh[0].members.suspicions[subject.id].deadline_ns
        mesh.now = deadline - SECOND
        mesh.give(0, DeadlineReached())
        taps[0].insider.tell(0, GOSSIP, subject.insider.alive(51).wire)
        mesh.now = deadline + SECOND
        mesh.give(0, DeadlineReached())
        assert mesh[0].members.state(subject.id) is State.ALIVE

    def test_who_becomes_slow_afterwards_does_not_call_twice(self) -> None:
        """The end moves away; the answers to the call are still on their way."""
        mesh, taps = self._suspect()
        subject = taps[-1]
        suspicion = mesh[0].members.suspicions[subject.id]
        mesh.now = suspicion.deadline_ns - SECOND
        mesh.give(0, DeadlineReached())
        for tap in taps:
            tap.take()
        mesh[0]._awareness.note(1)
        mesh.now = suspicion.deadline_ns
        mesh.give(0, DeadlineReached())
        assert [riders for tap in taps for _, _, riders in tap.take_all()] == []
        due = mesh[0]._membership.suspicion_deadlines.get(subject.id)
        assert due == suspicion.started_ns + 3 * suspicion.timeout_ns // 2

    def test_however_late_there_is_time_to_answer(self) -> None:
        """Overdue already, by accusers that came all at once: half a second from the call."""
        mesh, taps = self._suspect()
        subject = taps[-1]
        suspicion = mesh[0].members.suspicions[subject.id]
        called = mesh.now = suspicion.deadline_ns + 5 * SECOND
        mesh.give(0, DeadlineReached())
        assert mesh[0].members.state(subject.id) is State.SUSPECT
        assert subject.id in [tap.id for tap in taps if tap.take()]
        half = ProtocolConfig().last_call_ns // 2
        due = mesh[0]._membership.suspicion_deadlines.get(subject.id)
        assert due == called + half == called + SECOND // 2
        for at, state in ((due - 1, State.SUSPECT), (due, State.DEAD)):
            mesh.now = at
            mesh.give(0, DeadlineReached())
            assert mesh[0].members.state(subject.id) is state

    def test_accusers_after_the_call_do_not_take_that_time(self) -> None:
        """The suspicion becomes its shortest; who was asked may still object."""
        mesh, taps = self._suspect()
        subject = taps[-1]
        suspicion = mesh[0].members.suspicions[subject.id]
        called = mesh.now = suspicion.deadline_ns - SECOND
        mesh.give(0, DeadlineReached())
        for tap in taps[:3]:
            word = make_accusation(
                tap.insider.crypto, mesh.authorities.mesh, subject.id, 50, is_dead=False
            )
            tap.insider.tell(0, GOSSIP, word.wire)
        assert suspicion.deadline_ns < called
        due = mesh[0]._membership.suspicion_deadlines.get(subject.id)
        assert due == called + SECOND // 2

    def test_who_has_left_declares_nobody_dead(self) -> None:
        """Its view is nobody's concern any more; it is not woken for it either."""
        mesh, taps = self._suspect()
        deadline = mesh[0].members.suspicions[taps[-1].id].deadline_ns
        mesh.give(0, LeaveRequested())
        mesh[0]._rumours.clear()
        mesh.give(0, DeadlineReached())
        for tap in taps:
            tap.take()
        for later in (1, 2, 3):  # a call, the time for its answers, a death: none of them comes
            mesh.now = deadline + later * SECOND
            mesh.give(0, DeadlineReached())
            assert mesh[0].deadline > mesh.now
        assert [riders for tap in taps for _, _, riders in tap.take_all()] == []
        assert mesh[0]._membership.deadline_ns == NEVER
        assert mesh[0].members.state(taps[-1].id) is State.SUSPECT

    def test_after_a_gap_it_is_called_again(self) -> None:
        """The answers may have come while we stood still."""
        mesh, taps = self._suspect()
        subject = taps[-1]
        suspicion = mesh[0].members.suspicions[subject.id]
        mesh.now = suspicion.deadline_ns - SECOND
        mesh.give(0, DeadlineReached())
        assert suspicion.called_ns == mesh.now
        mesh[0]._membership.hold(mesh.now, 100 * SECOND)
        assert suspicion.called_ns is None
        due = mesh[0]._membership.suspicion_deadlines.get(subject.id)
        assert due == suspicion.deadline_ns - SECOND
