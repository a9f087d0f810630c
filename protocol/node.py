"""The one place that sees all parts of a node: every event comes in here, every effect leaves here.

`Node.handle(event, now) -> list[Effect]` and `Node.deadline` are the whole interface that drives
it. `now` is integer nanoseconds of one clock that never goes back and counts suspended time. The
node asks the world for nothing: keys, chance and time are given to it. The same events at the same
times give the same effects, in the daemon (`meshd/gossip.py`), in the simulator
(`simulations/world.py`) and in a replay.
"""

import random

from protocol.assembly import NodeConfig, Parts
from protocol.challenges import Challenges
from protocol.codec import decode_datagram
from protocol.crypto import Crypto
from protocol.deadlines import NEVER
from protocol.effects import Effect, Issued, SendDatagram
from protocol.envelope import Envelope, Opened, Received, Told, Unproven
from protocol.errors import DropReason, LocalProtocolError, Refused
from protocol.events import (
    AddressesChanged,
    AddressFound,
    ContactLost,
    DatagramReceived,
    DeadlineReached,
    Delayed,
    Event,
    LoadChanged,
    OfferChanged,
    RecordIssued,
    Resumed,
    SeedFound,
    SendFailed,
    Started,
    StreamFailed,
    StreamReceived,
)
from protocol.identity import Address, NodeId, is_valid_name
from protocol.intake import Taken
from protocol.messages import Gossip, Load, Ping
from protocol.prober import Verdict
from protocol.records import Records, Revocation, decode_record
from protocol.snapshot import Snapshot, recall, take_snapshot
from protocol.statements import Statement, Statements, is_valid_software


class Node:
    """One member of a mesh."""

    def __init__(
        self,
        config: NodeConfig,
        crypto: Crypto,
        rng: random.Random,
        statements: Statements | None = None,
        records: Records | None = None,
    ) -> None:
        """`statements`, `records`: caches of verified ones to share (simulations), else its own."""
        if not is_valid_name(config.name) or not is_valid_software(config.software):
            raise LocalProtocolError(f"{config.name!r} {config.software!r}: not to be published")
        knobs = config.protocol
        self._config = knobs
        self._rng = rng
        self.node_id = crypto.node_id
        parts = Parts(
            config,
            crypto,
            rng,
            statements,
            records,
            own_load=lambda: self._load,
            judge=self._judge,
            call_last=self._call_last,
        )
        self.authority = parts.authority
        self.mesh = parts.authority.mesh
        self.members = parts.members
        self.offers = parts.offers
        self._own_life = parts.own_life
        self._membership = parts.membership
        self._awareness = parts.awareness
        self._coordinates = parts.coordinates
        self._partition = parts.partition
        self._rumours = parts.rumours
        self._envelope = parts.envelope
        self._outbox = parts.outbox
        self._intake = parts.intake
        self._round_trips = parts.round_trips
        self._prober = parts.prober
        self._helper = parts.helper
        self._traffic = parts.traffic
        self._push_puller = parts.push_puller
        self._knowledge = parts.knowledge
        self._reconciler = parts.reconciler
        self._catch_up = parts.catch_up
        self._streams = parts.streams
        self._load: Load | None = None
        self._gossip_ns = NEVER
        self._held_until_ns = 0
        self._challenges = Challenges(knobs)
        self._is_started = False
        self.deadline = NEVER
        """When the next DeadlineReached is due, in nanoseconds; NEVER before `Started`."""
        recall(config.snapshot, crypto, self.authority, self.members, parts.statements)
        self._knowledge.rebuild()

    # ---- what drives it ----

    def handle(self, event: Event, now: int) -> list[Effect]:
        """Take one event at time `now`; returns what is to be done, in order. Never raises for
        anything that came from outside; LocalProtocolError for misuse by the driver.
        """
        match event:
            case DatagramReceived():
                self._on_datagram(event.data, event.source, now)
            case DeadlineReached():
                self._advance(now)
            case StreamReceived():
                self._streams.on_stream(event, now, is_started=self._is_started)
            case StreamFailed():
                self._traffic.on_stream_failed(event.peer, event.reason)
                self._reconciler.give_up(event.peer, now)
            case SendFailed():
                self._traffic.on_send_failed(event.to)
            case ContactLost():
                self._prober.attend(event.node, now)
            case Delayed():
                self._awareness.note(1)
            case OfferChanged():
                self.offers.set_own(event.key, event.value)
            case LoadChanged():
                self._load = event.load
            case Started():
                self._start(event.addresses, now)
            case AddressesChanged():
                if self._is_started and not self._own_life.is_over:
                    self._own_life.publish(event.addresses)
            case AddressFound():
                self._on_address(event.node, event.address, now)
            case SeedFound():
                self._outbox.hint(event.node, event.address)
                self._reconciler.begin_whole(event.node, now)
            case RecordIssued():
                self._issue(event.wire)
            case Resumed():
                self._hold(event.gap_ns, now)
            case _:
                self._leave(now)
        if self._own_life.is_superseded or self._is_revoked():
            self._fall_silent()
        self._knowledge.settle(now)
        if self._gossip_ns == NEVER and self._is_started and self._rumours:
            self._gossip_ns = now + self._config.gossip_interval_ns
        earliest = min(
            self._prober.deadline_ns,
            self._helper.deadline_ns,
            self._membership.deadline_ns,
            self._push_puller.deadline_ns,
            self._reconciler.deadline_ns,
            self._catch_up.deadline_ns,
            self._gossip_ns,
        )
        # A suspicion may be over by an accuser who came just now. That was due at no earlier time:
        # the driver would take it for its own lateness.
        self.deadline = max(now, earliest)
        return self._outbox.drain()

    # ---- what others may look at ----

    def round_trip_ns(self, node: NodeId) -> int | None:
        """Round trip to a member: measured, else estimated from coordinates; None: unknown."""
        measured = self._round_trips.smoothed_ns(node)
        return measured if measured is not None else self._coordinates.estimate_ns(node)

    @property
    def health_score(self) -> int:
        """0: this node is well; up to 7: it judges others ever more slowly (`awareness.py`)."""
        return self._awareness.score

    def lost_count(self, now: int) -> int:
        """Members that vanished at once and are still missing (`partition.py`); 0: no partition."""
        return self._partition.lost_count(now)

    @property
    def is_caught_up(self) -> bool:
        """Whether this node knows what was decided while it was away (`catch_up.py`); only then
        may it serve and ask. Its `join` answers say so by themselves.
        """
        return self._catch_up.is_over

    @property
    def is_superseded(self) -> bool:
        """Whether a newer run of this identity lives elsewhere; then this node is silent."""
        return self._own_life.is_superseded

    def address_of(self, node: NodeId) -> tuple[Address, ...]:
        """Where to try a member, best first."""
        return self._outbox.addresses(node)

    def snapshot(self) -> Snapshot:
        """What the next run should remember."""
        return take_snapshot(self.node_id, self.authority, self.members)

    def join_state(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Records and statements, as a push/pull would send them."""
        return self._knowledge.everything()

    def begin_like(self, other: "Node") -> None:
        """Know what `other` knows, this node's own life among it, and have nothing to spread: a
        simulation that begins in the middle, when everybody has heard everything.
        """
        if other is not self:
            self.authority.share(other.authority)
            self.members.share(other.members)
            self._knowledge.share(other._knowledge)
        self._rumours.clear()

    @property
    def envelope(self) -> Envelope:
        """For simulations: of those who have met already, and of members that mean ill."""
        return self._envelope

    # ---- its life ----

    def _start(self, addresses: tuple[Address, ...], now: int) -> None:
        if self.authority.admission(self.node_id) is None:
            raise LocalProtocolError("a node starts only as an admitted member")
        self._is_started = True
        self._own_life.publish(addresses)
        self._prober.start(now)
        self._push_puller.start(now)
        self._begin_to_catch_up(now)

    def _leave(self, now: int) -> None:
        if self._own_life.is_over or not self._is_started:
            return
        self._prober.stop()
        self._push_puller.stop()
        self._reconciler.stop()
        others = self._outbox.reachable()
        left = self._own_life.leave(now)
        for node in self._rng.sample(others, min(self._config.leave_fanout, len(others))):
            self._outbox.send(node, Gossip(), left)

    def _is_revoked(self) -> bool:
        return self._is_started and self.authority.is_revoked(self.node_id)

    def _fall_silent(self) -> None:
        """A newer run of this identity is the member, and two voices would only confuse the mesh;
        or this node was revoked, and nobody listens.
        """
        self._prober.stop()
        self._push_puller.stop()
        self._reconciler.stop()
        self._is_started = False
        self._gossip_ns = NEVER

    def _hold(self, gap_ns: int, now: int) -> None:
        """We stood still: what we missed says nothing about others. Ask before judging."""
        self._held_until_ns = now + self._config.hold_ns
        self._membership.hold(now, gap_ns)
        self._prober.hold(now)
        if self._is_started:
            self._reconciler.resync(now)
            self._begin_to_catch_up(now)

    def _begin_to_catch_up(self, now: int) -> None:
        has_others = self.members.present_count > 1 or bool(self.members.missing())
        self._catch_up.begin(now, has_others=has_others)

    def _call_last(self, subject: NodeId, accusation: Statement) -> None:
        """A death is about to be declared: whoever knows better, and the subject, may object."""
        others = [node for node in self._outbox.reachable() if node != subject]
        asked = self._rng.sample(others, min(self._config.last_call_nodes, len(others)))
        for node in (*asked, subject):
            self._outbox.send(node, Gossip(), accusation)

    def _is_held(self, now: int) -> bool:
        return now < self._held_until_ns and not self._reconciler.is_synced

    def _judge(self, verdict: Verdict, now: int) -> None:
        """A member did not answer a probe, and some helpers say the same."""
        if self._is_held(now):
            return
        self._membership.suspect(verdict.target, now, is_refused=verdict.is_refused)
        for helper, accusation in verdict.accusations:
            self._intake.take_all((accusation,), helper, now)

    def _issue(self, wire: bytes) -> None:
        try:
            record = decode_record(wire)
            if isinstance(record, Revocation) and self.members.is_present(NodeId(record.subject)):
                # The last that it hears of the mesh: why nobody answers any more.
                self._outbox.send(NodeId(record.subject), Gossip(), record)
            self._intake.take_record(wire)
        except Refused as refused:
            self._outbox.add(Issued(wire, str(refused)))
            return
        self._outbox.add(Issued(wire))

    def _advance(self, now: int) -> None:
        self._traffic.advance(now)
        self._push_puller.advance(now)
        self._reconciler.advance(now)
        self._catch_up.advance(now)
        if self._is_held(now):
            self._membership.postpone(now, self._config.probe_interval_ns)
        self._membership.advance(now)  # last: a verdict just now may have shortened a suspicion
        if now >= self._gossip_ns:
            self._gossip_ns = NEVER
            if self._rumours:  # else they were spent beside other messages
                self._gossip()

    def _gossip(self) -> None:
        others = self._outbox.reachable()
        for node in self._rng.sample(others, min(self._config.gossip_nodes, len(others))):
            if self._rumours:
                self._outbox.send(node, Gossip())
        if not others:
            self._rumours.clear()

    def _on_address(self, node: NodeId, address: Address, now: int) -> None:
        """A hint where a member is: of use only while it is not here."""
        if node == self.node_id or self.authority.admission(node) is None:
            return
        self._outbox.hint(node, address)
        if self._is_started and not self.members.is_present(node):
            self._push_puller.introduce(node, now)

    # ---- datagrams ----

    def _on_datagram(self, data: bytes, source: Address, now: int) -> None:
        try:
            received = self._open(data, source)
        except Refused as refused:
            self._outbox.drop(refused.reason, source, refused.detail)
            return
        match received:  # the most frequent first
            case Opened():
                self._on_opened(received, source, now)
            case Unproven():
                self._challenge(received, source, now)
            case Told():
                # An ack that its prober waits for, say; our own ping of it is said anew.
                if received.unread is not None:
                    self._outbox.resend(received.sender, received.unread)
                self._prober.on_told(received.sender, now)
            case _:  # who does not know us
                self._push_puller.introduce(received.sender, now)

    def _open(self, data: bytes, source: Address) -> Received:
        sender = self.authority.resolve(self._envelope.sender_of(data))
        if sender is None or sender == self.node_id:
            return self._envelope.refuse_unknown(data, source)
        return self._envelope.open(data, source, sender)

    def _challenge(self, unproven: Unproven, source: Address, now: int) -> None:
        """Answer if this second's allowance suffices; never longer than its cause."""
        if not self._may_challenge(unproven, source, now):
            self._outbox.drop(DropReason.RATE_LIMITED, source)
            return
        self._outbox.drop(unproven.reason, source)
        self._outbox.add(SendDatagram(unproven.challenge, source, "challenge"))

    def _may_challenge(self, unproven: Unproven, source: Address, now: int) -> bool:
        sender = unproven.sender
        if sender is None:
            return self._challenges.take_for_stranger(now)
        is_known_place = source in self._outbox.addresses(sender)
        return self._challenges.take_for_member(sender, now, is_known_place=is_known_place)

    def _on_opened(self, opened: Opened, source: Address, now: int) -> None:
        sender = opened.sender
        self._outbox.arrived(sender)
        try:
            message, riders = decode_datagram(opened.payload)
        except Refused as refused:
            self._outbox.drop(refused.reason, source, refused.detail)
            return
        taken = Taken.WHOLE
        if riders:
            taken = self._intake.take_all(riders, sender, now, source)
        if not self._is_started or self.authority.admission(sender) is None:
            return
        if self.members.alive_record(sender) is None or taken is Taken.LACKING:
            self._push_puller.introduce(sender, now)
        if isinstance(message, Ping) and message.token is not None and opened.is_newest:
            self._envelope.take_token(sender, message.token)
        if not isinstance(message, Gossip):
            self._traffic.on_message(sender, message, source, now)
