"""The one place that sees all parts of a node: every event comes in here, every effect leaves here.

`Node.handle(event, now) -> list[Effect]` and `Node.deadline` are the whole interface that drives
it. `now` is integer nanoseconds of one clock that never goes back and counts suspended time. The
node asks the world for nothing: keys, chance and time are given to it. The same events at the same
times give the same effects, in the daemon (`meshd/gossip.py`), in the simulator
(`simulations/world.py`) and in a replay.
"""

import dataclasses
import random
from typing import Final

from protocol.allowance import Allowance
from protocol.authority import Authority
from protocol.codec import decode_datagram, decode_stream
from protocol.config import ProtocolConfig
from protocol.crypto import Crypto, keyed_hash
from protocol.deadlines import NEVER
from protocol.dissemination import Dissemination
from protocol.effects import Effect, LoadLearned, SendDatagram
from protocol.envelope import Envelope, Opened, Received, Told, Unintroduced, Unproven
from protocol.errors import DropReason, LocalProtocolError, Refused
from protocol.events import (
    AddressesChanged,
    AddressFound,
    DatagramReceived,
    DeadlineReached,
    Event,
    LeaveRequested,
    LoadChanged,
    OfferChanged,
    RecordIssued,
    Resumed,
    Started,
    StreamFailed,
    StreamReceived,
)
from protocol.identity import Address, NodeId, is_valid_name
from protocol.intake import Intake, Taken
from protocol.members import Members
from protocol.membership import Membership
from protocol.messages import (
    Ack,
    DatagramMessage,
    Gossip,
    Join,
    JoinAnswer,
    Load,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
)
from protocol.offers import Offers
from protocol.outbox import Outbox
from protocol.prober import Prober
from protocol.push_pull import PushPuller
from protocol.snapshot import Snapshot, recall, take_snapshot
from protocol.statements import Statements, is_valid_software

_PROBES: Final = b"meshd probes"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Who a node is, and what it carries over from its earlier runs."""

    name: str
    software: str
    """Program and version, for people."""
    root: bytes
    """The mesh's root public key."""
    boot: int
    """Above every boot that this node had before; its low bits are random."""
    boot_secret: bytes
    """32 random bytes of this boot."""
    incarnation: int = 0
    """The highest that this node ever published."""
    offers_version: int = 0
    snapshot: Snapshot = dataclasses.field(default_factory=Snapshot)
    protocol: ProtocolConfig = dataclasses.field(default_factory=ProtocolConfig)


class Node:
    """One member of a mesh."""

    def __init__(
        self,
        config: NodeConfig,
        crypto: Crypto,
        rng: random.Random,
        statements: Statements | None = None,
    ) -> None:
        """`statements`: a cache of verified statements to share (simulations), else its own."""
        if not is_valid_name(config.name) or not is_valid_software(config.software):
            raise LocalProtocolError(f"{config.name!r} {config.software!r}: not to be published")
        knobs = config.protocol
        self._config = knobs
        self._rng = rng
        self.node_id = crypto.node_id
        self.authority = Authority(crypto, config.root)
        self.mesh = self.authority.mesh
        self.members = Members()
        self._statements = statements or Statements(self.mesh)
        self._rumours = Dissemination(knobs)
        self._envelope = Envelope(crypto, self.mesh, config.boot, config.boot_secret)
        self._outbox = Outbox(knobs, self._envelope, self.members, self._rumours)
        self._membership = Membership(
            knobs,
            crypto,
            self.authority,
            self._statements,
            self.members,
            self._rumours,
            self._outbox,
            name=config.name,
            software=config.software,
            incarnation=config.incarnation,
            offers_version=config.offers_version,
            on_present=lambda node: self._prober.add_member(node),
        )
        self.offers = Offers(
            knobs,
            crypto,
            self.authority,
            self._statements,
            self._membership,
            self._rumours,
            self._outbox,
        )
        self._intake = Intake(
            crypto,
            self.authority,
            self._statements,
            self.members,
            self._membership,
            self.offers,
            self._rumours,
            self._outbox,
        )
        self._prober = self._make_prober(crypto, keyed_hash(config.boot_secret, b"", 32, _PROBES))
        self._push_puller = self._make_push_puller()
        self._load: Load | None = None
        self._gossip_ns = NEVER
        self._challenges = Allowance(knobs.challenges_per_s)
        self._stranger_challenges = Allowance(knobs.stranger_challenges_per_s)
        self._is_started = False
        recall(config.snapshot, crypto, self.authority, self.members, self._statements)

    def _make_prober(self, crypto: Crypto, secret: bytes) -> Prober:
        return Prober(
            self._config,
            crypto,
            self.mesh,
            self._rng,
            self.members,
            self._outbox,
            secret,
            own_load=lambda: self._load,
            accusation_of=self._membership.accusation_of,
            suspect=self._membership.suspect,
        )

    def _make_push_puller(self) -> PushPuller:
        return PushPuller(
            self._config,
            self.node_id,
            self._rng,
            self.authority,
            self.members,
            self._membership,
            self.offers,
            self._intake,
            self._rumours,
            self._outbox,
        )

    # ---- what drives it ----

    @property
    def deadline(self) -> int:
        """When the next DeadlineReached is due, in nanoseconds; NEVER before `Started`."""
        return min(
            self._prober.deadline_ns,
            self._membership.suspicion_deadlines.next_ns,
            self._push_puller.deadline_ns,
            self._gossip_ns,
        )

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
                self._on_stream(event, now)
            case StreamFailed():
                pass  # the exchange is tried again by the rules of push_pull.py
            case OfferChanged():
                self.offers.set_own(event.key, event.value)
            case LoadChanged():
                self._load = event.load
            case Started():
                self._start(event.addresses, now)
            case AddressesChanged():
                if self._is_started and not self._membership.has_left:
                    self._membership.publish(event.addresses)
            case AddressFound():
                self._on_address(event.node, event.address, now)
            case RecordIssued():
                self._issue(event.wire)
            case Resumed():
                self._membership.hold(now, event.gap_ns)
                self._prober.hold(now)
            case LeaveRequested():
                self._leave(now)
        if self._gossip_ns == NEVER and self._is_started and len(self._rumours):
            self._gossip_ns = now + self._config.gossip_interval_ns
        return self._outbox.drain()

    # ---- what others may look at ----

    def round_trip_ns(self, node: NodeId) -> int | None:
        """Smoothed round trip to a member; None when unknown."""
        return self._prober.round_trip_ns(node)

    def address_of(self, node: NodeId) -> tuple[Address, ...]:
        """Where to try a member, best first."""
        return self._outbox.addresses(node)

    def snapshot(self) -> Snapshot:
        """What the next run should remember."""
        return take_snapshot(self.node_id, self.authority, self.members)

    def join_state(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Records and statements, as a push/pull would send them."""
        return self._push_puller.state()

    # ---- its life ----

    def _start(self, addresses: tuple[Address, ...], now: int) -> None:
        if self.authority.admission(self.node_id) is None:
            raise LocalProtocolError("a node starts only as an admitted member")
        self._is_started = True
        self._membership.publish(addresses)
        self._prober.start(now)
        self._push_puller.start(now)

    def _leave(self, now: int) -> None:
        if self._membership.has_left or not self._is_started:
            return
        self._prober.stop()
        self._push_puller.stop()
        others = self._others()
        left = self._membership.leave(now)
        for node in self._rng.sample(others, min(self._config.leave_fanout, len(others))):
            self._outbox.send(node, Gossip(), left)

    def _issue(self, wire: bytes) -> None:
        try:
            self._intake.take_record(wire)
        except Refused as refused:
            raise LocalProtocolError(f"this record does not count: {refused}") from refused

    def _advance(self, now: int) -> None:
        self._membership.advance(now)
        self._prober.advance(now)
        self._push_puller.advance(now)
        if now >= self._gossip_ns:
            self._gossip_ns = NEVER
            others = self._others()
            for node in self._rng.sample(others, min(self._config.gossip_nodes, len(others))):
                if len(self._rumours):
                    self._outbox.send(node, Gossip())
            if not others:
                self._rumours.clear()

    def _others(self) -> list[NodeId]:
        return [node for node in self.members.present() if node != self.node_id]

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
        match received:
            case Unproven():
                self._challenge(received, source, now)
            case Told():
                # The unread may be an ack that its prober waits for, so it goes beside our ping.
                if received.unread is not None:
                    self._outbox.resend(received.sender, received.unread)
                self._prober.on_told(received.sender, now)
            case Unintroduced():
                self._push_puller.introduce(received.sender, now)
            case Opened():
                self._on_opened(received, source, now)

    def _open(self, data: bytes, source: Address) -> Received:
        sender = self.authority.resolve(self._envelope.sender_of(data))
        if sender is None or sender == self.node_id:
            return self._envelope.refuse_unknown(data, source)
        return self._envelope.open(data, source, sender)

    def _challenge(self, unproven: Unproven, source: Address, now: int) -> None:
        """Answer if this second's allowance suffices; never longer than its cause."""
        is_stranger = unproven.reason is DropReason.UNKNOWN_SENDER
        allowance = self._stranger_challenges if is_stranger else self._challenges
        if not allowance.take(now):
            self._outbox.drop(DropReason.RATE_LIMITED, source)
            return
        self._outbox.drop(unproven.reason, source)
        self._outbox.add(SendDatagram(unproven.challenge, source))

    def _on_opened(self, opened: Opened, source: Address, now: int) -> None:
        sender = opened.sender
        self._outbox.arrived(sender)
        try:
            message, riders = decode_datagram(opened.payload)
        except Refused as refused:
            self._outbox.drop(refused.reason, source, refused.detail)
            return
        taken = self._intake.take_all(riders, source, now)
        if not self._is_started:
            return
        if self.members.alive_record(sender) is None or taken is Taken.LACKING:
            self._push_puller.introduce(sender, now)
        self._on_message(sender, message, source, now)

    def _on_message(
        self, sender: NodeId, message: DatagramMessage, source: Address, now: int
    ) -> None:
        is_expected = True
        match message:
            case Ping():
                self._learn_load(sender, message.load)
                self._prober.on_ping(sender, message)
            case Ack():
                self._learn_load(sender, message.load)
                is_expected = self._prober.on_ack(sender, message, now)
            case PingRequest():
                is_expected = self._prober.on_ping_request(sender, message)
            case RelayedAck():
                is_expected = self._prober.on_relayed_ack(message)
            case Gossip():
                pass
        if not is_expected:
            self._outbox.drop(DropReason.UNEXPECTED, source, type(message).__name__)

    def _learn_load(self, sender: NodeId, load: Load | None) -> None:
        if load is not None:
            self._outbox.add(LoadLearned(sender, load))

    # ---- streams ----

    def _on_stream(self, event: StreamReceived, now: int) -> None:
        try:
            message = decode_stream(event.data)
        except Refused as refused:
            self._outbox.drop(refused.reason, event.peer, refused.detail)
            return
        match message:
            case PushPull():
                self._push_puller.on_push_pull(event.stream, event.peer, message, now)
            case Join():
                self._push_puller.on_join(event.stream, event.peer, message, event.wall_s)
            case JoinAnswer():
                self._outbox.drop(DropReason.UNEXPECTED, event.peer, "JoinAnswer")
