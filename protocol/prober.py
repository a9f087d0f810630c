"""The one place for probing: whom to ask next, whether it answers, and what its silence means.

SWIM's failure detector. Members are probed round-robin in an order that is shuffled anew for each
pass; newcomers enter at a random place. One probe lasts one interval:

    ping --> time-out (from measured round trips) --> helpers and a stream --> verdict at the end

Interval and time-out are stretched by our own health (`awareness.py`). Nothing but the end of the
interval raises a suspicion. The signed nacks of helpers then count as their accusations.

A member with whom a request of ours has just broken is probed next, and at once if the running
probe is answered (and once more per interval at most): attention, which by itself proves nothing.

A target that answers with a challenge (it does not hold our boot, or we not its) was reached:
the ping goes out again, with our token, and the probe starts over, once.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Final

from protocol.awareness import Awareness
from protocol.config import ProtocolConfig
from protocol.deadlines import NEVER
from protocol.events import StreamFailure
from protocol.identity import Address, NodeId
from protocol.members import Members, State
from protocol.messages import Ack, Nack, Origin, Ping, PingRequest, RelayedAck, StreamProbe
from protocol.outbox import Outbox
from protocol.proofs import Proofs
from protocol.round_trips import RoundTrips
from protocol.statements import Statement

ATTENDED_MAX: Final = 64
"""Members that are to be probed out of turn; the others' turn comes anyway."""


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
    is_refused: bool = False
    """Its host answered our stream that nobody listens there."""
    has_send_failed: bool = False
    nacks: dict[NodeId, bytes | None] = dataclasses.field(default_factory=dict)
    """The helpers that were asked, and the accusation of each that sent a nack."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """A member did not answer in time."""

    target: NodeId
    is_refused: bool
    accusations: tuple[tuple[NodeId, bytes], ...]
    """What the helpers signed, with who sent each."""


class Prober:
    """Probes one member at a time."""

    def __init__(
        self,
        config: ProtocolConfig,
        own: NodeId,
        rng: random.Random,
        members: Members,
        outbox: Outbox,
        proofs: Proofs,
        round_trips: RoundTrips,
        awareness: Awareness,
        *,
        make_ping: Callable[[int], Ping],
        accusation_of: Callable[[NodeId], Statement | None],
        judge: Callable[[Verdict, int], None],
    ) -> None:
        """`accusation_of`: what to tell a suspected target first (Lifeguard's buddy system)."""
        self._config = config
        self._own = own
        self._rng = rng
        self._members = members
        self._outbox = outbox
        self._proofs = proofs
        self._round_trips = round_trips
        self._awareness = awareness
        self._make_ping = make_ping
        self._accusation_of = accusation_of
        self._judge = judge
        self._order: list[NodeId] = []
        self._listed: Mapping[NodeId, None] = {}
        """Who was present when this pass began ..."""
        self._newcomers: dict[NodeId, None] = {}
        """... and who has come since."""
        self._position = 0
        """So many of this pass have been drawn."""
        self._wanted: dict[NodeId, None] = {}
        """Who is probed before everybody else of this pass; they stay in it."""
        self._hurried_ns = -NEVER
        """When a probe was last ended early for one of them."""
        self._probe: Probe | None = None
        self._next_probe_ns = NEVER

    @property
    def deadline_ns(self) -> int:
        """When `advance` has something to do."""
        probe = self._probe
        if probe is None:
            return self._next_probe_ns
        # Helpers are asked before the interval ends.
        return probe.ends_ns if probe.is_answered or probe.is_helped else probe.helpers_ns

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
            self._next_probe_ns = now

    def add_member(self, node: NodeId) -> None:
        """A newcomer enters this pass at a random place that is still to come."""
        if node not in self._listed and node not in self._newcomers:
            self._order.append(node)  # what is to come has no order yet
            self._newcomers[node] = None

    def attend(self, node: NodeId, now: int) -> None:
        """Probe a member next: something went wrong between it and us."""
        probe = self._probe
        if not self._is_probed(node) or (probe is not None and probe.target == node):
            return
        if len(self._wanted) < ATTENDED_MAX:
            self._wanted[node] = None
        if now - self._hurried_ns < self._config.probe_interval_ns:
            return
        if probe is None and self._next_probe_ns < NEVER:
            self._hurried_ns = self._next_probe_ns = now
        elif probe is not None and probe.is_answered:
            self._hurried_ns = probe.ends_ns = now

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
            self._end(probe, now)
            self._start_probe(now)
        elif now >= probe.helpers_ns and not probe.is_answered and not probe.is_helped:
            self._ask_for_help(probe)

    def _end(self, probe: Probe, now: int) -> None:
        if probe.is_answered:
            self._awareness.note(-1)
            return
        if not self._members.is_present(probe.target):
            return
        if self._members.state(probe.target) is State.ALIVE:
            # Whose helpers are all silent too is the one who hears badly; one that is heard shows
            # that we are not, and the others may have died with the target. What is already
            # suspected says nothing new: many deaths at once must not make a node slow.
            is_heard = any(wire is not None for wire in probe.nacks.values())
            self._awareness.note(0 if is_heard else max(1, len(probe.nacks)))
        told = tuple((node, wire) for node, wire in probe.nacks.items() if wire)
        self._judge(Verdict(probe.target, probe.is_refused, told), now)

    def _start_probe(self, now: int) -> None:
        target = self._next_target()
        if target is None:
            self._next_probe_ns = now + self._config.probe_interval_ns
            return
        self._probe = Probe(target, self._proofs.draw(), now, 0, 0)
        self._time(self._probe, now)
        self._ping(self._probe)

    def _time(self, probe: Probe, now: int) -> None:
        interval_ns = self._awareness.scale(self._config.probe_interval_ns)
        timeout_ns = self._awareness.scale(self._round_trips.timeout_ns(probe.target))
        # Helpers need the second half of the interval.
        probe.helpers_ns = now + min(timeout_ns, interval_ns // 2)
        probe.ends_ns = now + interval_ns

    def _ping(self, probe: Probe) -> None:
        ping = self._make_ping(probe.sequence)
        first = self._accusation_of(probe.target)
        self._outbox.send(probe.target, ping, first, is_repeated=True)  # by `on_told`

    def _next_target(self) -> NodeId | None:
        while self._wanted:
            target = next(iter(self._wanted))
            del self._wanted[target]
            if self._is_probed(target):
                return target
        for _ in range(2):
            while self._position < len(self._order):
                target = self._draw()
                if self._is_probed(target):
                    return target
            self._order = list(self._members.present())
            self._listed = self._members.present_table()
            self._newcomers.clear()
            self._position = 0
        return None

    def _draw(self) -> NodeId:
        """The next of this pass, at random of those that are to come: a shuffle step by step, so
        that no probe waits for the shuffling of ten thousand.
        """
        order, place = self._order, self._position
        drawn = self._rng.randrange(place, len(order))
        order[place], order[drawn] = order[drawn], order[place]
        self._position += 1
        return order[place]

    def _is_probed(self, node: NodeId) -> bool:
        if node == self._own or not self._members.is_present(node):
            return False
        return self._outbox.version_for(node) is not None

    def _ask_for_help(self, probe: Probe) -> None:
        probe.is_helped = True
        candidates = [node for node in self._outbox.reachable() if node != probe.target]
        count = min(self._config.indirect_probes, len(candidates))
        for helper in self._rng.sample(candidates, count):
            probe.nacks[helper] = None
            self._outbox.send(helper, PingRequest(probe.sequence, probe.target))
        if not self._config.stream_probes:
            return
        accusation = self._accusation_of(probe.target)
        wire = accusation.wire if accusation is not None else b""
        origin = Origin(self._own, probe.sequence)
        self._outbox.open_stream(probe.target, StreamProbe(origin, wire))

    def on_told(self, peer: NodeId, now: int) -> bool:
        """The target told its token: ping it again and start over. False: not our target."""
        probe = self._probe
        if probe is None or probe.target != peer or probe.is_answered:
            return False
        if not probe.is_challenged:
            probe.is_challenged = True
            self._time(probe, now)
        probe.pinged_ns = now
        self._ping(probe)
        return True

    def on_ack(self, sender: NodeId, ack: Ack, now: int) -> int | None:
        """A direct answer: the round trip in nanoseconds, 0 if it is not the first answer; None
        if it answers no probe of ours.
        """
        probe = self._probe
        if probe is None or probe.target != sender or probe.sequence != ack.sequence:
            return None
        if probe.is_answered:
            return 0
        probe.is_answered = True
        round_trip_ns = max(1, now - probe.pinged_ns)
        self._round_trips.learn(sender, round_trip_ns)
        return round_trip_ns

    def on_relayed_ack(self, relayed: RelayedAck) -> bool:
        """A helper's word for the target: good only with the target's signature."""
        return self._on_proof(relayed.target, Origin(self._own, relayed.sequence), relayed.proof)

    def on_stream_ack(self, target: NodeId, origin: Origin, proof: bytes) -> bool:
        """The target answered by stream. A connection alone would have proven nothing."""
        return self._on_proof(target, origin, proof)

    def _on_proof(self, target: NodeId, origin: Origin, proof: bytes) -> bool:
        probe = self._probe
        if probe is None or probe.target != target:
            return False
        if origin != Origin(self._own, probe.sequence):
            return False
        if not self._proofs.is_good(target, origin, proof):
            return False
        probe.is_answered = True
        return True

    def on_nack(self, sender: NodeId, nack: Nack) -> bool:
        """A helper that we asked hears nothing either. False: we did not ask it."""
        probe = self._probe
        if probe is None or (probe.target, probe.sequence) != (nack.target, nack.sequence):
            return False
        if sender not in probe.nacks:
            return False
        probe.nacks[sender] = nack.accusation
        return True

    def on_stream_failed(self, target: NodeId, reason: StreamFailure) -> None:
        """A stream to our target came to nothing; only a refusal says something about it."""
        probe = self._probe
        if probe is not None and probe.target == target and probe.is_helped:
            probe.is_refused |= reason is StreamFailure.REFUSED

    def on_send_failed(self, to: Address) -> None:
        """Our own system sends nothing there: we are in no state to judge the target quickly."""
        probe = self._probe
        if probe is None or probe.has_send_failed:
            return
        if to in self._outbox.addresses(probe.target):
            probe.has_send_failed = True
            self._awareness.note(1)
