"""The one place where the parts of a node are made and joined; `node.py` gives them events.

outbox <- envelope, rumours        everything that leaves
intake -> membership, offers       everything that others stated
own_life                           everything that this node states about itself
prober, helper -> membership       who answers
push_puller -> intake              who lacks what
"""

import dataclasses
import random
from collections.abc import Callable

from protocol.authority import Authority
from protocol.awareness import Awareness
from protocol.catch_up import CatchUp
from protocol.config import ProtocolConfig
from protocol.coordinates import Coordinates
from protocol.crypto import Crypto
from protocol.digest import Knowledge
from protocol.dissemination import Dissemination
from protocol.effects import CaughtUp
from protocol.envelope import Envelope
from protocol.helper import Helper
from protocol.identity import NodeId
from protocol.intake import Intake
from protocol.members import Members
from protocol.membership import Membership
from protocol.messages import Load, Ping
from protocol.offers import Offers
from protocol.outbox import Outbox
from protocol.own_life import OwnLife
from protocol.partition import PartitionWatch
from protocol.probe_traffic import UNPROBED, ProbeTraffic
from protocol.prober import Prober, Verdict
from protocol.proofs import Proofs
from protocol.push_pull import PushPuller
from protocol.reconciliation import Reconciler
from protocol.records import Records
from protocol.round_trips import RoundTrips
from protocol.snapshot import Snapshot
from protocol.statements import Statement, Statements
from protocol.stream_traffic import StreamTraffic
from protocol.versions import VERSIONS

_PROBES = b"meshd probes"


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
    versions: tuple[int, int] = VERSIONS
    """Lowest and highest protocol version to speak."""
    snapshot: Snapshot = dataclasses.field(default_factory=Snapshot)
    protocol: ProtocolConfig = dataclasses.field(default_factory=ProtocolConfig)


class Parts:
    """All parts of one node, made in the order in which they need each other."""

    def __init__(
        self,
        config: NodeConfig,
        crypto: Crypto,
        rng: random.Random,
        statements: Statements | None,
        records: Records | None,
        *,
        own_load: Callable[[], Load | None],
        judge: Callable[[Verdict, int], None],
        call_last: Callable[[NodeId, Statement], None],
    ) -> None:
        """`judge` is told who did not answer a probe, `call_last` whose death is near."""
        self._config = config
        self._knobs = config.protocol
        self._crypto = crypto
        self._rng = rng
        self._own_load = own_load
        self.authority = Authority(crypto, config.root, records)
        self._mesh = self.authority.mesh
        self.members = Members()
        self.statements = statements or Statements(self._mesh)
        self.awareness = Awareness(self._knobs.health_score_max)
        self.coordinates = Coordinates()
        self.rumours = Dissemination(self._knobs)
        self.envelope = Envelope(
            crypto,
            self._mesh,
            config.boot,
            config.boot_secret,
            config.versions,
            self._knobs.sessions_max,
        )
        self.outbox = Outbox(
            self._knobs,
            crypto.node_id,
            self.envelope,
            self.members,
            self.rumours,
            config.versions,
        )
        self.partition = PartitionWatch(self._knobs, self.members, self.outbox)
        self.catch_up = CatchUp(lambda: self.outbox.add(CaughtUp()))
        self.own_life = self._make_own_life()
        self.membership = self._make_membership(call_last)
        self.offers = self._make_offers()
        self.knowledge = Knowledge(
            self.authority, self.members, self.offers, self.membership.accusation_of
        )
        self.intake = self._make_intake()
        self.reconciler = self._make_reconciler()
        self.push_puller = self._make_push_puller()
        secret = crypto.derive_key(config.boot_secret, b"", _PROBES)
        self.proofs = Proofs(crypto, self._mesh, secret)
        self.round_trips = RoundTrips(
            self._knobs.probe_timeout_min_ns, self._knobs.probe_timeout_ns
        )
        self.prober = self._make_prober(judge)
        self.helper = self._make_helper()
        self.traffic = self._make_traffic()
        self.streams = StreamTraffic(
            crypto.node_id,
            self.authority,
            self.members,
            self.intake,
            self.push_puller,
            self.reconciler,
            self.traffic,
            self.outbox,
        )

    def _ping(self, number: int) -> Ping:
        return Ping(number, self._own_load(), None, self._digest())

    def _digest(self) -> int | None:
        return self.knowledge.total if self._knobs.digests else None

    def _buddy_word(self, node: NodeId) -> Statement | None:
        return self.membership.accusation_of(node) if self._knobs.buddy else None

    def _note_met(self) -> None:
        self.own_life.note_met()
        self.catch_up.end()

    def _make_own_life(self) -> OwnLife:
        own = self._crypto.node_id
        return OwnLife(
            self._crypto,
            self._mesh,
            self.statements,
            self.members,
            self.rumours,
            self.outbox,
            name=self._config.name,
            software=self._config.software,
            incarnation=self._config.incarnation,
            offers_version=self._config.offers_version,
            run=self._config.boot,
            versions=self._config.versions,
            on_changed=lambda previous: self.membership.note_changed(own, previous),
        )

    def _make_membership(self, call_last: Callable[[NodeId, Statement], None]) -> Membership:
        return Membership(
            self._knobs,
            self._crypto,
            self.authority,
            self.statements,
            self.members,
            self.rumours,
            self.outbox,
            self.own_life,
            self.partition,
            self.awareness,
            on_present=lambda node: self.prober.add_member(node),
            on_changed=lambda node: self.knowledge.touch(node),
            on_last_call=call_last,
        )

    def _make_offers(self) -> Offers:
        return Offers(
            self._knobs,
            self._crypto,
            self.authority,
            self.statements,
            self.own_life,
            self.rumours,
            self.outbox,
            on_changed=lambda node: self.knowledge.touch(node),
        )

    def _make_intake(self) -> Intake:
        return Intake(
            self._crypto,
            self.authority,
            self.statements,
            self.members,
            self.membership,
            self.offers,
            self.knowledge,
            self.rumours,
            self.outbox,
        )

    def _make_reconciler(self) -> Reconciler:
        return Reconciler(
            self._crypto.node_id,
            self._rng,
            self.authority,
            self.members,
            self.membership,
            self.knowledge,
            self.intake,
            self.outbox,
            check=lambda node: self.outbox.send(node, self._ping(UNPROBED)),
            on_met=self._note_met,
        )

    def _make_push_puller(self) -> PushPuller:
        return PushPuller(
            self._knobs,
            self._crypto,
            self._rng,
            self.authority,
            self.members,
            self.membership,
            self.knowledge,
            self.reconciler,
            self.intake,
            self.rumours,
            self.outbox,
            self.catch_up,
        )

    def _make_prober(self, judge: Callable[[Verdict, int], None]) -> Prober:
        return Prober(
            self._knobs,
            self._crypto.node_id,
            self._rng,
            self.members,
            self.outbox,
            self.proofs,
            self.round_trips,
            self.awareness,
            make_ping=self._ping,
            accusation_of=self._buddy_word,
            judge=judge,
        )

    def _make_helper(self) -> Helper:
        return Helper(
            self._knobs,
            self._crypto.node_id,
            self.members,
            self.outbox,
            self.proofs,
            self.round_trips,
            own_load=self._own_load,
            accuse=self.membership.word_against,
        )

    def _make_traffic(self) -> ProbeTraffic:
        return ProbeTraffic(
            self._rng,
            self.outbox,
            self.proofs,
            self.prober,
            self.helper,
            self.coordinates,
            own_load=self._own_load,
            own_digest=self._digest,
            accusation_of=self._buddy_word,
            on_digest=self.reconciler.on_digest,
        )
