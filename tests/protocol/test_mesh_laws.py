"""Any story of three nodes keeps the laws: a state machine that hypothesis drives and shrinks."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.config import SECOND
from protocol.effects import MembershipChanged, SendDatagram
from protocol.envelope import DATAGRAM_BYTES_MAX
from protocol.events import LeaveRequested, OfferChanged
from protocol.identity import NodeId
from protocol.members import State
from tests.helpers.nodes import Machine, Mesh

SIZE = 4
indexes = st.integers(0, SIZE - 1)


class MeshStory(RuleBasedStateMachine):
    """Nodes that are started, cut off, crashed and brought back, over a post that loses things."""

    def __init__(self) -> None:
        super().__init__()
        self.mesh = Mesh(SIZE)
        self.mesh.on_event = self._check
        self.seen: dict[tuple[int, int, NodeId], tuple[int, State | None]] = {}
        self.lives = [0] * SIZE
        self.published = dict.fromkeys((m.id for m in self.mesh.machines), 0)

    @initialize()
    def begin(self) -> None:
        """Three are up and know each other, the fourth is away."""
        for index in range(SIZE - 1):
            self.mesh.start(index)
        self.mesh.exchange(0, 1)
        self.mesh.exchange(1, 2)

    # ---- what may happen ----

    @precondition(lambda self: self.mesh.post)
    @rule(data=st.data())
    def deliver_one(self, data: st.DataObject) -> None:
        """Any datagram arrives, out of order."""
        index = data.draw(st.integers(0, len(self.mesh.post) - 1))
        self.mesh.hand_over(self.mesh.post.pop(index))

    @precondition(lambda self: self.mesh.post)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        """Any datagram arrives, and is still under way."""
        index = data.draw(st.integers(0, len(self.mesh.post) - 1))
        self.mesh.hand_over(self.mesh.post[index])

    @precondition(lambda self: self.mesh.post)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """Some datagrams are lost."""
        count = data.draw(st.integers(1, len(self.mesh.post)))
        del self.mesh.post[:count]

    @precondition(lambda self: self.mesh.requests)
    @rule()
    def connect(self) -> None:
        """The oldest stream is served or fails."""
        self.mesh.connect(self.mesh.requests.pop(0))

    @precondition(lambda self: self.mesh.requests)
    @rule()
    def lose_streams(self) -> None:
        """All streams under way are lost."""
        self.mesh.requests.clear()

    @rule()
    def settle(self) -> None:
        """Everything arrives."""
        self.mesh.settle()

    @rule(tenths=st.integers(1, 100), delivers=st.booleans())
    def advance(self, tenths: int, delivers: bool) -> None:
        """Time passes, with or without a network."""
        self.mesh.advance(tenths * SECOND // 10, deliver=delivers)
        del self.mesh.post[:-200]

    @rule(index=indexes, keeps=st.booleans())
    def stop_or_start(self, index: int, keeps: bool) -> None:
        """A process dies, with or without its snapshot, or comes up again."""
        if self.mesh.machines[index].node is None:
            self.lives[index] += 1
            self.mesh.start(index)
        else:
            self.mesh.crash(index, keeps_snapshot=keeps)

    @rule(index=indexes)
    def leave(self, index: int) -> None:
        """Somebody says goodbye."""
        self.mesh.give(index, LeaveRequested())

    @rule(index=indexes, key=st.sampled_from(["a", "b"]), value=st.binary(max_size=3))
    def offer(self, index: int, key: str, value: bytes) -> None:
        """Somebody offers something else."""
        self.mesh.give(index, OfferChanged(key, value))

    @rule(one=indexes, other=indexes)
    def meet(self, one: int, other: int) -> None:
        """Two nodes exchange everything."""
        machines = self.mesh.machines
        if one != other and machines[one].node is not None and machines[other].node is not None:
            self.mesh.exchange(one, other)

    # ---- what must hold ----

    def _check(self, machine: Machine) -> None:
        """After every single event of every node."""
        node = machine.node
        assert node is not None
        members = node.members
        for subject in [m.id for m in self.mesh.machines]:
            state, incarnation = members.state(subject), members.incarnation(subject)
            key = (machine.index, self.lives[machine.index], subject)
            earlier, how = self.seen.get(key, (0, None))
            assert incarnation >= earlier, "a number fell"
            if how is State.LEFT and incarnation == earlier:
                assert state is State.LEFT, "a goodbye was taken back"
            if how is State.DEAD and incarnation == earlier:
                assert state in (State.DEAD, State.LEFT), "a ghost"
            self.seen[key] = (incarnation, state)
            if members.is_present(subject):
                assert node.authority.admission(subject) is not None
        assert machine.incarnation == members.incarnation(machine.id), "said before it was on disk"
        assert machine.incarnation >= self.published[machine.id]
        self.published[machine.id] = machine.incarnation
        self._check_effects(machine)

    def _check_effects(self, machine: Machine) -> None:
        for effect in machine.log:
            if isinstance(effect, SendDatagram):
                assert len(effect.data) <= DATAGRAM_BYTES_MAX
            if isinstance(effect, MembershipChanged):
                assert effect.state is not effect.previous or effect.name
        machine.log.clear()

    @invariant()
    def tables_are_bounded(self) -> None:
        """Nothing grows with time."""
        for machine in self.mesh.machines:
            if machine.node is None:
                continue
            node = machine.node
            assert len(node.members.all()) <= SIZE
            assert len(node.members.suspicions) <= SIZE
            assert len(node._envelope._sessions) <= SIZE
            assert len(node._rumours) <= 8 * SIZE
            assert len(node._helper._relays) <= 256
            assert len(node._prober._order) <= 2 * SIZE
            assert len(node.authority._waiting) == 0
            assert len(node.offers.all()) <= 2 * SIZE

    def teardown(self) -> None:
        """When the faults end, those that run and have not left become one mesh again."""
        mesh = self.mesh
        for machine in mesh.machines:
            node = machine.node
            if node is not None and node.members.state(machine.id) is State.LEFT:
                mesh.crash(machine.index)
        for machine in mesh.machines:
            if machine.node is None:
                self.lives[machine.index] += 1
                mesh.start(machine.index)
        mesh.exchange(0, 1)
        mesh.exchange(1, 2)
        mesh.exchange(2, 3)
        mesh.advance(60 * SECOND)
        assert mesh.is_one()


MeshStory.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestMeshStory = MeshStory.TestCase
