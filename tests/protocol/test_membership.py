"""Lives, accusations and deaths in a view."""

import itertools
from collections.abc import Callable

import pytest

from protocol.codec import encode_datagram
from protocol.config import SECOND, ProtocolConfig
from protocol.effects import MembershipChanged, SendDatagram
from protocol.errors import DropReason, Refused
from protocol.events import (
    AddressesChanged,
    LeaveRequested,
    Started,
)
from protocol.identity import INCARNATION_MAX, NodeId
from protocol.members import State
from protocol.messages import Gossip
from protocol.records import Role
from protocol.statements import (
    Statement,
    make_accusation,
    make_alive,
    make_left,
)
from tests.helpers.nodes import Insider, Mesh, address_of, drops_in

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


class TestAlive:
    """What a member states of itself."""

    def test_only_higher_numbers_count(self) -> None:
        """Lower and equal ones are stale; a higher one changes name and addresses."""
        mesh, insider = _mesh()
        insider.tell(0, GOSSIP, insider.alive(5).wire)
        assert mesh.state(0, 2) is State.ALIVE
        for incarnation in (4, 5):
            effects = insider.tell(0, GOSSIP, insider.alive(incarnation).wire)
            assert not any(isinstance(e, MembershipChanged) for e in effects)
        mesh_id = mesh.authorities.mesh
        moved = make_alive(insider.crypto, mesh_id, 6, "new", (address_of(77),), "")
        insider.tell(0, GOSSIP, moved.wire)
        assert mesh[0].members.alive_record(insider.crypto.node_id) == moved

    def test_nobody_speaks_for_another(self) -> None:
        """Another's name under our signature, or the other way round: the frame ends there."""
        for index in range(2):
            mesh, insider = _mesh()
            mesh_id = mesh.authorities.mesh
            forged = (
                make_alive(insider.crypto, mesh_id, 99, "x", (address_of(9),), ""),
                make_left(insider.crypto, mesh_id, 99),
            )[index]
            wire = forged.wire.replace(insider.crypto.node_id, mesh.id(1))
            assert wire != forged.wire
            effects = insider.tell(0, GOSSIP, wire, insider.alive(3).wire)
            assert drops_in(effects) == [DropReason.BAD_SIGNATURE]
            assert mesh.state(0, 1) is State.ALIVE
            assert mesh.state(0, 2) is None

    def test_strangers_are_not_taken_in(self) -> None:
        """A correct signature by a key that nobody admitted."""
        mesh, insider = _mesh()
        stranger = Mesh(1, label="strangers").machines[0].crypto
        alive = make_alive(stranger, mesh.authorities.mesh, 1, "x", (address_of(9),), "")
        assert DropReason.NOT_ADMITTED in drops_in(insider.tell(0, GOSSIP, alive.wire))
        assert mesh[0].members.state(stranger.node_id) is None

    def test_a_huge_number_harms_only_its_author(self) -> None:
        """It is the end of that member's numbers; nobody else's view suffers."""
        mesh, insider = _mesh()
        insider.tell(0, GOSSIP, insider.alive(INCARNATION_MAX).wire)
        mesh.settle()
        mesh.advance(60 * SECOND)
        assert mesh.state(0, 2) is State.DEAD
        assert mesh.state(0, 1) is mesh.state(1, 0) is State.ALIVE

    def test_two_lives_under_one_number_are_settled_alike(self) -> None:
        """In both orders the lower bytes stay, and both report the contradiction."""
        stays = []
        for flip in (False, True):
            mesh, insider = _mesh()
            pair = [
                make_alive(insider.crypto, mesh.authorities.mesh, 3, name, (address_of(2),), "")
                for name in ("one", "two")
            ]
            first, second = sorted(pair, key=lambda a: a.wire, reverse=flip)
            insider.tell(0, GOSSIP, first.wire)
            effects = insider.tell(0, GOSSIP, second.wire)
            assert drops_in(effects) == [DropReason.EQUIVOCATION]
            stays.append(mesh[0].members.alive_record(insider.crypto.node_id))
        assert stays[0] == stays[1]

    def test_two_lives_of_a_dead_member_change_nothing(self) -> None:
        """Its contradiction is reported, and it stays dead."""
        mesh, insider = _mesh()
        insider.tell(0, GOSSIP, insider.alive(3).wire)
        mesh.advance(60 * SECOND)
        assert mesh.state(0, 2) is State.DEAD
        other = make_alive(insider.crypto, mesh.authorities.mesh, 3, "a", (address_of(2),), "")
        assert drops_in(insider.tell(0, GOSSIP, other.wire)) == [DropReason.EQUIVOCATION]
        assert mesh.state(0, 2) is State.DEAD

    def test_the_dead_come_back_only_by_themselves(self) -> None:
        """The old life, said again by anybody, revives nobody; a higher number does."""
        mesh, insider = _mesh()
        insider.tell(0, GOSSIP, insider.alive(3).wire)
        mesh.advance(60 * SECOND)
        insider.tell(0, GOSSIP, insider.alive(3).wire)
        assert mesh.state(0, 2) is State.DEAD
        insider.tell(0, GOSSIP, insider.alive(4).wire)
        assert mesh.state(0, 2) is State.ALIVE

    def test_the_view_is_bounded(self) -> None:
        """Beyond the limit newcomers are refused, and old members stay."""
        mesh = Mesh(3, protocol=ProtocolConfig(members_max=2))
        mesh.start(0)
        mesh.start(1)
        mesh.exchange(0, 1)
        insider = Insider(mesh, 2)
        effects = insider.tell(0, GOSSIP, insider.alive().wire)
        assert DropReason.TABLE_FULL in drops_in(effects)
        assert mesh.state(0, 1) is State.ALIVE


class TestLeft:
    """Goodbyes."""

    def test_leaving_is_known_at_once_and_stays(self) -> None:
        """All hear "left", nobody ever says "dead"."""
        mesh = Mesh(4).start_all()
        mesh.give(2, LeaveRequested())
        mesh.settle()
        for viewer in (0, 1, 3):
            assert mesh.state(viewer, 2) is State.LEFT
        mesh.crash(2)
        mesh.advance(120 * SECOND)
        for viewer in (0, 1, 3):
            assert mesh.state(viewer, 2) is State.LEFT
            changes = [e for e in mesh.machines[viewer].log if isinstance(e, MembershipChanged)]
            assert State.DEAD not in [change.state for change in changes]

    def test_leaving_twice_says_it_once(self) -> None:
        """And a node that has not started has nothing to say."""
        mesh = Mesh(2)
        mesh.boot(0)
        assert mesh.give(0, LeaveRequested()) == []
        mesh.start_all()
        assert any(isinstance(e, SendDatagram) for e in mesh.give(0, LeaveRequested()))
        assert mesh.give(0, LeaveRequested()) == []

    def test_back_after_a_goodbye(self) -> None:
        """The next start has a higher number."""
        mesh = Mesh(3).start_all()
        mesh.give(2, LeaveRequested())
        mesh.settle()
        mesh.crash(2)
        mesh.advance(SECOND)
        mesh.start(2)
        mesh.advance(10 * SECOND)
        assert mesh.is_one()

    def test_a_goodbye_of_a_suspect_or_dead_member_counts(self) -> None:
        """At the same number: it says how it ended."""
        mesh, insider = _mesh()
        insider.tell(0, GOSSIP, insider.alive(3).wire)
        mesh.advance(60 * SECOND)
        left = make_left(insider.crypto, mesh.authorities.mesh, 3)
        insider.tell(0, GOSSIP, left.wire)
        assert mesh.state(0, 2) is State.LEFT
        assert drops_in(insider.tell(0, GOSSIP, left.wire)) == []

    def test_a_goodbye_before_the_life(self) -> None:
        """The life that it ended gives addresses, and does not revive."""
        mesh, insider = _mesh()
        insider.tell(0, GOSSIP, make_left(insider.crypto, mesh.authorities.mesh, 3).wire)
        assert mesh.state(0, 2) is State.LEFT
        assert mesh[0].address_of(mesh.id(2)) != ()
        insider.tell(0, GOSSIP, insider.alive(3).wire)
        assert mesh.state(0, 2) is State.LEFT
        assert mesh[0].members.alive_record(mesh.id(2)) is not None

    def test_an_old_goodbye_ends_no_new_life(self) -> None:
        """Played again after the return it is stale."""
        mesh, insider = _mesh()
        left = make_left(insider.crypto, mesh.authorities.mesh, 3)
        insider.tell(0, GOSSIP, insider.alive(3).wire, left.wire, insider.alive(4).wire)
        insider.tell(0, GOSSIP, left.wire)
        assert mesh.state(0, 2) is State.ALIVE

    def test_who_has_left_stays_silent_about_its_life(self) -> None:
        """Neither an accusation, nor a new address, nor its own old words bring it back."""
        mesh, insider = _mesh()
        mesh.give(0, LeaveRequested())
        mesh.settle()
        incarnation = mesh[0].members.incarnation(mesh.id(0))
        own = mesh[0].members.alive_record(mesh.id(0))
        assert own is not None
        insider.tell(0, GOSSIP, _accuse(insider, mesh.id(0), incarnation))
        insider.tell(0, GOSSIP, own.wire)
        mesh_id, crypto = mesh.authorities.mesh, mesh.machines[0].crypto
        insider.tell(0, GOSSIP, make_left(crypto, mesh_id, incarnation + 5).wire)
        mesh.give(0, AddressesChanged((address_of(50),)))
        assert mesh.state(0, 0) is State.LEFT
        assert mesh[0].members.incarnation(mesh.id(0)) == incarnation


class TestAccusations:
    """One member's word against another."""

    def test_an_accusation_is_a_suspicion_no_more(self) -> None:
        """Also one that says "dead": the view doubts, waits, and hears the answer."""
        mesh, insider = _mesh(4)
        incarnation = mesh[0].members.incarnation(mesh.id(1))
        insider.tell(0, GOSSIP, insider.alive().wire, _accuse(insider, mesh.id(1), incarnation))
        assert mesh.state(0, 1) is State.SUSPECT
        mesh.advance(5 * SECOND)
        assert mesh.state(0, 1) is State.ALIVE
        assert mesh[0].members.incarnation(mesh.id(1)) == incarnation + 1

    def test_of_unknown_lives_nothing_is_believed(self) -> None:
        """An accusation needs the incarnation whose signed Alive we hold."""
        mesh, insider = _mesh()
        incarnation = mesh[0].members.incarnation(mesh.id(1))
        for subject, number, reason in (
            (mesh.id(1), incarnation + 1, DropReason.UNKNOWN_SUBJECT),
            (mesh.id(1), INCARNATION_MAX, DropReason.UNKNOWN_SUBJECT),
            (mesh.id(2), 1, DropReason.UNKNOWN_SUBJECT),
            (NodeId(bytes(32)), 1, DropReason.UNKNOWN_SUBJECT),
        ):
            effects = insider.tell(0, GOSSIP, _accuse(insider, subject, number))
            assert drops_in(effects) == [reason]
        assert mesh.state(0, 1) is State.ALIVE

    def test_of_gone_members_nothing_is_counted(self) -> None:
        """There is nobody to suspect."""
        mesh, insider = _mesh(4, insiders=2)
        ghost = mesh.machines[2].crypto
        mesh_id = mesh.authorities.mesh
        alive = make_alive(ghost, mesh_id, 3, "g", (address_of(2),), "")
        insider.tell(0, GOSSIP, alive.wire, make_left(ghost, mesh_id, 3).wire)
        insider.tell(0, GOSSIP, _accuse(insider, mesh.id(2), 3))
        assert mesh.state(0, 2) is State.LEFT

    @pytest.mark.parametrize("role", [Role.CLIENT, Role.OBSERVER])
    def test_clients_and_observers_do_not_accuse(self, role: Role) -> None:
        """They take no part in judging others."""
        mesh, insider = _mesh(role=role)
        incarnation = mesh[0].members.incarnation(mesh.id(1))
        effects = insider.tell(0, GOSSIP, _accuse(insider, mesh.id(1), incarnation))
        assert drops_in(effects) == [DropReason.NOT_ALLOWED]
        assert mesh.state(0, 1) is State.ALIVE

    @pytest.mark.parametrize("role", [Role.CLIENT, Role.OBSERVER])
    def test_who_may_not_accuse_is_refuted_all_the_same(self, role: Role) -> None:
        """It missed an answer and tells only its suspect: else it would believe it dead."""
        mesh = Mesh(3, roles=[Role.WORKER, Role.WORKER, role]).start_all()
        mesh[2]._membership.suspect(mesh.id(0), mesh.now, is_refused=False)
        assert mesh.state(2, 0) is State.SUSPECT
        mesh.advance(10 * SECOND)
        assert mesh.is_one()

    @pytest.mark.parametrize("role", [Role.CLIENT, Role.OBSERVER])
    def test_own_accusations_of_clients_and_observers_are_not_spread(self, role: Role) -> None:
        """Neither the suspicion nor the death: they would count nowhere."""
        mesh = Mesh(3, roles=[Role.WORKER, Role.WORKER, role]).start_all()
        mesh.crash(0)
        mesh[2]._rumours.clear()
        mesh[2]._membership.suspect(mesh.id(0), mesh.now, is_refused=True)
        assert len(mesh[2]._rumours) == 0
        while mesh.state(2, 0) is not State.DEAD:
            mesh.now = mesh[2]._membership.suspicion_deadlines.next_ns
            mesh[2]._membership.advance(mesh.now)
        assert len(mesh[2]._rumours) == 0

    def test_many_self_made_keys_are_nobody(self) -> None:
        """Accusers that nobody admitted do not count, however many."""
        mesh, insider = _mesh(5)
        mesh_id = mesh.authorities.mesh
        incarnation = mesh[0].members.incarnation(mesh.id(1))
        keys = [Mesh(1, label=n).machines[0].crypto for n in range(6)]
        wires = [
            make_accusation(key, mesh_id, mesh.id(1), incarnation, is_dead=True).wire
            for key in keys
        ]
        effects = insider.tell(0, GOSSIP, *wires)
        assert drops_in(effects) == [DropReason.NOT_ADMITTED] * 6
        assert mesh.state(0, 1) is State.ALIVE

    def test_words_of_strangers_change_nothing_however_they_come(self) -> None:
        """Also when nothing before has looked at their admission."""
        mesh, _ = _mesh()
        stranger, mesh_id = Mesh(1, label="strangers").machines[0].crypto, mesh.authorities.mesh
        membership, now = mesh[0]._membership, mesh.now
        alive = make_alive(stranger, mesh_id, 1, "x", (address_of(9),), "")
        left = make_left(stranger, mesh_id, 1)
        word = make_accusation(stranger, mesh_id, mesh.id(1), 1, is_dead=True)
        tries: tuple[Callable[[], None], ...] = (
            lambda: membership.accept_alive(alive, now),
            lambda: membership.accept_left(left, now),
            lambda: membership.accept_accusation(word, now),
        )
        for words in tries:
            with pytest.raises(Refused) as caught:
                words()
            assert caught.value.reason is DropReason.NOT_ADMITTED
        assert stranger.node_id not in mesh[0].members

    def test_one_accuser_counts_once(self) -> None:
        """Saying suspect, dead, and both again does not shorten anything."""
        mesh, insider = _mesh(6)
        incarnation = mesh[0].members.incarnation(mesh.id(1))
        node = mesh.id(1)
        mesh_id = mesh.authorities.mesh
        for is_dead in (False, True, False):
            wire = make_accusation(insider.crypto, mesh_id, node, incarnation, is_dead=is_dead).wire
            insider.tell(0, GOSSIP, wire)
        suspicion = mesh[0].members.suspicions[node]
        assert list(suspicion.accusers) == [insider.crypto.node_id]
        assert suspicion.deadline_ns == suspicion.started_ns + suspicion.longest_ns

    def test_distinct_accusers_shorten_the_deadline(self) -> None:
        """Four signers bring it to its minimum; a fifth is not even passed on."""
        mesh, _ = _mesh(8, insiders=6)
        insiders = [Insider(mesh, index) for index in range(3, 8)]
        for insider in insiders:
            insider.tell(0, GOSSIP, insider.alive().wire)
        node, deadlines = mesh.id(1), []
        incarnation = mesh[0].members.incarnation(node)
        for accuser in insiders:
            accuser.tell(0, GOSSIP, _accuse(accuser, node, incarnation))
            suspicion = mesh[0].members.suspicions[node]
            deadlines.append(suspicion.deadline_ns - suspicion.started_ns)
        assert deadlines[0] == suspicion.longest_ns
        assert deadlines[0] > deadlines[1] > deadlines[2] > deadlines[3]
        assert deadlines[3] == deadlines[4] == suspicion.shortest_ns

    def test_the_last_word_of_a_death_is_our_own(self) -> None:
        """Every view gives up a silent member by its own clock."""
        mesh = Mesh(4).start_all()
        mesh.crash(3)
        mesh.advance(40 * SECOND)
        assert [mesh.state(viewer, 3) for viewer in range(3)] == [State.DEAD] * 3


def test_any_order_of_lives_gives_the_same_view() -> None:
    """Alive and Left of one member, in all orders: the same state and incarnation."""
    mesh, insider = _mesh()
    mesh_id = mesh.authorities.mesh
    said: list[Statement] = [
        insider.alive(1),
        insider.alive(2),
        make_left(insider.crypto, mesh_id, 2),
        insider.alive(4),
        make_alive(insider.crypto, mesh_id, 4, "other", (address_of(2),), ""),
        make_left(insider.crypto, mesh_id, 3),
    ]
    views = []
    for order in itertools.permutations(said):
        mesh.boot(0)
        mesh.give(0, Started((address_of(0),)))
        fresh = Insider(mesh, 2)
        fresh.tell(0, GOSSIP, *[statement.wire for statement in order])
        node = mesh.id(2)
        members = mesh[0].members
        views.append((members.state(node), members.incarnation(node), members.alive_record(node)))
        mesh.post.clear()
        mesh.requests.clear()
    assert all(view == views[0] for view in views)
    assert views[0][:2] == (State.ALIVE, 4)
