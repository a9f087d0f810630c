"""The one place for probing: whom to ask next, whether it answers, and whom to ask for help.

SWIM's failure detector. Members are probed round-robin in an order that is shuffled anew for each
pass; newcomers enter at a random place. One probe lasts one interval: a ping, after
`probe_timeout_ns` the helpers, and only at the end of the interval the verdict.

A target that answers with a challenge (it does not hold our boot, or we not its) was reached:
the ping goes out again and the probe starts over, once.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Final

from protocol.config import ProtocolConfig
from protocol.crypto import Crypto, keyed_hash
from protocol.deadlines import NEVER
from protocol.identity import INCARNATION_MAX, SIGNATURE_BYTES, MeshId, NodeId
from protocol.members import Members
from protocol.messages import Ack, Load, Origin, Ping, PingRequest, RelayedAck
from protocol.outbox import Outbox
from protocol.statements import Statement

RELAYS_MAX: Final = 256
ROUND_TRIPS_MAX: Final = 4_096
_PROOF_DOMAIN: Final = b"meshd ack 1     "


@dataclasses.dataclass(slots=True)
class Probe:
    """One target being probed."""

    target: NodeId
    sequence: int
    pinged_ns: int
    helpers_ns: int
    """When helpers are asked, unless it answers."""
    ends_ns: int
    is_challenged: bool = False
    is_answered: bool = False
    is_helped: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Relay:
    """A ping that this node sent for somebody else."""

    prober: NodeId
    sequence: int
    target: NodeId


class Prober:
    """Probes one member at a time, answers pings and helps others."""

    def __init__(
        self,
        config: ProtocolConfig,
        crypto: Crypto,
        mesh: MeshId,
        rng: random.Random,
        members: Members,
        outbox: Outbox,
        secret: bytes,
        *,
        own_load: Callable[[], Load | None],
        accusation_of: Callable[[NodeId], Statement | None],
        suspect: Callable[[NodeId, int], None],
    ) -> None:
        """`secret`: 32 bytes of this boot that nobody else knows.

        `accusation_of`: what to tell a suspected target first (Lifeguard's buddy system).
        """
        self._config = config
        self._crypto = crypto
        self._mesh = mesh
        self._rng = rng
        self._members = members
        self._outbox = outbox
        self._own_load = own_load
        self._accusation_of = accusation_of
        self._suspect = suspect
        self._order: list[NodeId] = []
        self._listed: dict[NodeId, None] = {}
        self._position = 0
        self._secret = secret
        self._drawn = 0
        self._probe: Probe | None = None
        self._next_probe_ns = NEVER
        self._relays: dict[int, Relay] = {}
        self._round_trips_ns: dict[NodeId, int] = {}

    @property
    def deadline_ns(self) -> int:
        """When `advance` has something to do."""
        probe = self._probe
        if probe is None:
            return self._next_probe_ns
        if probe.is_answered or probe.is_helped:
            return probe.ends_ns
        return min(probe.helpers_ns, probe.ends_ns)

    def start(self, now: int) -> None:
        """Begin probing; the first interval starts at a random phase, so meshes do not pulse."""
        self._next_probe_ns = now + self._rng.randrange(self._config.probe_interval_ns)

    def stop(self) -> None:
        """Probe no more (this node is leaving)."""
        self._probe = None
        self._next_probe_ns = NEVER

    def hold(self, now: int) -> None:
        """Forget the running probe without a verdict: we were not there to hear the answer."""
        if self._probe is not None or self._next_probe_ns < NEVER:
            self._probe = None
            self._next_probe_ns = now + self._config.probe_interval_ns

    def round_trip_ns(self, node: NodeId) -> int | None:
        """Smoothed round trip to a member, as measured by our own pings."""
        return self._round_trips_ns.get(node)

    def add_member(self, node: NodeId) -> None:
        """A newcomer enters this pass at a random place that is still to come."""
        if node not in self._listed:
            place = self._rng.randrange(self._position, len(self._order) + 1)
            self._order.insert(place, node)
            self._listed[node] = None

    def advance(self, now: int) -> None:
        """Do what is due: ask helpers, pass the verdict, start the next probe."""
        probe = self._probe
        if probe is None:
            if now >= self._next_probe_ns:
                self._start_probe(now)
            return
        if now >= probe.ends_ns:
            self._probe = None
            self._next_probe_ns = now
            if not probe.is_answered and self._members.is_present(probe.target):
                self._suspect(probe.target, now)
            self._start_probe(now)
        elif now >= probe.helpers_ns and not probe.is_answered and not probe.is_helped:
            self._ask_helpers(probe)

    def _start_probe(self, now: int) -> None:
        target = self._next_target()
        if target is None:
            self._next_probe_ns = now + self._config.probe_interval_ns
            return
        self._probe = Probe(
            target,
            self._draw_sequence(),
            pinged_ns=now,
            helpers_ns=now + self._config.probe_timeout_ns,
            ends_ns=now + self._config.probe_interval_ns,
        )
        self._ping(self._probe)

    def _draw_sequence(self) -> int:
        """A number that nobody can foresee.

        Everybody signs a proof for everybody who asks: a helper that knew the next numbers could
        collect proofs while the target lives, and show them after its death.
        """
        self._drawn += 1
        drawn = keyed_hash(self._secret, self._drawn.to_bytes(8, "big"), 8, b"meshd sequence")
        return int.from_bytes(drawn, "big") & INCARNATION_MAX

    def _ping(self, probe: Probe) -> None:
        ping = Ping(probe.sequence, self._own_load())
        self._outbox.send(probe.target, ping, self._accusation_of(probe.target))

    def _next_target(self) -> NodeId | None:
        for _ in range(2):
            while self._position < len(self._order):
                target = self._order[self._position]
                self._position += 1
                if self._members.is_present(target) and target != self._crypto.node_id:
                    return target
            self._order = [n for n in self._members.present() if n != self._crypto.node_id]
            self._listed = dict.fromkeys(self._order)
            self._rng.shuffle(self._order)
            self._position = 0
        return None

    def _ask_helpers(self, probe: Probe) -> None:
        probe.is_helped = True
        own = self._crypto.node_id
        candidates = [n for n in self._members.present() if n not in (own, probe.target)]
        count = min(self._config.indirect_probes, len(candidates))
        for helper in self._rng.sample(candidates, count):
            self._outbox.send(helper, PingRequest(probe.sequence, probe.target))

    def on_told(self, peer: NodeId, now: int) -> bool:
        """The target told its token: ping it again and start over. False: not our target."""
        probe = self._probe
        if probe is None or probe.target != peer or probe.is_answered:
            return False
        if not probe.is_challenged:
            probe.is_challenged = True
            probe.helpers_ns = now + self._config.probe_timeout_ns
            probe.ends_ns = now + self._config.probe_interval_ns
        probe.pinged_ns = now
        self._ping(probe)
        return True

    def on_ping(self, sender: NodeId, ping: Ping) -> None:
        """Answer; for a helper's ping with a proof that only its prober can use."""
        proof = b""
        if ping.origin is not None:
            proof = self._crypto.sign(self._proof_text(ping.origin))
        self._outbox.send(
            sender, Ack(ping.sequence, self._own_load(), proof), self._accusation_of(sender)
        )

    def on_ack(self, sender: NodeId, ack: Ack, now: int) -> bool:
        """A direct answer, or one to pass on. False: nobody waits for it."""
        probe = self._probe
        if probe is not None and probe.target == sender and probe.sequence == ack.sequence:
            if not probe.is_answered:
                self._learn_round_trip(sender, now - probe.pinged_ns)
            probe.is_answered = True
            return True
        relay = self._relays.get(ack.sequence)
        if relay is None or relay.target != sender or len(ack.proof) != SIGNATURE_BYTES:
            return False
        del self._relays[ack.sequence]
        self._outbox.send(relay.prober, RelayedAck(relay.sequence, relay.target, ack.proof))
        return True

    def on_ping_request(self, sender: NodeId, request: PingRequest) -> bool:
        """Help another prober. False: the target is nobody we could reach."""
        if not self._members.is_present(request.target) or request.target == sender:
            return False
        sequence = self._draw_sequence()
        if len(self._relays) >= RELAYS_MAX:
            del self._relays[next(iter(self._relays))]
        self._relays[sequence] = Relay(sender, request.sequence, request.target)
        origin = Origin(sender, request.sequence)
        self._outbox.send(request.target, Ping(sequence, self._own_load(), origin))
        return True

    def on_relayed_ack(self, relayed: RelayedAck) -> bool:
        """A helper's word for the target: good only with the target's signature."""
        probe = self._probe
        if probe is None or probe.target != relayed.target or probe.sequence != relayed.sequence:
            return False
        origin = Origin(self._crypto.node_id, relayed.sequence)
        if not self._crypto.verify(relayed.target, relayed.proof, self._proof_text(origin)):
            return False
        probe.is_answered = True
        return True

    def _proof_text(self, origin: Origin) -> bytes:
        return _PROOF_DOMAIN + self._mesh + origin.prober + origin.sequence.to_bytes(8, "big")

    def _learn_round_trip(self, node: NodeId, sample_ns: int) -> None:
        known = self._round_trips_ns.pop(node, None)
        if len(self._round_trips_ns) >= ROUND_TRIPS_MAX:
            del self._round_trips_ns[next(iter(self._round_trips_ns))]
        # RFC 6298's smoothing: an eighth of the new sample.
        self._round_trips_ns[node] = sample_ns if known is None else (7 * known + sample_ns) // 8
