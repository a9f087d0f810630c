"""The one place for helping another prober: ping its target, by stream too, and tell what came.

    prober --PingRequest--> helper --Ping(origin)--> target
                                   --StreamProbe---> target    if the ping goes unanswered
    prober <--RelayedAck--- helper                              the target's own signature
    prober <--Nack--------- helper                              or the helper's own accusation

A nack tells a prober two things: that its own network works (Lifeguard), and, signed, that one
more member does not hear the target. It is sent at 80 % of the prober's longest time-out, or as
soon as the target's host says that the process is gone.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

from protocol.config import ProtocolConfig
from protocol.deadlines import Deadlines
from protocol.events import StreamFailure
from protocol.identity import SIGNATURE_BYTES, NodeId
from protocol.members import Members
from protocol.messages import Ack, Load, Nack, Origin, Ping, PingRequest, RelayedAck, StreamProbe
from protocol.outbox import Outbox
from protocol.proofs import Proofs
from protocol.round_trips import RoundTrips
from protocol.statements import Statement

RELAYS_MAX: Final = 256
RELAYS_PER_PROBER: Final = 8
"""An honest one has one probe at a time; so none drives out the requests of others."""


@dataclasses.dataclass(slots=True)
class Relay:
    """A ping that this node sent for somebody else."""

    origin: Origin
    target: NodeId
    stream_ns: int
    """When the target is tried by stream."""
    nack_ns: int
    ends_ns: int
    """An answer until then is still passed on, also after a nack."""
    is_streamed: bool = False
    is_nacked: bool = False

    @property
    def next_ns(self) -> int:
        """When something is due."""
        if not self.is_streamed:
            return self.stream_ns
        return self.ends_ns if self.is_nacked else self.nack_ns


class Helper:
    """Pings targets for other probers."""

    def __init__(
        self,
        config: ProtocolConfig,
        own: NodeId,
        members: Members,
        outbox: Outbox,
        proofs: Proofs,
        round_trips: RoundTrips,
        *,
        own_load: Callable[[], Load | None],
        accuse: Callable[[NodeId, bool], Statement | None],
    ) -> None:
        """`accuse(target, is_refused)`: our own signed accusation; None if we cannot make one."""
        self._config = config
        self._own = own
        self._members = members
        self._outbox = outbox
        self._proofs = proofs
        self._round_trips = round_trips
        self._own_load = own_load
        self._accuse = accuse
        self._relays: dict[int, Relay] = {}
        self._deadlines: Deadlines[int] = Deadlines()

    @property
    def deadline_ns(self) -> int:
        """When `advance` has something to do."""
        return self._deadlines.next_ns

    def on_ping_request(self, sender: NodeId, request: PingRequest, now: int) -> bool:
        """Help another prober. False: the target is nobody we could reach."""
        target = request.target
        if not self._members.is_present(target) or target in (sender, self._own):
            return False
        if self._outbox.version_for(target) is None:
            return False
        number = self._proofs.draw()
        theirs = [n for n, relay in self._relays.items() if relay.origin.prober == sender]
        if len(theirs) >= RELAYS_PER_PROBER:
            self._end(theirs[0])
        elif len(self._relays) >= RELAYS_MAX:
            self._end(next(iter(self._relays)))
        nack_ns = now + self._config.nack_ns
        self._relays[number] = relay = Relay(
            Origin(sender, request.sequence),
            target,
            stream_ns=min(now + self._round_trips.timeout_ns(target), (now + nack_ns) // 2),
            nack_ns=nack_ns,
            ends_ns=now + 2 * self._config.probe_interval_ns,
        )
        self._deadlines.set(number, relay.next_ns)
        self._outbox.send(target, Ping(number, self._own_load(), relay.origin))
        return True

    def advance(self, now: int) -> None:
        """Try by stream, say that nothing came, or forget: whatever is due."""
        while (number := self._deadlines.pop_due(now)) is not None:
            relay = self._relays[number]
            if not relay.is_streamed:
                relay.is_streamed = True
                if self._config.stream_probes:
                    self._outbox.open_stream(relay.target, StreamProbe(relay.origin))
            elif not relay.is_nacked:
                self._nack(relay, is_refused=False)
            else:
                del self._relays[number]
                continue
            self._deadlines.set(number, relay.next_ns)

    def on_ack(self, sender: NodeId, ack: Ack) -> bool:
        """An answer to one of our pings for others. False: nobody waits for it."""
        relay = self._relays.get(ack.sequence)
        if relay is None or relay.target != sender or len(ack.proof) != SIGNATURE_BYTES:
            return False
        self._pass_on(ack.sequence, relay, ack.proof)
        return True

    def on_stream_ack(self, target: NodeId, origin: Origin, proof: bytes) -> bool:
        """The target answered our stream; the prober checks the proof. False: nobody waits."""
        for number, relay in self._relays.items():
            if relay.target == target and relay.origin == origin:
                self._pass_on(number, relay, proof)
                return True
        return False

    def on_stream_failed(self, target: NodeId, reason: StreamFailure) -> None:
        """A host that says "nobody listens here" is worth telling at once."""
        if reason is not StreamFailure.REFUSED:
            return
        for number, relay in self._relays.items():
            if relay.target == target and relay.is_streamed and not relay.is_nacked:
                self._nack(relay, is_refused=True)
                self._deadlines.set(number, relay.next_ns)

    def _pass_on(self, number: int, relay: Relay, proof: bytes) -> None:
        self._outbox.send(
            relay.origin.prober, RelayedAck(relay.origin.sequence, relay.target, proof)
        )
        self._end(number)

    def _nack(self, relay: Relay, *, is_refused: bool) -> None:
        relay.is_nacked = True
        if not self._config.nacks:
            return
        accusation = self._accuse(relay.target, is_refused)
        wire = accusation.wire if accusation is not None else b""
        origin = relay.origin
        self._outbox.send(origin.prober, Nack(origin.sequence, relay.target, wire))

    def _end(self, number: int) -> None:
        del self._relays[number]
        self._deadlines.clear(number)
