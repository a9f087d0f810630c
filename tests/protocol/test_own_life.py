"""What a node states of itself, and how it holds its own against its past and its copies."""

from collections.abc import Callable

import pytest

from protocol.codec import encode_datagram, encode_stream
from protocol.config import SECOND
from protocol.effects import AnswerStream, Effect, OpenStream, Persist, SendDatagram, Superseded
from protocol.errors import DropReason, LocalProtocolError, Refused
from protocol.events import (
    AddressesChanged,
    LeaveRequested,
    Resumed,
    Started,
    StreamReceived,
)
from protocol.identity import INCARNATION_MAX, Address, NodeId
from protocol.members import State
from protocol.messages import Gossip, Origin, Ping, StreamProbe
from protocol.records import Role
from protocol.statements import (
    RUN_MAX,
    Alive,
    make_accusation,
    make_alive,
    make_left,
)
from tests.helpers.nodes import Insider, Machine, Mesh, address_of

GOSSIP = encode_datagram(Gossip())


def _mesh(size: int = 3, insiders: int = 1, role: Role = Role.WORKER) -> tuple[Mesh, Insider]:
    """A mesh whose last machines have no node of their own; the last one speaks as an insider."""
    roles = [Role.WORKER] * (size - 1) + [role]
    mesh = Mesh(size, roles=roles)
    for index in range(size - insiders):
        mesh.start(index)
    for one in range(size - insiders):
        for other in range(one):
            mesh.exchange(one, other)
    mesh.advance(3 * SECOND)
    return mesh, Insider(mesh, size - 1)


def _accuse(insider: Insider, subject: NodeId, incarnation: int) -> bytes:
    mesh = insider.mesh.authorities.mesh
    return make_accusation(insider.crypto, mesh, subject, incarnation, is_dead=True).wire


def _old_life(mesh: Mesh, index: int, incarnation: int, run: int = 0) -> Alive:
    crypto = mesh.machines[index].crypto
    where = (address_of(index),)
    return make_alive(crypto, mesh.authorities.mesh, incarnation, f"n{index}", where, "test", run)


def _own(mesh: Mesh, index: int = 0) -> Alive:
    alive = mesh[index].members.alive_record(mesh.id(index))
    assert alive is not None
    return alive


class TestOwnLife:
    """What a node states of itself."""

    def test_numbers_are_on_disk_before_they_are_said(self) -> None:
        """The Persist comes before any datagram of the new incarnation."""
        mesh, insider = _mesh()
        incarnation = mesh[0].members.incarnation(mesh.id(0))
        ping = GOSSIP
        effects = insider.tell(0, ping, _accuse(insider, mesh.id(0), incarnation))
        persists = [e for e in effects if isinstance(e, Persist)]
        assert [p.incarnation for p in persists] == [incarnation + 1]
        kinds = [type(e) for e in effects]
        assert SendDatagram not in kinds[: kinds.index(Persist)]

    def test_each_accusation_is_answered_by_one_number(self) -> None:
        """The same accusation again is stale: numbers do not run away."""
        mesh, insider = _mesh()
        incarnation = mesh[0].members.incarnation(mesh.id(0))
        wire = _accuse(insider, mesh.id(0), incarnation)
        for _ in range(5):
            insider.tell(0, GOSSIP, wire)
        insider.tell(0, GOSSIP, _accuse(insider, mesh.id(0), incarnation + 40))
        assert mesh[0].members.incarnation(mesh.id(0)) == incarnation + 1

    def test_who_missed_the_answer_hears_it_again(self) -> None:
        """An accusation of an earlier life is answered by the present one, so that a node that
        answers pings is not given up by somebody who lost one rumour.
        """
        mesh = Mesh(3).start_all()
        mesh.machines[2].node = None
        insider = Insider(mesh, 2)
        old = mesh[0].members.incarnation(mesh.id(1))
        mesh.give(1, AddressesChanged((address_of(1),)))
        mesh[1]._rumours.clear()
        insider.tell(0, GOSSIP, _accuse(insider, mesh.id(1), old))
        assert mesh.state(0, 1) is State.SUSPECT
        mesh.advance(3 * SECOND)
        assert mesh.state(0, 1) is State.ALIVE
        assert mesh[0].members.incarnation(mesh.id(1)) == old + 1

    def test_a_restart_is_above_everything_said_before(self) -> None:
        """Own numbers come from disk."""
        mesh = Mesh(3).start_all()
        before = mesh[0].members.incarnation(mesh.id(2))
        mesh.crash(2)
        mesh.start(2)
        mesh.advance(5 * SECOND)
        assert mesh[0].members.incarnation(mesh.id(2)) > before
        assert mesh.is_one()

    def test_a_restored_home_adopts_its_highest_numbers(self) -> None:
        """Its own signed word from later than the backup comes back, and is risen above."""
        mesh = Mesh(3).start_all()
        later = _old_life(mesh, 2, 50)
        mesh[0].members.put_alive(later)
        mesh.crash(2)
        mesh.machines[2].incarnation = 1
        mesh.start(2)
        mesh.exchange(2, 0)
        mesh.advance(10 * SECOND)
        assert mesh[2].members.incarnation(mesh.id(2)) == 51
        assert mesh.machines[2].incarnation == 51
        assert mesh.is_one()

    def test_an_own_goodbye_from_later_is_risen_above(self) -> None:
        """A restored home that had left before is there now."""
        mesh, insider = _mesh()
        mesh_id = mesh.authorities.mesh
        later = make_left(mesh.machines[0].crypto, mesh_id, 70)
        insider.tell(0, GOSSIP, later.wire)
        assert mesh[0].members.incarnation(mesh.id(0)) == 71

    def test_own_words_before_the_start_are_adopted_at_the_start(self) -> None:
        """Nothing is published without an address."""
        mesh = Mesh(2)
        mesh.boot(0)
        insider = Insider(mesh, 1)
        effects = insider.tell(0, GOSSIP, _old_life(mesh, 0, 50).wire)
        assert not any(isinstance(e, Persist) for e in effects)
        mesh.give(0, Started((address_of(0),)))
        assert mesh[0].members.incarnation(mesh.id(0)) == 51

    def test_at_the_last_number_nothing_more_is_said(self) -> None:
        """No exception, whoever provokes it; nobody reaches that by single steps."""
        mesh, insider = _mesh()
        wire = _old_life(mesh, 0, INCARNATION_MAX).wire
        insider.tell(0, GOSSIP, wire)
        insider.tell(0, GOSSIP, _old_life(mesh, 0, INCARNATION_MAX - 1).wire)
        assert mesh[0].members.incarnation(mesh.id(0)) == INCARNATION_MAX
        insider.tell(0, GOSSIP, _accuse(insider, mesh.id(0), INCARNATION_MAX))
        assert mesh[0].members.incarnation(mesh.id(0)) == INCARNATION_MAX

    @pytest.mark.parametrize(
        "addresses",
        [
            (),
            tuple(address_of(n) for n in range(5)),
            (Address("0.0.0.0", 7700),),
            (Address("10.0.0.1", 0),),
            tuple(Address("a" * 60 + "." + "b" * 60 + "." + str(n) * 60, 1) for n in range(4)),
        ],
    )
    def test_what_others_would_refuse_is_not_published(
        self, addresses: tuple[Address, ...]
    ) -> None:
        """The driver hears of it at once."""
        mesh = Mesh(1)
        mesh.boot(0)
        with pytest.raises(LocalProtocolError):
            mesh[0].handle(Started(addresses), mesh.now)

    def test_new_addresses_are_a_new_statement(self) -> None:
        """And before the start there is nothing to state."""
        mesh = Mesh(2)
        mesh.boot(0)
        assert mesh.give(0, AddressesChanged((address_of(50),))) == []
        mesh.start_all()
        mesh.give(0, AddressesChanged((address_of(50),)))
        mesh.advance(2 * SECOND)
        record = mesh[1].members.alive_record(mesh.id(0))
        assert record is not None
        assert record.addresses == (address_of(50),)

    def test_an_earlier_life_does_not_refute(self) -> None:
        """Before the start there is nothing that an accusation could be of."""
        mesh = Mesh(2)
        mesh.boot(0)
        insider = Insider(mesh, 1)
        insider.tell(0, GOSSIP, insider.alive().wire, _accuse(insider, mesh.id(0), 1))
        assert mesh.machines[0].incarnation == 0
        assert mesh[0].health_score == 0


class TestRuns:
    """Two runs of one identity: a home that was copied, or one that was restored."""

    def _met(self) -> tuple[Mesh, Insider]:
        """Node 0 has agreed with a member."""
        mesh, insider = _mesh()
        mesh[0]._own_life.note_met()
        return mesh, insider

    def _tell(self, mesh: Mesh, insider: Insider, above: int, newer: int) -> list[Effect]:
        """Node 0 hears an Alive of its own, so much above its number and run."""
        own = _own(mesh)
        alive = _old_life(mesh, 0, own.incarnation + above, own.run + newer)
        return insider.tell(0, GOSSIP, alive.wire)

    def test_a_copy_that_starts_later_is_the_member(self) -> None:
        """In a whole mesh: the older run says so and falls silent, the newer one stays."""
        mesh = Mesh(3).start_all()
        mesh[2]._own_life.note_met()
        old = mesh.machines[2]
        copy = Machine(3, old.crypto, address_of(3), incarnation=old.incarnation)
        copy.snapshot = mesh[2].snapshot()
        mesh.machines.append(copy)
        mesh.now += 5 * SECOND
        mesh.start(3)
        mesh.advance(20 * SECOND)
        assert mesh[2].is_superseded
        assert not mesh[3].is_superseded
        assert len([e for e in old.log if isinstance(e, Superseded)]) == 1
        for viewer in (0, 1):
            alive = mesh[viewer].members.alive_record(copy.id)
            assert alive is not None
            assert alive.addresses == (address_of(3),)
            assert mesh.state(viewer, 3) is State.ALIVE
        old.log.clear()
        mesh.advance(30 * SECOND)
        assert not any(isinstance(e, SendDatagram | OpenStream | Persist) for e in old.log)
        assert mesh.state(0, 3) is State.ALIVE

    def test_a_newer_runs_life_ends_ours(self) -> None:
        """Reported once, with its number; our own rumours are not spread any more."""
        mesh, insider = self._met()
        incarnation = _own(mesh).incarnation
        effects = self._tell(mesh, insider, above=1, newer=1)
        assert [e for e in effects if isinstance(e, Superseded)] == [Superseded(incarnation + 1)]
        assert mesh[0].is_superseded
        assert _own(mesh).incarnation == incarnation
        again = self._tell(mesh, insider, above=2, newer=2)
        assert not any(isinstance(e, Superseded | Persist) for e in again)

    def test_at_the_same_number_the_newer_run_wins_too(self) -> None:
        """Both had the same disk: only the run tells them apart."""
        mesh, insider = self._met()
        self._tell(mesh, insider, above=0, newer=1)
        assert mesh[0].is_superseded

    def test_who_is_superseded_neither_refutes_nor_publishes_nor_leaves(self) -> None:
        """The newer run answers for the identity."""
        mesh, insider = self._met()
        insider.tell(0, GOSSIP, insider.alive().wire)
        self._tell(mesh, insider, above=1, newer=1)
        incarnation = _own(mesh).incarnation
        mesh.machines[0].log.clear()
        insider.tell(0, GOSSIP, _accuse(insider, mesh.id(0), incarnation))
        mesh.give(0, AddressesChanged((address_of(50),)))
        mesh.give(0, LeaveRequested())
        mesh.give(0, Resumed(SECOND))
        mesh.advance(60 * SECOND)
        log = mesh.machines[0].log
        assert not any(isinstance(e, Persist | SendDatagram | OpenStream) for e in log)
        assert _own(mesh).incarnation == incarnation
        assert mesh[0].health_score == 0

    def test_who_is_superseded_answers_no_probes(self) -> None:
        """Else it would be counted alive in the newer one's place."""
        mesh, insider = self._met()
        insider.tell(0, GOSSIP, insider.alive().wire)
        self._tell(mesh, insider, above=1, newer=1)
        effects = insider.tell(0, encode_datagram(Ping(5, None)))
        assert not any(isinstance(e, SendDatagram) for e in effects)
        data = encode_stream(StreamProbe(Origin(insider.crypto.node_id, 5)))
        event = StreamReceived(1, insider.crypto.node_id, data, mesh.wall_s)
        assert not any(isinstance(e, AnswerStream) for e in mesh[0].handle(event, mesh.now))

    def test_an_old_recording_supersedes_nobody(self) -> None:
        """A lower number, whatever run it names; or an earlier run, whatever number it has."""
        mesh, insider = self._met()
        incarnation = _own(mesh).incarnation
        self._tell(mesh, insider, above=-1, newer=1)
        self._tell(mesh, insider, above=-1, newer=-1)
        self._tell(mesh, insider, above=0, newer=0)
        assert not mesh[0].is_superseded
        assert _own(mesh).incarnation == incarnation
        self._tell(mesh, insider, above=3, newer=-1)
        assert not mesh[0].is_superseded
        assert _own(mesh).incarnation == incarnation + 4

    def test_recordings_are_stale_however_they_come(self) -> None:
        """Also when nothing before has looked at their numbers."""
        mesh, _ = self._met()
        own, life = _own(mesh), mesh[0]._own_life
        left = make_left(mesh.machines[0].crypto, mesh.authorities.mesh, own.incarnation - 1)
        tries: tuple[Callable[[], None], ...] = (
            lambda: life.accept_alive(_old_life(mesh, 0, own.incarnation - 1, own.run + 1)),
            lambda: life.accept_alive(_old_life(mesh, 0, own.incarnation - 1, own.run - 1)),
            lambda: life.accept_alive(own),
            lambda: life.accept_left(left),
        )
        for words in tries:
            with pytest.raises(Refused) as caught:
                words()
            assert caught.value.reason is DropReason.STALE
        assert not mesh[0].is_superseded
        assert _own(mesh) == own

    def test_a_run_that_has_just_begun_takes_the_higher_number(self) -> None:
        """Its clock was behind: whoever starts last is the newer."""
        mesh, insider = _mesh()
        mesh[0]._own_life._has_met = False
        before = _own(mesh)
        self._tell(mesh, insider, above=5, newer=9)
        after = _own(mesh)
        assert not mesh[0].is_superseded
        assert after.run > before.run + 9
        assert after.incarnation > before.incarnation + 5

    def test_it_takes_it_before_the_start_too(self) -> None:
        """What is heard while joining is stated at the start."""
        mesh = Mesh(2)
        mesh.boot(0)
        insider = Insider(mesh, 1)
        insider.tell(0, GOSSIP, _old_life(mesh, 0, 50, run=2**60).wire)
        mesh.give(0, Started((address_of(0),)))
        assert (_own(mesh).incarnation, _own(mesh).run) == (51, 2**60 + 1)

    def test_a_lower_number_of_a_later_run_is_risen_above_too(self) -> None:
        """Runs and numbers are counted apart."""
        mesh, _ = _mesh()
        mesh[0]._own_life._has_met = False
        before = _own(mesh)
        alive = _old_life(mesh, 0, before.incarnation, before.run + 9)
        mesh[0]._own_life.accept_alive(alive)
        assert _own(mesh).run == before.run + 10
        assert _own(mesh).incarnation == before.incarnation + 1

    def test_the_last_run_has_no_next(self) -> None:
        """No exception, whoever says so."""
        mesh, insider = _mesh()
        mesh[0]._own_life._has_met = False
        insider.tell(0, GOSSIP, _old_life(mesh, 0, 50, RUN_MAX).wire)
        assert _own(mesh).run == RUN_MAX
        assert _own(mesh).incarnation == 51

    def test_who_has_left_does_not_come_back_because_of_a_copy(self) -> None:
        """A goodbye is a goodbye, whether anybody was met or not."""
        for has_met in (False, True):
            mesh, insider = _mesh()
            mesh[0]._own_life._has_met = has_met
            mesh.give(0, LeaveRequested())
            effects = self._tell(mesh, insider, above=1, newer=1)
            assert mesh.state(0, 0) is State.LEFT
            assert not any(isinstance(e, Persist) for e in effects)
