"""What revocations do to running nodes: sessions, views, streams, and who was away."""

import pytest

from protocol.catch_up import CATCH_UP_NS
from protocol.codec import decode_stream, encode_datagram, encode_stream
from protocol.config import SECOND
from protocol.crypto import SodiumCrypto
from protocol.effects import AnswerStream, CaughtUp, Effect, Evicted, Issued
from protocol.errors import DropReason
from protocol.events import RecordIssued, Resumed, StreamReceived
from protocol.identity import NodeId
from protocol.issuing import make_join_proof, make_keyed_admission
from protocol.joining import JoinRefusal
from protocol.messages import Digest, Gossip, Join, JoinAnswer, Ping, PushPull
from protocol.records import Target, record_name
from tests.helpers.nodes import Insider, Mesh, drops_in, seed_of

PING = encode_datagram(Ping(1, None))


def _evicted(effects: list[Effect]) -> list[Evicted]:
    return [effect for effect in effects if isinstance(effect, Evicted)]


def _is_one(mesh: Mesh, *indexes: int) -> bool:
    """Whether these agree, and see each other and nobody else."""
    ids = {mesh.id(index) for index in indexes}
    views = [set(mesh[index].members.present()) for index in indexes]
    totals = {mesh[index]._knowledge.total for index in indexes}
    return all(view == ids for view in views) and len(totals) == 1


def _answer(effects: list[Effect]) -> JoinAnswer:
    (answer,) = (decode_stream(e.data) for e in effects if isinstance(e, AnswerStream))
    assert isinstance(answer, JoinAnswer)
    return answer


def test_a_revoked_member_neither_reads_nor_speaks() -> None:
    """Its datagrams are those of a stranger, nothing is sent to it, its offers and words are gone;
    all others agree within two seconds.
    """
    mesh = Mesh(4).start_all()
    gone = mesh.id(3)
    act = mesh.authorities.revoke(gone)
    effects = mesh.give(0, RecordIssued(act.wire))
    assert Issued(act.wire) in effects
    assert _evicted(effects) == [Evicted(gone, True)]
    mesh.advance(2 * SECOND)
    for index in range(3):
        assert mesh.state(index, 3) is None
        assert gone not in mesh[index].members.all()
        assert mesh[index]._envelope._sessions.find(gone) is None
        assert mesh[index].address_of(gone) == ()
    # The last that it was told is why; it has fallen silent.
    assert mesh[3].authority.revocation_of(gone) is not None
    assert Evicted(gone, True) in mesh.machines[3].log
    for machine in mesh.machines:
        machine.log.clear()
    mesh.advance(30 * SECOND)
    assert _is_one(mesh, 0, 1, 2)
    insider = Insider(mesh, 3)
    assert DropReason.UNKNOWN_SENDER in drops_in(insider.tell(0, PING))


def test_whoever_still_speaks_with_it_learns_why_not() -> None:
    """A revoked node that knows nothing of it asks for an exchange: it gets the revocation, which
    it judges itself.
    """
    mesh = Mesh(3).start_all()
    gone = mesh.id(2)
    mesh[0].handle(RecordIssued(mesh.authorities.revoke(gone).wire), mesh.now)
    for message in (
        PushPull(False, *mesh[2].join_state()),
        Digest(*mesh[2]._knowledge.sums(), mesh[2]._knowledge.premises(gone), b""),
    ):
        event = StreamReceived(1, gone, encode_stream(message), mesh.wall_s)
        answer = _answer(mesh[0].handle(event, mesh.now))
        assert answer.refusal == JoinRefusal.NODE_REVOKED
    told = StreamReceived(0, mesh.id(0), encode_stream(answer), mesh.wall_s)
    assert drops_in(mesh[2].handle(told, mesh.now)) == [DropReason.UNEXPECTED]  # it asked nobody
    mesh[2]._reconciler.begin(mesh.id(0), mesh.now)
    assert Evicted(gone, True) in mesh[2].handle(told, mesh.now)


def test_who_lost_its_slot_is_told_who_has_it() -> None:
    """After a partition: the other stays, and proves it."""
    mesh = Mesh(2).start_all()
    held = mesh[0].authority.admission(mesh.id(1))
    assert held is not None
    token = seed_of("mesh", "invite", mesh.id(1), held.role, 1)
    invite = mesh[0].authority.invite_of(mesh.id(1))
    rivals = [
        mesh.authorities.admit(SodiumCrypto(seed_of("rival", n)), invite=invite, key_seed=token)[1]
        for n in range(12)
    ]
    rival = min(rivals, key=record_name)
    assert record_name(rival) < record_name(held)
    effects = mesh[0].handle(RecordIssued(rival.wire), mesh.now)
    assert _evicted(effects) == [Evicted(mesh.id(1), False)]
    message = encode_stream(PushPull(False, *mesh[1].join_state()))
    answer = _answer(mesh[0].handle(StreamReceived(1, mesh.id(1), message, 0), mesh.now))
    assert answer.refusal == JoinRefusal.USED_UP
    assert rival.wire in answer.records


def test_strangers_are_told_nothing() -> None:
    """Who was never a member gets no answer at all."""
    mesh = Mesh(2).start_all()
    message = encode_stream(PushPull(False, (), ()))
    effects = mesh[0].handle(StreamReceived(1, NodeId(bytes(32)), message, 0), mesh.now)
    assert drops_in(effects) == [DropReason.NOT_ADMITTED]
    assert not [effect for effect in effects if isinstance(effect, AnswerStream)]


def test_whom_an_admin_lets_in_again_is_never_out() -> None:
    """The founder's node let all in and is revoked: nobody else flaps."""
    mesh = Mesh(4).start_all()
    for index in (1, 2, 3):
        held = mesh[1].authority.admission(mesh.id(index))
        assert held is not None
        again = make_keyed_admission(
            mesh.authorities.root_seed,
            mesh.authorities.mesh,
            held.proof,
            role=held.role,
            slot=held.slot,
            admitted_at_s=held.admitted_at_s,
        )
        mesh.give(1, RecordIssued(again.wire))
    mesh.advance(3 * SECOND)
    for machine in mesh.machines:
        machine.log.clear()
    mesh.give(1, RecordIssued(mesh.authorities.revoke(mesh.id(0)).wire))
    mesh.advance(10 * SECOND)
    for index in (1, 2, 3):
        assert _evicted(mesh.machines[index].log) == [Evicted(mesh.id(0), True)]
    assert _is_one(mesh, 1, 2, 3)


@pytest.mark.parametrize("is_back", [True, False])
def test_who_was_away_admits_nobody_before_it_knows(is_back: bool) -> None:
    """After a start and after a gap: until one exchange is complete, or nobody answered in time."""
    mesh = Mesh(2).start_all()
    invite = mesh.authorities.issue(seed_of("late"), uses=9)
    crypto = SodiumCrypto(seed_of("late", "node"))
    proof = make_join_proof(seed_of("late"), crypto, mesh.authorities.mesh)
    join = encode_stream(Join(invite.wire, proof))

    def asked() -> str:
        event = StreamReceived(1, crypto.node_id, join, mesh.wall_s)
        return _answer(mesh[0].handle(event, mesh.now)).refusal

    assert mesh[0].is_caught_up
    mesh.crash(0)
    if not is_back:
        mesh.crash(1)
    mesh.start(0)
    assert not mesh[0].is_caught_up
    assert asked() == JoinRefusal.CATCHING_UP
    mesh.machines[0].log.clear()
    mesh.advance(CATCH_UP_NS - SECOND)
    assert mesh[0].is_caught_up is is_back
    mesh.advance(2 * SECOND)
    assert mesh[0].is_caught_up
    assert mesh.machines[0].log.count(CaughtUp()) == 1
    mesh[0].handle(Resumed(60 * SECOND), mesh.now)
    assert not mesh[0].is_caught_up
    assert asked() == JoinRefusal.CATCHING_UP


def test_a_founder_alone_has_nothing_to_catch_up_with() -> None:
    """It admits at once."""
    mesh = Mesh(1)
    mesh.start(0)
    assert mesh[0].is_caught_up
    assert CaughtUp() in mesh.machines[0].log


def test_a_revocation_behind_many_records_is_taken_in_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A frame with more records to be judged than one judgment takes: they are judged in between,
    at the sender's cost, and the revocation at its end is in force when it has been read.
    """
    monkeypatch.setattr("protocol.authority.FRESH_MAX", 8)
    mesh = Mesh(3).start_all()
    mesh.settle()
    many = [mesh.authorities.revoke(seed_of("invite", n), Target.INVITE) for n in range(30)]
    last = mesh.authorities.revoke(mesh.id(2))
    wires = [record.wire for record in (*many, last)]
    mesh[0]._intake.take_all(wires, mesh.id(1), mesh.now)
    assert mesh[0].authority.admission(mesh.id(2)) is None
    assert all(mesh[0].authority.is_counting(wire) for wire in wires)


def test_revocations_survive_a_restart() -> None:
    """From the snapshot, before anybody is met: the revoked one stays out."""
    mesh = Mesh(3).start_all()
    act = mesh.authorities.revoke(mesh.id(2))
    mesh.give(0, RecordIssued(act.wire))
    mesh.crash(0)
    mesh.start(0)
    assert mesh[0].authority.revocation_of(mesh.id(2)) == act
    assert mesh[0].authority.admission(mesh.id(2)) is None
    assert mesh[0].members.state(mesh.id(2)) is None


def test_a_revoked_invite_admits_nobody_and_a_revoked_node_nowhere() -> None:
    """Each is told its own reason, also with a good invite in hand."""
    mesh = Mesh(2).start_all()
    key_seed = seed_of("revoked invite")
    invite = mesh.authorities.issue(key_seed, uses=5)
    mesh.give(0, RecordIssued(invite.wire))
    mesh.give(0, RecordIssued(mesh.authorities.revoke(mesh.id(1)).wire))
    newcomer = SodiumCrypto(seed_of("newcomer"))

    def asked(crypto: SodiumCrypto) -> str:
        proof = make_join_proof(key_seed, crypto, mesh.authorities.mesh)
        data = encode_stream(Join(invite.wire, proof))
        event = StreamReceived(1, crypto.node_id, data, mesh.wall_s)
        return _answer(mesh[0].handle(event, mesh.now)).refusal

    assert asked(mesh.machines[1].crypto) == JoinRefusal.NODE_REVOKED
    act = mesh.authorities.revoke(invite.key, Target.INVITE)
    mesh.give(0, RecordIssued(act.wire))
    assert asked(newcomer) == JoinRefusal.INVITE_REVOKED


def test_a_partition_ends_with_one_list_of_members() -> None:
    """Each side revoked somebody: afterwards both are out everywhere."""
    mesh = Mesh(6).start_all()
    sides = (0, 1, 4), (2, 3, 5)
    acts = mesh.authorities.revoke(mesh.id(4)), mesh.authorities.revoke(mesh.id(5))
    for side, act in zip(sides, acts, strict=True):
        mesh.give(side[0], RecordIssued(act.wire))
    mesh.advance(3 * SECOND)
    for index in range(4):
        assert mesh[index].authority.admission(mesh.id(4)) is None
        assert mesh[index].authority.admission(mesh.id(5)) is None
    assert _is_one(mesh, 0, 1, 2, 3)


def test_gossip_with_a_revocation_of_its_own_sender_ends_there() -> None:
    """A member that passes on its own end is not answered any more."""
    mesh = Mesh(3).start_all()
    insider = Insider(mesh, 2)
    mesh.crash(2)
    act = mesh.authorities.revoke(mesh.id(2))
    effects = insider.tell(0, encode_datagram(Gossip()), act.wire)
    assert _evicted(effects) == [Evicted(mesh.id(2), True)]
