"""Last calls and refutations in a whole mesh: who missed an answer declares no living member dead.

What is sent to one machine may be lost here; everything else arrives at once.
"""

from protocol.config import SECOND
from protocol.effects import Effect, MembershipChanged
from protocol.members import State
from protocol.records import Role
from tests.helpers.nodes import Machine, Mesh, Parcel, Request


class Deaf:
    """One machine of a mesh hears nothing while `is_deaf`, and never what `muffled` sends."""

    def __init__(self, mesh: Mesh, index: int, *muffled: int) -> None:
        self.is_deaf = False
        self._machine = mesh.machines[index]
        self._muffled = [mesh.machines[i] for i in muffled]
        self._hand_over, self._connect = mesh.hand_over, mesh.connect
        mesh.hand_over = self._hand  # type: ignore[method-assign]  # a bad line
        mesh.connect = self._open  # type: ignore[method-assign]  # a bad line

    def _hand(self, parcel: Parcel) -> list[Effect]:
        is_muffled = parcel.source in [machine.address for machine in self._muffled]
        if parcel.to == self._machine.address and (self.is_deaf or is_muffled):
            return []
        return self._hand_over(parcel)

    def _open(self, request: Request) -> list[Effect]:
        """A stream needs both directions."""
        ends = (request.opener, request.peer)
        muffled = [(m.index, self._machine.id) for m in self._muffled]
        muffled += [(self._machine.index, m.id) for m in self._muffled]
        is_ours = request.opener == self._machine.index or request.peer == self._machine.id
        if ends in muffled or (self.is_deaf and is_ours):
            return []
        return self._connect(request)


def _deaths(machine: Machine) -> list[MembershipChanged]:
    changes = [effect for effect in machine.log if isinstance(effect, MembershipChanged)]
    return [change for change in changes if change.state is State.DEAD]


class TestMissedRefutations:
    """Node 0 accuses machine 1, which refutes; node 0 is deaf until its last call."""

    def _accuse(self) -> tuple[Mesh, Deaf, list[int]]:
        """The mesh, the line, and a list of when node 0 saw machine 1 alive again."""
        mesh = Mesh(5).start_all()
        line = Deaf(mesh, 0, 1)
        line.is_deaf = True
        back: list[int] = []
        mesh[0]._prober.stop()
        mesh[0]._membership.suspect(mesh.id(1), mesh.now, is_refused=False)

        def on_event(machine: Machine) -> None:
            suspicion = mesh[0].members.suspicions.get(mesh.id(1))
            if suspicion is not None and suspicion.called_ns is not None and line.is_deaf:
                line.is_deaf = False
                for other in (1, 2, 3, 4):  # what they say now, they say because of the call
                    mesh[other]._rumours.clear()
            if suspicion is None and not back:
                back.append(mesh.now)

        mesh.on_event = on_event
        return mesh, line, back

    def test_who_holds_a_refutation_answers_the_last_call(self) -> None:
        """At once, although the subject itself is not heard; the death is never declared."""
        mesh, line, back = self._accuse()
        suspicion = mesh[0].members.suspicions[mesh.id(1)]
        incarnation = suspicion.incarnation
        mesh.advance(60 * SECOND)
        assert not line.is_deaf
        assert back == [suspicion.called_ns]
        assert _deaths(mesh.machines[0]) == []
        assert mesh.state(0, 1) is State.ALIVE
        assert mesh[0].members.incarnation(mesh.id(1)) > incarnation
        assert mesh.is_one()

    def test_who_stays_deaf_declares_it_after_all(self) -> None:
        """The call delays no death: its answers have a second, no more."""
        mesh, line, back = self._accuse()
        mesh.on_event = lambda machine: None
        suspicion = mesh[0].members.suspicions[mesh.id(1)]
        mesh.advance(suspicion.deadline_ns - mesh.now)
        assert mesh.state(0, 1) is State.DEAD
        assert suspicion.called_ns == suspicion.deadline_ns - SECOND
        assert line.is_deaf
        assert back == []


def test_a_client_that_was_deaf_for_a_while_ends_with_everybody_alive() -> None:
    """Its accusation counts nowhere, but is refuted to it all the same; nobody dies anywhere."""
    for late in range(4):  # it suspects another member each time
        roles = [Role.WORKER, Role.WORKER, Role.WORKER, Role.CLIENT]
        mesh = Mesh(4, roles=roles, label=late).start_all()
        mesh.advance(late * SECOND // 4)
        line = Deaf(mesh, 3)
        line.is_deaf = True
        mesh.advance(2 * SECOND)
        assert mesh[3].members.suspicions, "it suspects somebody by now"
        line.is_deaf = False
        mesh.advance(30 * SECOND)
        assert mesh.is_one()
        assert [_deaths(machine) for machine in mesh.machines] == [[], [], [], []]
