"""Exchanges over streams: state, introductions, joins."""

import pytest

from protocol.codec import decode_stream, encode_datagram, encode_stream
from protocol.config import SECOND, ProtocolConfig
from protocol.crypto import SodiumCrypto
from protocol.effects import Admitted, AnswerStream, Effect, JoinRefused, OpenStream
from protocol.errors import DropReason
from protocol.events import AddressFound, LeaveRequested, SeedFound, Started, StreamReceived
from protocol.identity import NodeId, short_id
from protocol.intake import ODD_MAX
from protocol.issuing import make_join_proof
from protocol.joining import JoinRefusal
from protocol.members import State
from protocol.messages import Digest, Gossip, Join, JoinAnswer, PushPull
from protocol.push_pull import START_FIRST, push_pull_period
from protocol.records import Invite
from protocol.snapshot import Snapshot
from protocol.statements import Accusation, decode_statement, make_alive, make_left
from tests.helpers.nodes import WALL_S, Insider, Mesh, address_of, drops_in, seed_of, tampered

GOSSIP = encode_datagram(Gossip())


@pytest.mark.parametrize(
    ("members", "factor"), [(0, 1), (32, 1), (33, 2), (64, 2), (65, 3), (128, 3), (1024, 6)]
)
def test_memberlists_vectors_for_the_period(members: int, factor: int) -> None:
    """The interval up to 32 members, then longer by the logarithm."""
    config = ProtocolConfig(push_pull_interval_ns=SECOND)
    assert push_pull_period(config, members) == factor * SECOND


def _streamed(mesh: Mesh, to: int, peer: NodeId, data: bytes) -> list[Effect]:
    """What a node does with the first message of a stream."""
    return mesh[to].handle(StreamReceived(1, peer, data, mesh.wall_s), mesh.now)


def _answers(effects: list[Effect]) -> list[object]:
    return [decode_stream(e.data) for e in effects if isinstance(e, AnswerStream)]


class TestPushPull:
    """What is sent is taken in, what is asked for is answered."""

    def test_both_sides_know_everything_afterwards(self) -> None:
        """Records, lives and offers, in one round trip."""
        mesh = Mesh(4)
        for index in range(4):
            mesh.start(index)
        mesh.exchange(0, 1)
        mesh.exchange(2, 3)
        mesh.exchange(0, 2)
        for viewer in (0, 2):
            assert [mesh.state(viewer, subject) for subject in range(4)] == [State.ALIVE] * 4

    def test_a_member_brings_its_own_admission(self) -> None:
        """Who has not heard of it yet takes it from the records, then the rest."""
        mesh = Mesh(3)
        mesh.machines[0].snapshot = Snapshot(records=mesh.records[:2])
        mesh.start(0)
        mesh.start(2)
        assert mesh[0].authority.admission(mesh.id(2)) is None
        mesh.exchange(2, 0)
        assert mesh.state(0, 2) is State.ALIVE

    @pytest.mark.parametrize("is_reply", [False, True])
    def test_strangers_get_nothing_and_bring_nothing(self, is_reply: bool) -> None:
        """A key that nobody admitted is neither believed nor answered."""
        mesh = Mesh(2)
        mesh.start(0)
        life = Insider(mesh, 1).alive().wire
        data = encode_stream(PushPull(is_reply, (), (life,)))
        effects = _streamed(mesh, 0, NodeId(bytes(32)), data)
        reason = DropReason.UNEXPECTED if is_reply else DropReason.NOT_ADMITTED
        assert drops_in(effects) == [reason]
        assert _answers(effects) == []
        assert mesh.state(0, 1) is None

    def test_who_asks_for_nothing_in_particular_gets_everything(self) -> None:
        """A first version of the protocol knew no other way; who asks for some gets those."""
        mesh = Mesh(4).start_all()
        (answer,) = _answers(_streamed(mesh, 0, mesh.id(1), encode_stream(PushPull(False, (), ()))))
        assert answer == PushPull(True, *mesh[0].join_state())
        asked = PushPull(False, (), (), (short_id(mesh.id(2)),))
        (answer,) = _answers(_streamed(mesh, 0, mesh.id(1), encode_stream(asked)))
        life = mesh[0].members.alive_record(mesh.id(2))
        assert life is not None
        assert answer == PushPull(True, (), (life.wire,))

    def test_a_frame_that_broke_is_not_answered(self) -> None:
        """Nor is the next one, for a while."""
        mesh = Mesh(3)
        mesh.start(0)
        forged = tampered(Insider(mesh, 2).alive().wire)
        for reason in (DropReason.BAD_SIGNATURE, DropReason.MUTED):
            data = encode_stream(PushPull(False, (), (forged,)))
            effects = _streamed(mesh, 0, mesh.id(1), data)
            assert drops_in(effects) == [reason]
            assert _answers(effects) == []

    def test_answers_are_not_answered(self) -> None:
        """One round trip, not a ping-pong."""
        mesh = Mesh(2)
        mesh.start(0)
        mesh[0].handle(SeedFound(mesh.id(1), address_of(1)), mesh.now)
        effects = _streamed(mesh, 0, mesh.id(1), encode_stream(PushPull(True, (), ())))
        assert (_answers(effects), drops_in(effects)) == ([], [])

    def test_an_answer_that_nobody_asked_for_is_not_taken_in(self) -> None:
        """A member may say it as its own push, and then it costs it an answer."""
        mesh = Mesh(3)
        mesh.start(0)
        life = Insider(mesh, 1).alive().wire
        effects = _streamed(mesh, 0, mesh.id(1), encode_stream(PushPull(True, (), (life,))))
        assert drops_in(effects) == [DropReason.UNEXPECTED]
        assert mesh.state(0, 1) is None

    def test_a_bad_signature_ends_the_frame(self) -> None:
        """What comes after it is not even looked at; also not the statements after records."""
        mesh = Mesh(3)
        mesh.start(0)
        good, forged = Insider(mesh, 1).alive().wire, tampered(Insider(mesh, 2).alive().wire)
        data = encode_stream(PushPull(False, (), (forged, good)))
        effects = _streamed(mesh, 0, mesh.id(1), data)
        assert drops_in(effects) == [DropReason.BAD_SIGNATURE]
        assert mesh.state(0, 1) is None
        invite = mesh.authorities.issue(seed_of("later")).wire
        data = encode_stream(PushPull(False, (tampered(invite),), (good,)))
        effects = _streamed(mesh, 0, mesh.id(2), data)
        assert drops_in(effects) == [DropReason.BAD_SIGNATURE]
        assert mesh.state(0, 1) is None

    def test_twenty_thousand_invented_members_cost_little(self) -> None:
        """A whole frame of them: few signatures are checked, nothing is kept."""
        mesh = Mesh(2)
        mesh.start(0)
        checks = 0
        verify = mesh.machines[0].crypto.verify

        def counted(key: bytes, signature: bytes, data: bytes) -> bool:
            nonlocal checks
            checks += 1
            return verify(key, signature, data)

        mesh.machines[0].crypto.verify = counted  # type: ignore[method-assign]  # a spy
        _, admission = mesh.authorities.admit(
            SodiumCrypto(seed_of("sybil")), admitter=SodiumCrypto(seed_of("self-made"))
        )
        records = tuple(
            admission.wire[:-64] + number.to_bytes(64, "big") for number in range(20_000)
        )
        lives = tuple(
            make_alive(
                SodiumCrypto(seed_of("sybil", number)),
                mesh.authorities.mesh,
                1,
                "s",
                (address_of(9),),
                "",
            ).wire
            for number in range(50)
        )
        data = encode_stream(PushPull(False, records, lives))
        effects = _streamed(mesh, 0, mesh.id(1), data)
        assert checks == 0
        assert len(mesh[0].authority._waiting) <= 256
        assert mesh[0].members.all() == [mesh.id(0)]
        assert drops_in(effects).count(DropReason.NOT_ADMITTED) == ODD_MAX

    def test_strangers_statements_end_a_frame(self) -> None:
        """Also without a single signature: what a member sends, its sender has once taken in."""
        mesh = Mesh(3)
        mesh.start(0)
        stranger = make_left(SodiumCrypto(seed_of("stranger")), mesh.authorities.mesh, 1).wire
        life = Insider(mesh, 2).alive().wire
        for count, state in ((ODD_MAX, None), (ODD_MAX - 1, State.ALIVE)):
            data = encode_stream(PushPull(False, (), (*(stranger,) * count, life), ()))
            _streamed(mesh, 0, mesh.id(1), data)
            assert mesh.state(0, 2) is state

    def test_the_dead_travel_as_our_accusation(self) -> None:
        """So a newcomer never meets a ghost, and nobody believes a death."""
        mesh = Mesh(3).start_all()
        mesh.crash(2)
        mesh.advance(60 * SECOND)
        _, statements = mesh[0].join_state()
        about = [s for s in map(decode_statement, statements) if s.author != mesh.id(0)]
        assert [s for s in about if s.author == mesh.id(2)] == []
        (accusation,) = (s for s in map(decode_statement, statements) if isinstance(s, Accusation))
        assert (accusation.subject, accusation.is_dead) == (mesh.id(2), True)
        fresh = Mesh(3)
        fresh.start(1)
        data = encode_stream(PushPull(False, *mesh[0].join_state(), ()))
        _streamed(fresh, 1, mesh.id(0), data)
        assert fresh[1].members.state(mesh.id(2)) is None

    def test_the_dead_are_signed_for_once(self) -> None:
        """A mesh with many dead does not sign for each of them at every exchange."""
        mesh = Mesh(2).start_all()
        mesh.crash(1)
        mesh.advance(60 * SECOND)
        signed = 0
        sign = mesh.machines[0].crypto.sign

        def counted(data: bytes) -> bytes:
            nonlocal signed
            signed += 1
            return sign(data)

        mesh.machines[0].crypto.sign = counted  # type: ignore[method-assign]  # a spy
        for _ in range(10):
            mesh[0].join_state()
        assert signed == 0

    def test_malformed_streams_are_dropped(self) -> None:
        """With a reason and no answer; a JoinAnswer out of place likewise."""
        mesh = Mesh(2)
        mesh.start(0)
        for data, reason in (
            (b"junk", DropReason.MALFORMED),
            (encode_stream(JoinAnswer("", (), ())), DropReason.UNEXPECTED),
        ):
            effects = _streamed(mesh, 0, mesh.id(1), data)
            assert drops_in(effects) == [reason]
            assert _answers(effects) == []

    def test_a_random_member_is_asked_from_time_to_time(self) -> None:
        """About once per interval, also when gossip has nothing to say."""
        mesh = Mesh(2).start_all()
        opened = [0]
        original = mesh.connect

        def count(request: object) -> list[Effect]:
            opened[0] += 1
            return original(request)  # type: ignore[arg-type]  # a spy

        mesh.connect = count  # type: ignore[method-assign]  # a spy on one mesh
        mesh.advance(300 * SECOND)
        assert 18 <= opened[0] <= 22


class TestLookingForMembers:
    """Missing members are tried for ever."""

    def test_everybody_remembered_is_tried_soon_after_the_start(self) -> None:
        """Two, then four, then eight: one that lives tells of all others."""
        mesh = Mesh(20).start_all()
        mesh.crash(0)
        mesh.start(0)
        mesh.requests.clear()
        mesh.post.clear()
        seen: list[int] = []
        for _ in range(10):
            mesh.advance(SECOND // 10, deliver=False)
            seen.append(len({request.peer for request in mesh.requests if request.opener == 0}))
            mesh.post.clear()
        assert seen[:2] == [START_FIRST] * 2
        assert seen[2:5] == [3 * START_FIRST] * 3
        assert seen[-1] == 19

    def test_who_comes_by_itself_is_not_looked_for(self) -> None:
        """Its turn among the first tries is skipped."""
        mesh = Mesh(20).start_all()
        mesh.crash(0)
        mesh.boot(0)
        lives = [mesh[1].members.alive_record(machine.id) for machine in mesh.machines[1:]]
        mesh.give(0, Started((address_of(0),)))
        wires = [life.wire for life in lives if life is not None]
        mesh[0]._intake.take_all(wires, mesh.id(1), mesh.now)
        mesh.machines[0].log.clear()
        mesh.advance(SECOND, deliver=False)
        opened = [e.data for e in mesh.machines[0].log if isinstance(e, OpenStream)]
        assert not any(isinstance(decode_stream(data), Digest) for data in opened)

    def test_the_missing_are_tried_in_turn(self) -> None:
        """One every three seconds, the longest untried first; also after hours."""
        mesh = Mesh(4).start_all()
        for index in (1, 2, 3):
            mesh.crash(index)
        mesh.advance(7200 * SECOND)
        mesh.machines[0].log.clear()
        mesh.advance(9 * SECOND)
        tried = [e.peer for e in mesh.machines[0].log if isinstance(e, OpenStream)]
        assert sorted(tried) == sorted(mesh.id(index) for index in (1, 2, 3))

    def test_the_left_are_left_alone_unless_nobody_else_is_there(self) -> None:
        """A goodbye means it; but a node that sees nobody asks everybody."""
        mesh = Mesh(3).start_all()
        mesh.give(2, LeaveRequested())
        mesh.settle()
        mesh.crash(2)
        mesh.advance(60 * SECOND)
        mesh.machines[0].log.clear()
        mesh.advance(60 * SECOND)
        tried = [e.peer for e in mesh.machines[0].log if isinstance(e, OpenStream)]
        assert mesh.id(2) not in tried
        mesh.give(1, LeaveRequested())
        mesh.settle()
        mesh.crash(1)
        mesh.machines[0].log.clear()
        mesh.advance(60 * SECOND)
        tried = [e.peer for e in mesh.machines[0].log if isinstance(e, OpenStream)]
        assert mesh.id(2) in tried

    def test_a_hint_is_tried_and_believed_in_nothing(self) -> None:
        """Somebody says where a missing member is: it is asked there, and nowhere else stored."""
        mesh = Mesh(3)
        mesh.start(0)
        effects = mesh.give(0, AddressFound(mesh.id(1), address_of(77)))
        (opened,) = (e for e in effects if isinstance(e, OpenStream))
        assert opened.addresses == (address_of(77),)
        assert mesh.state(0, 1) is None
        for node in (NodeId(bytes(32)), mesh.id(0)):
            assert mesh.give(0, AddressFound(node, address_of(77))) == []
            assert mesh[0].address_of(node) in ((), (address_of(0),))

    def test_introductions_have_a_rate(self) -> None:
        """Per member, and for all together: a flood of hints opens few streams."""
        size = 40
        mesh = Mesh(size)
        mesh.start(0)
        mesh.give(0, AddressFound(mesh.id(1), address_of(1)))
        opened = sum(
            isinstance(effect, OpenStream)
            for _ in range(5)
            for index in range(1, size)
            for effect in mesh.give(0, AddressFound(mesh.id(index), address_of(index)))
        )
        assert opened == 31
        mesh.now += SECOND
        effects = mesh.give(0, AddressFound(mesh.id(1), address_of(1)))
        assert any(isinstance(effect, OpenStream) for effect in effects)

    def test_introductions_are_bounded_in_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The oldest of too many is forgotten."""
        monkeypatch.setattr("protocol.push_pull._INTRODUCTIONS_MAX", 2)
        mesh = Mesh(5, protocol=ProtocolConfig(members_max=2))
        mesh.start(0)
        for index in range(1, 5):
            mesh.give(0, AddressFound(mesh.id(index), address_of(index)))
            mesh[0]._push_puller._try(mesh.id(index), mesh.now)
        assert len(mesh[0]._push_puller._introduced) == 2
        assert len(mesh[0]._push_puller._last_tries) == 2

    def test_who_has_left_begins_no_exchange(self) -> None:
        """It still answers, so that its goodbye spreads."""
        mesh = Mesh(2).start_all()
        mesh.give(0, LeaveRequested())
        mesh.settle()
        mesh.machines[0].log.clear()
        mesh.advance(120 * SECOND)
        assert not any(isinstance(e, OpenStream) for e in mesh.machines[0].log)
        mesh[0]._push_puller.introduce(mesh.id(1), mesh.now)
        assert mesh[0]._outbox.drain() == []
        data = encode_stream(PushPull(False, (), ()))
        assert len(_answers(_streamed(mesh, 0, mesh.id(1), data))) == 1


class TestJoins:
    """A newcomer at a member's door."""

    newcomer = SodiumCrypto(seed_of("newcomer"))
    token = seed_of("token")

    def _mesh(self, uses: int = 1, expires_at_s: int = WALL_S + 60) -> tuple[Mesh, Invite]:
        mesh = Mesh(2)
        mesh.start(0)
        issue = mesh.authorities.issue
        return mesh, issue(self.token, uses=uses, expires_at_s=expires_at_s)

    def _join(
        self,
        mesh: Mesh,
        invite: bytes,
        crypto: SodiumCrypto | None = None,
        peer: NodeId | None = None,
    ) -> tuple[JoinAnswer, list[Effect]]:
        crypto = crypto or self.newcomer
        proof = make_join_proof(self.token, crypto, mesh.authorities.mesh)
        data = encode_stream(Join(invite, proof))
        effects = _streamed(mesh, 0, peer or crypto.node_id, data)
        (answer,) = _answers(effects)
        assert isinstance(answer, JoinAnswer)
        return answer, effects

    def test_a_newcomer_gets_in_and_learns_everything(self) -> None:
        """With the answer in hand it can start, and others will know it."""
        mesh, invite = self._mesh()
        answer, effects = self._join(mesh, invite.wire)
        assert answer.refusal == ""
        assert Admitted(self.newcomer.node_id) in effects
        assert mesh[0].authority.admission(self.newcomer.node_id) is not None
        assert invite.wire in answer.records
        own_life = mesh[0].members.alive_record(mesh.id(0))
        assert own_life is not None
        assert own_life.wire in answer.statements
        rumoured = mesh[0]._rumours.fill(2_000, 2)
        assert rumoured.count(self.newcomer.node_id) == 1

    def test_twice_the_same_key(self) -> None:
        """An answer that was lost is given again; nothing more is used up."""
        mesh, invite = self._mesh(uses=1)
        first, _ = self._join(mesh, invite.wire)
        second, effects = self._join(mesh, invite.wire)
        assert second == first
        assert drops_in(effects) == []
        other = SodiumCrypto(seed_of("third"))
        refused, _ = self._join(mesh, invite.wire, other)
        assert refused.refusal == JoinRefusal.USED_UP

    def test_expired(self) -> None:
        """By the wall time of the event."""
        mesh, invite = self._mesh(expires_at_s=WALL_S)
        answer, effects = self._join(mesh, invite.wire)
        assert answer == JoinAnswer("expired", (), ())
        assert JoinRefused(self.newcomer.node_id, "expired") in effects

    def test_somebody_elses_key(self) -> None:
        """TLS proves another key than the one that would be admitted."""
        mesh, invite = self._mesh()
        answer, effects = self._join(mesh, invite.wire, peer=NodeId(bytes(32)))
        assert answer.refusal == JoinRefusal.BAD_PROOF
        assert drops_in(effects) == [DropReason.NOT_ALLOWED]
        assert mesh[0].authority.admission(self.newcomer.node_id) is None

    @pytest.mark.parametrize("how", ["forged", "junk", "not the root's"])
    def test_invites_that_do_not_count(self, how: str) -> None:
        """Nobody makes an invite but the root."""
        mesh, invite = self._mesh()
        foreign = mesh.authorities.issue(self.token, issuer_seed=seed_of("x"))
        wires = {"forged": tampered(invite.wire), "junk": b"x", "not the root's": foreign.wire}
        answer, effects = self._join(mesh, wires[how])
        assert answer.refusal == JoinRefusal.UNKNOWN_INVITE
        assert len(drops_in(effects)) == 1

    def test_a_flood_of_joins_leaves_nothing_behind(self) -> None:
        """Refused newcomers are forgotten."""
        mesh, invite = self._mesh(uses=1)
        self._join(mesh, invite.wire)
        before = mesh[0].authority.records()
        for number in range(50):
            self._join(mesh, invite.wire, SodiumCrypto(seed_of("flood", number)))
        assert mesh[0].authority.records() == before
