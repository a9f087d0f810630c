"""A whole node: whatever arrives, it decides, answers within its means, and never raises."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.assembly import NodeConfig
from protocol.challenges import PER_MEMBER_BURST
from protocol.codec import encode_datagram, encode_stream
from protocol.config import SECOND, ProtocolConfig
from protocol.deadlines import NEVER
from protocol.effects import (
    DatagramDropped,
    Effect,
    Issued,
    OpenStream,
    SendDatagram,
)
from protocol.envelope import CHALLENGE_BYTES
from protocol.errors import DropReason, LocalProtocolError
from protocol.events import (
    AddressFound,
    DatagramReceived,
    DeadlineReached,
    LeaveRequested,
    RecordIssued,
    Started,
    StreamFailed,
    StreamReceived,
)
from protocol.identity import Address, NodeId, short_id
from protocol.members import State
from protocol.messages import Gossip, JoinAnswer, Ping
from protocol.node import Node
from tests.helpers.nodes import Insider, Mesh, Parcel, address_of, drops_in, seed_of, tampered

GOSSIP = encode_datagram(Gossip())
ELSEWHERE = Address("203.0.113.9", 9)


def _pair() -> tuple[Mesh, list[Parcel]]:
    """Two nodes that know each other, and true datagrams between them."""
    mesh = Mesh(2).start_all()
    recorded: list[Parcel] = []
    original = mesh.hand_over

    def record(parcel: Parcel) -> list[Effect]:
        recorded.append(parcel)
        return original(parcel)

    mesh.hand_over = record  # type: ignore[method-assign]  # a tap
    mesh.advance(5 * SECOND)
    mesh.hand_over = original  # type: ignore[method-assign]  # back to normal
    return mesh, recorded


MESH, RECORDED = _pair()


def _receive(data: bytes, source: Address = ELSEWHERE) -> list[Effect]:
    return MESH.give(0, DatagramReceived(data, source))


def _view() -> object:
    members = MESH[0].members
    return [(n, members.state(n), members.incarnation(n)) for n in members.all()]


def _harmless(effects: list[Effect], cause: bytes) -> None:
    """Refused, and at most one answer no longer than its cause."""
    assert drops_in(effects) != []
    sent = [effect.data for effect in effects if isinstance(effect, SendDatagram)]
    assert sum(map(len, sent)) <= len(cause)
    assert all(isinstance(e, DatagramDropped | SendDatagram) for e in effects)


class TestHostileDatagrams:
    """Outsiders: no state changes, nothing larger comes back, no exception."""

    @given(st.binary(max_size=1_300))
    def test_random(self, data: bytes) -> None:
        """Any bytes."""
        before = _view()
        _harmless(_receive(data), data)
        assert _view() == before

    @given(st.binary(max_size=1_200), st.sampled_from([0, 1]), st.sampled_from([0, 1, 2]))
    def test_random_behind_a_true_header(self, data: bytes, kind: int, who: int) -> None:
        """The right version, mesh and short ids, and then anything."""
        sender = (NodeId(bytes(32)), MESH.id(0), MESH.id(1))[who]
        header = bytes((1, kind)) + MESH.authorities.mesh[:4] + short_id(sender)
        before = _view()
        _harmless(_receive(header + data), header + data)
        assert _view() == before

    @given(st.sampled_from(RECORDED), st.data())
    def test_truncated_and_mutated(self, parcel: Parcel, data: st.DataObject) -> None:
        """True datagrams, cut or with a changed byte, from the true address or elsewhere."""
        index = data.draw(st.integers(0, len(parcel.data) - 1))
        changed = bytearray(parcel.data)
        changed[index] ^= data.draw(st.integers(1, 255))
        before = _view()
        for bad in (parcel.data[:index], bytes(changed)):
            for source in (parcel.source, ELSEWHERE):
                _harmless(_receive(bad, source), bad)
        assert _view() == before

    @given(st.sampled_from(RECORDED), st.booleans())
    def test_replayed(self, parcel: Parcel, is_elsewhere: bool) -> None:
        """True datagrams again: refused, from wherever."""
        before = _view()
        effects = _receive(parcel.data, ELSEWHERE if is_elsewhere else parcel.source)
        _harmless(effects, parcel.data)
        assert _view() == before

    def test_foreign_meshes(self) -> None:
        """Another mesh at the same port is not answered."""
        other = Mesh(2, label="foreign")
        data = Insider(other, 1).envelope.seal(other.id(0), GOSSIP)
        assert data is not None
        assert drops_in(_receive(data)) == [DropReason.FOREIGN_MESH]

    def test_a_flood_leaves_nothing_behind(self) -> None:
        """Random short ids from random addresses: no sessions, no memory, few answers."""
        mesh = Mesh(2).start_all()
        rng = random.Random(1)
        header = b"\1\0" + mesh.authorities.mesh[:4]
        answers = 0
        for number in range(5_000):
            data = header + rng.randbytes(100)
            effects = mesh.give(0, DatagramReceived(data, Address(f"10.1.1.{number % 250}", 1)))
            answers += sum(isinstance(e, SendDatagram) for e in effects)
        assert answers == ProtocolConfig().stranger_challenges_per_s
        assert DropReason.RATE_LIMITED in mesh.machines[0].drops()
        assert len(mesh[0]._envelope._sessions) == 1

    def test_strangers_do_not_use_up_what_members_need(self) -> None:
        """While outsiders flood, a restarted member proves itself all the same."""
        mesh = Mesh(2).start_all()
        mesh.crash(1)
        mesh.start(1)
        rng = random.Random(1)
        header = b"\1\0" + mesh.authorities.mesh[:4]
        member = header + short_id(mesh.id(1))
        for _ in range(1_000):
            for head in (header, member):
                mesh.give(0, DatagramReceived(head + rng.randbytes(100), ELSEWHERE))
        mesh.post.clear()
        insider = Insider(mesh, 1)
        assert DropReason.RATE_LIMITED not in drops_in(insider.tell(0, GOSSIP))

    def test_challenges_to_members_have_a_rate_too(self) -> None:
        """Recorded true datagrams cannot be played for unlimited answers."""
        mesh = Mesh(2, protocol=ProtocolConfig(challenges_per_s=3)).start_all()
        mesh.now += 2 * SECOND
        insider = Insider(mesh, 1)
        answers = 0
        for port in range(1, 20):
            data = insider.envelope.seal(mesh.id(0), GOSSIP)
            assert data is not None
            effects = mesh.give(0, DatagramReceived(data, Address("10.9.9.9", port)))
            answers += sum(isinstance(e, SendDatagram) for e in effects)
        assert answers == 3

    def test_no_member_uses_up_the_challenges_of_others(self) -> None:
        """One that plays its recordings for ever gets its own share; another one proves itself."""
        mesh = Mesh(3).start_all()
        mesh.now += 2 * SECOND
        flooder, other = Insider(mesh, 1), Insider(mesh, 2)
        answers = 0
        for number in range(1_000):
            data = flooder.envelope.seal(mesh.id(0), GOSSIP)
            assert data is not None
            source = Address("10.9.9.9", number + 1)
            effects = mesh.give(0, DatagramReceived(data, source))
            answers += sum(isinstance(e, SendDatagram) for e in effects)
        assert answers == PER_MEMBER_BURST
        assert DropReason.RATE_LIMITED not in drops_in(other.tell(0, GOSSIP))

    def test_recordings_keep_no_member_out(self) -> None:
        """Who plays a member's recordings from elsewhere does not use up what it needs at home."""
        mesh = Mesh(2).start_all()
        mesh.now += 2 * SECOND
        insider = Insider(mesh, 1)
        recorded = insider.envelope.seal(mesh.id(0), GOSSIP)
        assert recorded is not None
        mesh.now += 100 * SECOND
        later = Insider(mesh, 1)
        for _ in range(500):
            mesh.give(0, DatagramReceived(recorded, ELSEWHERE))
        assert DropReason.RATE_LIMITED in mesh.machines[0].drops()
        assert DropReason.RATE_LIMITED not in drops_in(later.tell(0, GOSSIP))

    def test_own_short_id(self) -> None:
        """Our own datagrams, reflected to us, are a stranger's."""
        effects = _receive(RECORDED[0].data.replace(short_id(MESH.id(1)), short_id(MESH.id(0))))
        assert drops_in(effects)[0] in (DropReason.UNKNOWN_SENDER, DropReason.RATE_LIMITED)
        assert all(len(e.data) == CHALLENGE_BYTES for e in effects if isinstance(e, SendDatagram))


class TestInsiders:
    """Admitted keys that seal correctly."""

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=1_100), st.booleans())
    def test_any_payload(self, payload: bytes, is_padded: bool) -> None:
        """Whatever a member says, it gets an answer or a reason, never an exception."""
        mesh = Mesh(2)
        mesh.start(0)
        insider = Insider(mesh, 1)
        insider.send(0, (encode_datagram(Ping(1, None)) if is_padded else b"") + payload)
        mesh.advance(SECOND, deliver=False)
        assert mesh.state(0, 0) is State.ALIVE

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=500))
    def test_any_stream(self, data: bytes) -> None:
        """The same for streams."""
        mesh = Mesh(2)
        mesh.start(0)
        effects = mesh[0].handle(StreamReceived(1, mesh.id(1), data, 0), mesh.now)
        assert drops_in(effects) != []

    def test_answers_that_nobody_asked_for(self) -> None:
        """A member cannot admit us a second time."""
        mesh = Mesh(2).start_all()
        data = encode_stream(JoinAnswer("", (), ()))
        effects = mesh.give(0, StreamReceived(1, mesh.id(1), data, mesh.wall_s))
        assert drops_in(effects) == [DropReason.UNEXPECTED]

    def test_unknown_members_are_asked_on_a_stream(self) -> None:
        """A member whose life we never heard: its message counts, and we ask."""
        mesh = Mesh(2)
        mesh.start(0)
        effects = Insider(mesh, 1).tell(0, encode_datagram(Ping(7, None)))
        (opened,) = (e for e in effects if isinstance(e, OpenStream))
        assert (opened.peer, opened.addresses) == (mesh.id(1), (address_of(1),))

    def test_who_does_not_know_us_asks_for_an_introduction(self) -> None:
        """A node that lacks our admission says so, and we bring it on a stream."""
        mesh = Mesh(2)
        mesh.machines[0].snapshot = dataclasses.replace(
            mesh.machines[0].snapshot, records=mesh.records[:2]
        )
        mesh.start(0)
        mesh.start(1)
        alive = mesh[0].members.alive_record(mesh.id(0))
        assert alive is not None
        mesh[1]._membership.accept_alive(alive, mesh.now)
        mesh.advance(3 * SECOND)
        assert mesh.is_one()
        assert DropReason.UNKNOWN_SENDER in mesh.machines[0].drops()


class TestDriving:
    """What the driver may and may not do."""

    def _config(self, name: str = "n", software: str = "s") -> NodeConfig:
        root = Mesh(1).authorities.root
        return NodeConfig(name=name, software=software, root=root, boot=1, boot_secret=seed_of("s"))

    @pytest.mark.parametrize(("name", "software"), [("A Name", ""), ("n", "x" * 33), ("n", "\n")])
    def test_names_that_others_would_refuse(self, name: str, software: str) -> None:
        """Refused at once, here."""
        crypto = Mesh(1).machines[0].crypto
        config = self._config(name, software)
        with pytest.raises(LocalProtocolError):
            Node(config, crypto, random.Random(1))

    def test_only_members_start(self) -> None:
        """Without an admission there is no life to publish."""
        node = Node(self._config(), Mesh(1).machines[0].crypto, random.Random(1))
        with pytest.raises(LocalProtocolError):
            node.handle(Started((address_of(0),)), 1)
        assert node.deadline == NEVER

    def test_issued_records_spread(self) -> None:
        """The owner's invite goes round, and is on disk before; of what does not count he hears."""
        mesh = Mesh(2).start_all()
        invite = mesh.authorities.issue(seed_of("issued"))
        assert Issued(invite.wire) in mesh.give(0, RecordIssued(invite.wire))
        mesh.advance(SECOND)
        assert invite in mesh[1].authority.records()
        forged = tampered(mesh.authorities.issue(seed_of("another")).wire)
        for wire, reason in (
            (invite.wire, DropReason.STALE),
            (forged, DropReason.BAD_SIGNATURE),
            (b"", DropReason.MALFORMED),
        ):
            effects = mesh.give(0, RecordIssued(wire))
            (issued,) = (effect for effect in effects if isinstance(effect, Issued))
            assert issued.wire == wire
            assert reason.value in issued.refusal

    def test_who_begins_in_the_middle_spreads_nothing(self) -> None:
        """What comes later goes round as ever."""
        mesh = Mesh(2).start_all()
        invite, later = (mesh.authorities.issue(seed_of("hushed", n)) for n in range(2))
        mesh.give(0, RecordIssued(invite.wire))
        mesh[0].begin_like(mesh[0])
        mesh.give(0, RecordIssued(later.wire))
        mesh.advance(SECOND // 2)
        assert invite not in mesh[1].authority.records()
        assert later in mesh[1].authority.records()

    def test_failed_streams_are_no_news(self) -> None:
        """The exchange is tried again by its own rules."""
        assert MESH.give(0, StreamFailed(MESH.id(1))) == []

    def test_deadlines_move_on(self) -> None:
        """A reached deadline is never due again at the same time."""
        mesh = Mesh(3).start_all()
        for _ in range(500):
            mesh.now = max(mesh.now, mesh[0].deadline)
            mesh.give(0, DeadlineReached())
            assert mesh[0].deadline > mesh.now

    def test_the_same_events_give_the_same_effects(self) -> None:
        """Byte for byte: that is what replay and simulation stand on."""
        logs = []
        for _ in range(2):
            mesh = Mesh(3)
            for index in range(3):
                mesh.start(index)
            mesh.exchange(0, 1)
            mesh.exchange(1, 2)
            mesh.advance(5 * SECOND)
            mesh.give(1, LeaveRequested())
            mesh.crash(2)
            mesh.advance(20 * SECOND)
            logs.append([machine.log for machine in mesh.machines])
        assert logs[0] == logs[1]
        assert sum(map(len, logs[0])) > 100


class TestHints:
    """What people and mDNS say about addresses."""

    def test_of_missing_members_they_are_tried_at_once(self) -> None:
        """A hint, never a fact: it is tried beside what the member itself states."""
        mesh = Mesh(2)
        mesh.start(0)
        (opened,) = (
            e
            for e in mesh.give(0, AddressFound(mesh.id(1), address_of(50)))
            if isinstance(e, OpenStream)
        )
        assert opened.addresses == (address_of(50),)

    def test_of_strangers_ourselves_and_the_present_they_are_not(self) -> None:
        """There is nothing to find out."""
        mesh = Mesh(2).start_all()
        for node in (NodeId(bytes(32)), mesh.id(0), mesh.id(1)):
            assert mesh.give(0, AddressFound(node, address_of(50))) == []


class TestPlaybook:
    """The exchanges of README.md, seen from outside."""

    def test_a_mesh_of_three_comes_up(self) -> None:
        """One introduction is enough; gossip does the rest."""
        mesh = Mesh(3)
        for index in range(3):
            mesh.start(index)
        mesh.exchange(1, 0)
        mesh.exchange(2, 0)
        mesh.advance(3 * SECOND)
        assert mesh.is_one()

    def test_everybody_off_and_on_again(self) -> None:
        """From disk, in any order, without a seed."""
        mesh = Mesh(4).start_all()
        for index in range(4):
            mesh.give(index, LeaveRequested())
            mesh.settle()
        for index in range(4):
            mesh.crash(index)
        mesh.now += 8 * 3600 * SECOND
        for index in (2, 0, 3, 1):
            mesh.start(index)
            mesh.advance(SECOND)
        mesh.advance(10 * SECOND)
        assert mesh.is_one()

    def test_strangers_meet_in_four_datagrams(self) -> None:
        """A ping that is not read, a challenge, a ping that tells a token, and its ack; after that
        neither asks the other for anything.
        """
        mesh = Mesh(2)
        for index in range(2):
            mesh.start(index)
        mesh.exchange(1, 0)
        for machine in mesh.machines:
            machine.log.clear()
        mesh[0]._rumours.clear()
        mesh[1]._rumours.clear()
        mesh.advance(4 * SECOND)
        sent = [e.kind for m in mesh.machines for e in m.log if isinstance(e, SendDatagram)]
        assert sent.count("challenge") == 1
        assert sent.count("ping") == sent.count("ack") + 1 > 6
        assert len(sent) == 1 + sent.count("ping") + sent.count("ack")
        assert mesh.is_one()

    def test_a_member_that_moves_is_followed(self) -> None:
        """From a new address, without a word: proven there, and written to there."""
        mesh = Mesh(2).start_all()
        mesh.machines[1].address = address_of(40)
        mesh.advance(15 * SECOND)
        assert mesh.is_one()
        assert mesh[0].address_of(mesh.id(1))[0] == address_of(40)


def test_datagrams_before_the_start_are_learned_from_but_not_answered() -> None:
    """A node that is not up yet does not ack."""
    mesh = Mesh(2)
    mesh.boot(0)
    insider = Insider(mesh, 1)
    effects = insider.tell(0, GOSSIP, insider.alive().wire)
    assert mesh.state(0, 1) is State.ALIVE
    assert not any(isinstance(e, SendDatagram) for e in effects)
    assert mesh.give(0, DatagramReceived(b"", address_of(1))) != []
