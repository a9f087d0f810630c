"""What a node knows, in sums: equal for equal knowledge, whatever way it came."""

import random

import pytest

from protocol import digest
from protocol.codec import BUCKETS, PREMISES_MAX, decode_stream, encode_stream
from protocol.config import SECOND
from protocol.crypto import SodiumCrypto
from protocol.digest import DEAD, LEFT, PRESENT, Knowledge, Room, bucket_of
from protocol.effects import AnswerStream
from protocol.events import LeaveRequested, LoadChanged, OfferChanged, StreamReceived
from protocol.identity import NodeId, short_id
from protocol.issuing import make_join_proof
from protocol.members import Gone, State
from protocol.messages import Join, JoinAnswer, Load
from protocol.node import Node
from protocol.records import Role, record_name
from protocol.snapshot import Snapshot
from protocol.statements import make_alive, make_left, make_offer
from tests.helpers.nodes import Machine, Mesh, address_of, seed_of

ALL = 2**BUCKETS - 1


def _recounted(node: Node) -> tuple[int, tuple[bytes, bytes]]:
    """Digest and sums as they are when everything is counted from the start."""
    membership = node._membership
    knowledge = Knowledge(
        node.authority, node.members, node.offers, accusation_of=membership.accusation_of
    )
    knowledge.rebuild()
    return knowledge.total, knowledge.sums()


def _check(machine: Machine) -> None:
    node = machine.node
    assert node is not None
    assert _recounted(node) == (node._knowledge.total, node._knowledge.sums())


def test_step_by_step_is_the_same_as_counted_at_once() -> None:
    """After every event of a mesh's life: starts, offers, deaths, goodbyes, returns, joins."""
    mesh = Mesh(5)
    mesh.on_event = _check
    mesh.start_all()
    for number in range(6):
        mesh.give(number % 3, OfferChanged(f"k{number % 2}", bytes(number % 3)))
    mesh.advance(2 * SECOND)
    mesh.crash(4)
    mesh.give(3, LeaveRequested())
    mesh.advance(60 * SECOND)
    mesh.crash(3)
    mesh.start(3)
    mesh.start(4)
    mesh.advance(10 * SECOND)
    token, newcomer = seed_of("token"), SodiumCrypto(seed_of("newcomer"))
    invite = mesh.authorities.issue(token)
    proof = make_join_proof(token, newcomer, mesh.authorities.mesh)
    data = encode_stream(Join(invite.wire, proof))
    mesh[0].handle(StreamReceived(99, newcomer.node_id, data, mesh.wall_s), mesh.now)
    _check(mesh.machines[0])
    mesh.advance(10 * SECOND)
    totals = {mesh[index]._knowledge.total for index in range(5)}
    assert len(totals) == 1


def test_the_order_of_arrival_does_not_matter() -> None:
    """Nor which statements were superseded on the way."""
    totals = set()
    for shuffle in range(6):
        mesh = Mesh(4)
        node = mesh.boot(0)
        mesh_id = mesh.authorities.mesh
        wires = []
        for machine in mesh.machines[1:]:
            for number in (1, 2, 3):
                address = (address_of(machine.index),)
                alive = make_alive(machine.crypto, mesh_id, number, "m", address, "")
                wires.append(alive.wire)
                wires.append(make_offer(machine.crypto, mesh_id, number, "k", b"v").wire)
        wires.append(make_left(mesh.machines[3].crypto, mesh_id, 3).wire)
        random.Random(shuffle).shuffle(wires)
        node._intake.take_all(wires, mesh.id(1), mesh.now)
        totals.add(node._knowledge.total)
    assert len(totals) == 1


class TestWhatCounts:
    """Lives, goodbyes, offers and records do; the rest does not."""

    def _mesh(self) -> tuple[Mesh, Node]:
        mesh = Mesh(3).start_all()
        return mesh, mesh[0]

    def test_each_of_them_changes_it(self) -> None:
        """And the time of the change is noted, once per event."""
        mesh, node = self._mesh()
        seen = [node._knowledge.total]
        mesh_id = mesh.authorities.mesh
        crypto = mesh.machines[1].crypto
        incarnation = node.members.incarnation(mesh.id(1))
        address = (address_of(1),)
        for wire in (
            make_alive(crypto, mesh_id, incarnation + 1, "m", address, "").wire,
            make_offer(crypto, mesh_id, 9, "k", b"v").wire,
            make_offer(crypto, mesh_id, 10, "k", b"").wire,
            make_left(crypto, mesh_id, incarnation + 1).wire,
            mesh.authorities.issue(seed_of("later")).wire,
        ):
            mesh.now += 1
            node._intake.take_all((wire,), mesh.id(2), mesh.now)
            node._knowledge.settle(mesh.now)
            node._knowledge.settle(mesh.now + 1)
            seen.append(node._knowledge.total)
            assert node._knowledge.last_change_ns == mesh.now
        assert len(set(seen)) == 6

    def test_suspicion_and_load_do_not(self) -> None:
        """They come and go; two members need not agree about them."""
        mesh, node = self._mesh()
        before, changed = node._knowledge.total, node._knowledge.last_change_ns
        mesh.now += SECOND
        node._membership.suspect(mesh.id(1), mesh.now, is_refused=False)
        node.handle(LoadChanged(Load(1, 2, 3)), mesh.now)
        assert node.members.state(mesh.id(1)) is State.SUSPECT
        assert (node._knowledge.total, node._knowledge.last_change_ns) == (before, changed)

    def test_the_dead_count_as_those_whom_one_never_met(self) -> None:
        """A newcomer hears nothing of them, and must agree all the same."""
        mesh = Mesh(4)
        for index in range(3):
            mesh.start(index)
        mesh.exchange(0, 1)
        mesh.exchange(0, 2)
        mesh.crash(2)
        mesh.advance(60 * SECOND)
        node, newcomer = mesh[0], mesh.boot(3)
        assert node.members.state(mesh.id(2)) is State.DEAD
        newcomer._intake.take_all(node._knowledge.everything()[1], mesh.id(0), mesh.now)
        assert newcomer.members.state(mesh.id(2)) is None
        assert newcomer._knowledge.total == node._knowledge.total
        _, entries = node._knowledge.entries(ALL)
        (dead,) = (entry for entry in entries if entry.state == DEAD)
        assert (dead.node, dead.content) == (short_id(mesh.id(2)), 0)

    def test_two_goodbyes_under_one_number_count_alike(self) -> None:
        """Whichever signature came first."""
        mesh, node = self._mesh()
        left = make_left(mesh.machines[1].crypto, mesh.authorities.mesh, 7)
        totals = set()
        for wire in (left.wire, left.wire[:-1] + b"\0"):
            gone = Gone(State.LEFT, 7, mesh.now, type(left)(left.author, 7, wire))
            node.members.put_gone(mesh.id(1), gone)
            node._knowledge.touch(mesh.id(1))
            totals.add(node._knowledge.total)
        assert len(totals) == 1
        node.members.put_gone(mesh.id(1), Gone(State.LEFT, 8, mesh.now, left))
        node._knowledge.touch(mesh.id(1))
        assert node._knowledge.total not in totals
        _, entries = node._knowledge.entries(1 << bucket_of(mesh.id(1)))
        assert [e.state for e in entries if e.node == short_id(mesh.id(1))] == [LEFT]

    def test_other_meshes_count_otherwise(self) -> None:
        """The same bytes mean nothing elsewhere."""
        one, other = Mesh(1).boot(0), Mesh(1, label="other").boot(0)
        assert one._knowledge._hash(b"x") != other._knowledge._hash(b"x")

    def test_what_was_on_disk_counts(self) -> None:
        """A restart forgets no goodbye, no death and no record; lives are to be heard again."""
        mesh, _ = self._mesh()
        mesh.give(2, LeaveRequested())
        mesh.settle()
        mesh.crash(2)
        mesh.crash(1)
        mesh.advance(60 * SECOND)
        mesh.crash(0)
        node = mesh.boot(0)
        _, entries = node._knowledge.entries(ALL)
        assert sorted(entry.state for entry in entries) == [DEAD, LEFT]
        assert len(node._knowledge.record_ids(ALL)) == len(mesh.records)
        _check(mesh.machines[0])


class TestRecords:
    """Authority in sums."""

    def test_who_is_evicted_counts_no_more(self) -> None:
        """The lower admission of a slot is in, the other out; the order does not matter."""
        mesh = Mesh(1)
        token = seed_of("token")
        invite = mesh.authorities.issue(token)
        rivals = [
            mesh.authorities.admit(
                SodiumCrypto(seed_of("rival", number)), invite=invite, key_seed=token
            )[1].wire
            for number in range(4)
        ]
        totals = set()
        for turn in range(4):
            node = mesh.boot(0)
            order = (invite.wire, *rivals[turn:], *rivals[:turn])
            node._intake.take_all(order, mesh.id(0), mesh.now)
            totals.add(node._knowledge.total)
            _check(mesh.machines[0])
            assert len(node._knowledge.record_ids(ALL)) == 4
        assert len(totals) == 1

    def test_a_record_that_is_evicted_on_arrival_does_not_count(self) -> None:
        """Two for one slot were waiting for their invite; one of them stays."""
        mesh = Mesh(1)
        token = seed_of("token")
        invite = mesh.authorities.issue(token)
        for turn in (1, -1):
            node = mesh.boot(0)
            rivals = [
                mesh.authorities.admit(
                    SodiumCrypto(seed_of("rival", number)), invite=invite, key_seed=token
                )[1].wire
                for number in range(4)
            ]
            node._intake.take_all((*rivals[::turn], invite.wire), mesh.id(0), mesh.now)
            _check(mesh.machines[0])
            assert len(node._knowledge.record_ids(ALL)) == 4

    def test_another_admission_of_the_same_node_takes_the_place_of_the_first(self) -> None:
        """The one with the lower name stays: the other is taken off the sums."""
        mesh = Mesh(2)
        node = mesh.boot(0)
        held = node.authority.admission(mesh.id(1))
        assert held is not None
        rivals = [
            mesh.authorities.admit(mesh.machines[1].crypto, role=Role.CLIENT, admitted_at_s=later)
            for later in range(20)
        ]
        invite, again = min(rivals, key=lambda pair: record_name(pair[1]))
        assert record_name(again) < record_name(held)
        node._intake.take_all((invite.wire, again.wire), mesh.id(0), mesh.now)
        assert node.authority.admission(mesh.id(1)) == again
        _check(mesh.machines[0])
        wires = node._knowledge.records_named(node._knowledge.record_ids(ALL), Room(10**6))
        assert sorted(wires) == sorted((*mesh.records[:3], invite.wire, again.wire))
        node._knowledge.add_record(held)
        node._knowledge.drop_record(held)
        assert len(node._knowledge.record_ids(ALL)) == 5

    def test_a_record_counts_once(self) -> None:
        """However often it is told."""
        mesh = Mesh(2)
        node = mesh.boot(0)
        before = node._knowledge.total
        for record in node.authority.records():
            node._knowledge.add_record(record)
        assert node._knowledge.total == before
        _check(mesh.machines[0])

    def test_premises_lead_up_to_the_founder(self) -> None:
        """Invite and admission of each sponsor, the highest first, each once."""
        mesh = Mesh(1)
        authorities = mesh.authorities
        wires = list(mesh.records)
        sponsor = authorities.founder
        for number in range(3):
            crypto = SodiumCrypto(seed_of("child", number))
            invite, admission = authorities.admit(crypto, admitter=sponsor)
            wires += [invite.wire, admission.wire]
            sponsor = crypto
        mesh.machines[0].snapshot = Snapshot(records=tuple(wires))
        node = mesh.boot(0)
        assert sorted(node._knowledge.premises(sponsor.node_id)) == sorted(wires)
        assert node._knowledge.premises(mesh.id(0)) == mesh.records
        assert node._knowledge.premises(NodeId(bytes(32))) == ()

    def test_a_long_chain_of_premises_is_cut(self) -> None:
        """The nearest stay: whoever lacks the others gets them by the next exchange."""
        mesh = Mesh(1)
        wires = list(mesh.records)
        sponsor = mesh.authorities.founder
        for number in range(PREMISES_MAX // 2 + 3):
            crypto = SodiumCrypto(seed_of("child", number))
            invite, admission = mesh.authorities.admit(crypto, admitter=sponsor)
            wires += [invite.wire, admission.wire]
            sponsor = crypto
        mesh.machines[0].snapshot = Snapshot(records=tuple(wires))
        node = mesh.boot(0)
        nearest = wires[-PREMISES_MAX:]
        assert sorted(node._knowledge.premises(sponsor.node_id)) == sorted(nearest)


class TestExtracts:
    """What is told to whom."""

    def test_only_whole_buckets_are_listed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What does not fit is not named as listed, so nobody takes it for missing."""
        mesh = Mesh(12).start_all()
        knowledge = mesh[0]._knowledge
        monkeypatch.setattr(digest, "ENTRIES_MAX", 7)
        listed, entries = knowledge.entries(ALL)
        assert 0 < len(entries) <= 7
        inside = [m for m in mesh.machines if listed >> bucket_of(m.id) & 1]
        assert sorted(e.node for e in entries) == sorted(short_id(m.id) for m in inside)
        assert {entry.state for entry in entries} == {PRESENT}

    def test_differences_are_found_by_bucket(self) -> None:
        """One member, one bucket; one record, one bucket."""
        mesh = Mesh(12).start_all()
        knowledge = mesh[0]._knowledge
        members, records = knowledge.sums()
        assert knowledge.differing(members, records) == (0, 0)
        mesh.give(0, OfferChanged("k", b"v"))
        invite = mesh.authorities.issue(seed_of("later")).wire
        mesh[0]._intake.take_all((invite,), mesh.id(1), mesh.now)
        differing = knowledge.differing(members, records)
        assert differing[0] == 1 << bucket_of(mesh.id(0))
        names = knowledge.record_ids(differing[1])
        assert differing[1].bit_count() == 1
        assert invite in knowledge.records_named(names, Room(10**6))

    def test_a_suspect_is_told_with_the_suspicion(self) -> None:
        """Alive, what we hold against it, and its offers."""
        mesh = Mesh(3).start_all()
        mesh.give(1, OfferChanged("k", b"v"))
        mesh.advance(SECOND)
        node = mesh[0]
        node._membership.suspect(mesh.id(1), mesh.now, is_refused=False)
        accusation = node._membership.accusation_of(mesh.id(1))
        alive = node.members.alive_record(mesh.id(1))
        assert accusation is not None
        assert alive is not None
        offered = tuple(offer.wire for offer in node.offers.held(mesh.id(1)))
        told = node._knowledge.about([mesh.id(1)], Room(10**6))
        assert told == (alive.wire, accusation.wire, *offered)

    def test_clients_tell_no_suspicions(self) -> None:
        """Nobody would count them."""
        mesh = Mesh(3, roles=[Role.ADMIN, Role.CLIENT, Role.WORKER]).start_all()
        mesh[1]._membership.suspect(mesh.id(2), mesh.now, is_refused=False)
        assert len(mesh[1]._knowledge.about([mesh.id(2)], Room(10**6))) == 1

    def test_the_dead_and_the_left(self) -> None:
        """Who asks for a dead member gets its last life with our accusation; of the left both
        words; of somebody not in the view nothing.
        """
        mesh = Mesh(4).start_all()
        mesh.give(3, LeaveRequested())
        mesh.settle()
        mesh.crash(2)
        mesh.advance(60 * SECOND)
        node = mesh[0]
        alive, gone = node.members.alive_record(mesh.id(2)), node.members.gone(mesh.id(3))
        accusation = node._membership.accusation_of(mesh.id(2))
        assert alive is not None
        assert accusation is not None
        assert gone is not None
        assert gone.left is not None
        told = node._knowledge.about([mesh.id(2)], Room(10**6))
        assert told == (alive.wire, accusation.wire)
        past = node.members.alive_record(mesh.id(3))
        assert past is not None
        told = node._knowledge.about([mesh.id(3)], Room(10**6))
        assert told == (gone.left.wire, past.wire)
        assert node._knowledge.about([NodeId(bytes(32))], Room(10**6)) == ()

    def test_a_join_answer_fits_into_a_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Records and lives first; offers as far as there is room."""
        mesh = Mesh(6).start_all()
        for index in range(6):
            mesh.give(index, OfferChanged("k", bytes(600)))
        mesh.advance(2 * SECOND)
        monkeypatch.setattr(digest, "EVERYTHING_BYTES_MAX", 7_000)
        token, newcomer = seed_of("token"), SodiumCrypto(seed_of("newcomer"))
        invite = mesh.authorities.issue(token)
        proof = make_join_proof(token, newcomer, mesh.authorities.mesh)
        event = StreamReceived(
            1, newcomer.node_id, encode_stream(Join(invite.wire, proof)), mesh.wall_s
        )
        (data,) = (
            effect.data
            for effect in mesh[0].handle(event, mesh.now)
            if isinstance(effect, AnswerStream)
        )
        answer = decode_stream(data)
        assert isinstance(answer, JoinAnswer)
        assert len(answer.records) == len(mesh.records) + 2
        lives = [wire for wire in answer.statements if len(wire) < 600]
        assert len(lives) == 6
        assert 0 < len(answer.statements) - len(lives) < 6
        assert len(data) < 7_100
