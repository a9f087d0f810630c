"""The one place where messages about probes reach who waits for them: prober, helper, or nobody.

Every ping is answered, with our load, our digest and our coordinate.
"""

import random
from collections.abc import Callable
from typing import Final

from protocol.codec import encode_stream
from protocol.coordinates import Coordinates, decode_coordinate, encode_coordinate
from protocol.effects import AnswerStream, LoadLearned
from protocol.errors import DropReason, Refused
from protocol.events import StreamFailure
from protocol.helper import Helper
from protocol.identity import Address, NodeId
from protocol.messages import (
    Ack,
    Load,
    Nack,
    Ping,
    PingRequest,
    RelayedAck,
    StreamAck,
    StreamProbe,
)
from protocol.outbox import Outbox
from protocol.prober import Prober
from protocol.proofs import Proofs
from protocol.statements import Statement

UNPROBED: Final = 0
"""The number of a ping that is no probe: it only asks for the other's digest."""
ProbeMessage = Ping | Ack | PingRequest | RelayedAck | Nack


class ProbeTraffic:
    """Answers probes, and passes answers on."""

    def __init__(
        self,
        rng: random.Random,
        outbox: Outbox,
        proofs: Proofs,
        prober: Prober,
        helper: Helper,
        coordinates: Coordinates,
        *,
        own_load: Callable[[], Load | None],
        own_digest: Callable[[], int | None],
        accusation_of: Callable[[NodeId], Statement | None],
        on_digest: Callable[[NodeId, int, int], None],
    ) -> None:
        """`on_digest(peer, digest, now)` hears what others know, in short."""
        self._rng = rng
        self._outbox = outbox
        self._proofs = proofs
        self._prober = prober
        self._helper = helper
        self._coordinates = coordinates
        self._own_load = own_load
        self._own_digest = own_digest
        self._accusation_of = accusation_of
        self._on_digest = on_digest

    def advance(self, now: int) -> None:
        """Do what is due."""
        self._prober.advance(now)
        self._helper.advance(now)

    def on_message(self, sender: NodeId, message: ProbeMessage, source: Address, now: int) -> None:
        """An authentic datagram of a member."""
        is_expected = True
        match message:
            case Ping():
                self._learn(sender, message, now)
                self._answer(sender, message)
            case Ack():
                self._learn(sender, message, now)
                is_expected = self._on_ack(sender, message, source, now)
            case PingRequest():
                is_expected = self._helper.on_ping_request(sender, message, now)
            case RelayedAck():
                is_expected = self._prober.on_relayed_ack(message)
            case _:
                is_expected = self._prober.on_nack(sender, message)
        if not is_expected:
            self._outbox.drop(DropReason.UNEXPECTED, source, type(message).__name__)

    def _learn(self, sender: NodeId, message: Ping | Ack, now: int) -> None:
        if message.load is not None:
            self._outbox.add(LoadLearned(sender, message.load))
        if message.digest is not None:
            self._on_digest(sender, message.digest, now)

    def _answer(self, sender: NodeId, ping: Ping) -> None:
        """For a helper's ping with a proof that only its prober can use."""
        proof = self._proofs.sign(ping.origin) if ping.origin is not None else b""
        where = encode_coordinate(self._coordinates.own)
        ack = Ack(ping.sequence, self._own_load(), proof, self._own_digest(), where)
        self._outbox.send(sender, ack, self._accusation_of(sender))

    def _on_ack(self, sender: NodeId, ack: Ack, source: Address, now: int) -> bool:
        if ack.sequence == UNPROBED:
            return True
        round_trip_ns = self._prober.on_ack(sender, ack, now)
        if round_trip_ns is None:
            return self._helper.on_ack(sender, ack)
        if round_trip_ns and ack.coordinate is not None:
            try:
                there = decode_coordinate(ack.coordinate)
            except Refused as refused:
                self._outbox.drop(refused.reason, source, "coordinate")
            else:
                self._coordinates.observe(sender, there, round_trip_ns, self._rng)
        return True

    def on_stream_probe(self, stream: int, probe: StreamProbe, alive: bytes) -> None:
        """A member asks by stream, for itself or for somebody whom it helps; `alive` is ours."""
        ack = StreamAck(probe.origin, self._proofs.sign(probe.origin), alive)
        self._outbox.add(AnswerStream(stream, encode_stream(ack)))

    def on_stream_ack(self, peer: NodeId, ack: StreamAck) -> None:
        """A member's signed answer by stream."""
        is_ours = self._prober.on_stream_ack(peer, ack.origin, ack.proof)
        if not is_ours and not self._helper.on_stream_ack(peer, ack.origin, ack.proof):
            self._outbox.drop(DropReason.UNEXPECTED, peer, "StreamAck")

    def on_stream_failed(self, peer: NodeId, reason: StreamFailure) -> None:
        """A stream to a member came to nothing."""
        self._prober.on_stream_failed(peer, reason)
        self._helper.on_stream_failed(peer, reason)

    def on_send_failed(self, to: Address) -> None:
        """Our own system would not send a datagram."""
        self._prober.on_send_failed(to)
