"""Messages about probes: each reaches who waits for it, or is counted."""

import pytest

from protocol.codec import decode_stream, encode_stream
from protocol.config import SECOND
from protocol.coordinates import COORDINATE_ORIGIN, encode_coordinate
from protocol.effects import AnswerStream, DatagramDropped, LoadLearned
from protocol.errors import DropReason
from protocol.events import LoadChanged, StreamReceived
from protocol.identity import NodeId
from protocol.members import State
from protocol.messages import (
    Ack,
    DatagramMessage,
    Load,
    Nack,
    Origin,
    Ping,
    RelayedAck,
    StreamAck,
    StreamProbe,
)
from protocol.statements import make_accusation
from tests.helpers.nodes import Mesh, drops_in
from tests.helpers.taps import STEP, Tap, run, tapped

ORIGIN = Origin(NodeId(bytes(32)), 99)


def _acks(tap: Tap) -> list[Ack]:
    return [message for _, message in tap.take() if isinstance(message, Ack)]


def _pinged() -> tuple[Mesh, Tap, Ping]:
    """Node 0 has pinged the tap."""
    mesh, (tap,) = tapped(2, 1)
    while not (pings := tap.pings(0)):
        run(mesh, STEP)
    return mesh, tap, pings[-1]


class TestAnswers:
    """What a ping is answered with."""

    def test_number_load_digest_and_coordinate(self) -> None:
        """All that the sender can use of us."""
        mesh, (tap,) = tapped(2, 1)
        mesh.give(0, LoadChanged(Load(1, 2, 3)))
        tap.take()
        tap.say(0, Ping(6, None))
        (ack,) = _acks(tap)
        where = encode_coordinate(mesh[0]._coordinates.own)
        assert ack == Ack(6, Load(1, 2, 3), b"", mesh[0]._knowledge.total, where)

    def test_a_target_signs_for_the_prober_that_is_named(self) -> None:
        """The proof fits the origin of the ping, and there is none without."""
        mesh, (tap,) = tapped(2, 1)
        tap.take()
        tap.say(0, Ping(5, None, ORIGIN))
        tap.say(0, Ping(6, None))
        with_proof, without = _acks(tap)
        text = b"meshd ack 1     " + mesh.authorities.mesh + bytes(32) + (99).to_bytes(8, "big")
        assert tap.insider.crypto.verify(mesh.id(0), with_proof.proof, text)
        assert without.proof == b""

    def test_own_pings_tell_load_and_digest(self) -> None:
        """So that both ends of every probe may compare."""
        mesh, (tap,) = tapped(2, 1)
        mesh.give(0, LoadChanged(Load(1, 2, 3)))
        while not (pings := tap.pings(0)):
            run(mesh, STEP)
        assert pings[-1].load == Load(1, 2, 3)
        assert pings[-1].digest == mesh[0]._knowledge.total

    @pytest.mark.parametrize("message", [Ping(5, Load(7, 8, 9)), Ack(5, Load(7, 8, 9))])
    def test_loads_are_learned_from_both(self, message: DatagramMessage) -> None:
        """Whoever tells."""
        mesh, (tap,) = tapped(2, 1)
        mesh.machines[0].log.clear()
        tap.say(0, message)
        assert LoadLearned(tap.id, Load(7, 8, 9)) in mesh.machines[0].log

    @pytest.mark.parametrize("kind", [Ping, Ack])
    def test_digests_are_heard_from_both(self, kind: type[Ping | Ack]) -> None:
        """Whoever tells; who does not say is not compared."""
        mesh, (tap,) = tapped(2, 1)
        heard: list[tuple[NodeId, int, int]] = []
        mesh[0]._traffic._on_digest = lambda *args: heard.append(args)
        tap.say(0, kind(5, None))
        tap.say(0, kind(5, None, digest=77))
        assert heard == [(tap.id, 77, mesh.now)]


class TestCoordinates:
    """Acks tell where their sender is."""

    def test_a_first_answer_moves_us(self) -> None:
        """By its round trip; a second answer is no second sample."""
        mesh, tap, ping = _pinged()
        mesh.now += SECOND // 4
        ack = Ack(ping.sequence, None, b"", None, encode_coordinate(COORDINATE_ORIGIN))
        before = mesh[0]._coordinates.own
        assert tap.say(0, ack) == []
        moved = mesh[0]._coordinates.own
        assert moved != before
        assert tap.say(0, ack) == []
        assert mesh[0]._coordinates.own == moved

    @pytest.mark.parametrize(
        "where",
        [
            pytest.param((), id="nothing"),
            pytest.param((2**62,) * 11, id="beyond the sun"),
            pytest.param((0,) * 10, id="too short"),
        ],
    )
    def test_absurd_places_are_counted_and_the_answer_counts(self, where: tuple[int, ...]) -> None:
        """Who answers lives, wherever it says that it is."""
        mesh, tap, ping = _pinged()
        before = mesh[0]._coordinates.own
        assert tap.say(0, Ack(ping.sequence, None, b"", None, where)) == [DropReason.MALFORMED]
        assert mesh[0]._coordinates.own == before
        probe = mesh[0]._prober._probe
        assert probe is not None
        assert probe.is_answered

    def test_who_does_not_say_does_not_move_us(self) -> None:
        """An earlier version's ack."""
        mesh, tap, ping = _pinged()
        before = mesh[0]._coordinates.own
        assert tap.say(0, Ack(ping.sequence, None)) == []
        assert mesh[0]._coordinates.own == before


class TestUnexpected:
    """Answers that nobody waits for."""

    @pytest.mark.parametrize(
        "message",
        [Ack(5, None), RelayedAck(5, ORIGIN.prober, bytes(64)), Nack(5, ORIGIN.prober, b"")],
    )
    def test_datagrams(self, message: DatagramMessage) -> None:
        """Each is counted with its name."""
        mesh, (tap,) = tapped(2, 1)
        mesh.machines[0].log.clear()
        tap.say(0, message)
        (drop,) = [e for e in mesh.machines[0].log if isinstance(e, DatagramDropped)]
        assert (drop.reason, drop.detail) == (DropReason.UNEXPECTED, type(message).__name__)

    def test_stream_answers(self) -> None:
        """The same by stream, with the peer's key as the source."""
        mesh, (tap,) = tapped(2, 1)
        mesh.machines[0].log.clear()
        tap.say_on_stream(0, StreamAck(ORIGIN, bytes(64)))
        (drop,) = [e for e in mesh.machines[0].log if isinstance(e, DatagramDropped)]
        assert drop == DatagramDropped(DropReason.UNEXPECTED, tap.id, "StreamAck")


class TestStreamProbes:
    """Being asked by stream."""

    def test_members_get_a_signed_answer(self) -> None:
        """For themselves or for whom they help: it is good for that origin alone."""
        mesh, (tap,) = tapped(2, 1)
        event = StreamReceived(5, tap.id, encode_stream(StreamProbe(ORIGIN)), mesh.wall_s)
        (effect,) = mesh[0].handle(event, mesh.now)
        assert isinstance(effect, AnswerStream)
        assert effect.stream == 5
        ack = decode_stream(effect.data)
        assert isinstance(ack, StreamAck)
        assert ack.origin == ORIGIN
        own = mesh[0].members.alive_record(mesh.id(0))
        assert own is not None
        assert ack.alive == own.wire
        text = b"meshd ack 1     " + mesh.authorities.mesh + bytes(32) + (99).to_bytes(8, "big")
        assert tap.insider.crypto.verify(mesh.id(0), ack.proof, text)

    def test_the_accused_refutes_whatever_way_it_hears(self) -> None:
        """The answer comes all the same; the next incarnation is on its way."""
        mesh, (tap,) = tapped(2, 1)
        incarnation = mesh[0].members.incarnation(mesh.id(0))
        word = make_accusation(
            tap.insider.crypto, mesh.authorities.mesh, mesh.id(0), incarnation, is_dead=False
        )
        data = encode_stream(StreamProbe(ORIGIN, word.wire))
        effects = mesh[0].handle(StreamReceived(5, tap.id, data, mesh.wall_s), mesh.now)
        assert mesh[0].members.incarnation(mesh.id(0)) == incarnation + 1
        (answer,) = [effect for effect in effects if isinstance(effect, AnswerStream)]
        ack = decode_stream(answer.data)
        own = mesh[0].members.alive_record(mesh.id(0))
        assert isinstance(ack, StreamAck)
        assert own is not None
        assert ack.alive == own.wire

    def test_the_answer_brings_the_refutation(self) -> None:
        """A late one too: the proof is for a probe, the life is for everybody."""
        mesh, (tap,) = tapped(2, 1)
        mesh[0]._membership.suspect(tap.id, mesh.now, is_refused=False)
        late = StreamAck(ORIGIN, bytes(64), tap.insider.alive(51).wire)
        assert tap.say_on_stream(0, late) == [DropReason.UNEXPECTED]
        assert mesh.state(0, 1) is State.ALIVE
        forged = tap.insider.alive(52).wire[:-1] + b"x"
        refused = tap.say_on_stream(0, StreamAck(ORIGIN, bytes(64), forged))
        assert refused == [DropReason.BAD_SIGNATURE, DropReason.UNEXPECTED]

    def test_strangers_are_refused(self) -> None:
        """A key that nobody admitted learns nothing."""
        mesh, _ = tapped(2, 1)
        stranger = Mesh(1, label="strangers").machines[0].id
        event = StreamReceived(5, stranger, encode_stream(StreamProbe(ORIGIN)), mesh.wall_s)
        effects = mesh[0].handle(event, mesh.now)
        assert drops_in(effects) == [DropReason.NOT_ADMITTED]
        assert not any(isinstance(effect, AnswerStream) for effect in effects)

    def test_a_node_that_is_not_up_yet_does_not_answer(self) -> None:
        """It would be counted alive before it can serve."""
        mesh = Mesh(2)
        mesh.boot(0)
        data = encode_stream(StreamProbe(ORIGIN))
        effects = mesh[0].handle(StreamReceived(5, mesh.id(1), data, mesh.wall_s), mesh.now)
        assert drops_in(effects) == [DropReason.NOT_ADMITTED]
