"""The one place where virtual time passes: a heap of (time, sequence, what) around real Nodes.

The twin of `meshd/gossip.py`: it gives events to `protocol.Node` and carries out its effects, with
`network.py` in the place of sockets. One seed decides everything.
"""

import dataclasses
import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable

from protocol.codec import encode_stream
from protocol.config import ProtocolConfig
from protocol.crypto import Crypto, SodiumCrypto, public_key_of
from protocol.deadlines import NEVER
from protocol.effects import (
    AnswerStream,
    DatagramDropped,
    Effect,
    MembershipChanged,
    OpenStream,
    Persist,
    SendDatagram,
)
from protocol.errors import DropReason
from protocol.events import (
    DatagramReceived,
    DeadlineReached,
    Event,
    LeaveRequested,
    Started,
    StreamFailed,
    StreamReceived,
)
from protocol.identity import Address, NodeId, mesh_id_of
from protocol.members import State
from protocol.messages import PushPull
from protocol.node import Node, NodeConfig
from protocol.records import Role, make_admission, make_founding, make_invite, make_join_proof
from protocol.snapshot import Snapshot
from protocol.statements import Statements
from simulations.network import Network, NetworkOptions

PORT = 7700
WALL_START_S = 1_800_000_000


@dataclasses.dataclass(slots=True)
class Host:
    """One simulated machine: its identity, its disk, and the node that runs on it, if any."""

    index: int
    crypto: Crypto
    incarnation: int = 0
    offers_version: int = 0
    boot: int = 0
    snapshot: Snapshot = dataclasses.field(default_factory=Snapshot)
    node: Node | None = None
    life: int = 0
    """Counts starts, so that what was scheduled for an earlier life is dropped."""

    @property
    def address(self) -> Address:
        """Where its node is reached."""
        return Address(f"10.{self.index >> 16}.{self.index >> 8 & 255}.{self.index & 255}", PORT)


class World:
    """A mesh of `size` hosts with admissions already on their disks; nothing runs yet."""

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        network: NetworkOptions | None = None,
        protocol: ProtocolConfig | None = None,
        make_crypto: Callable[[bytes], Crypto] = SodiumCrypto,
    ) -> None:
        self._rng = random.Random(seed)  # noqa: S311  # a simulation must be repeatable
        self.network = Network(network or NetworkOptions(), random.Random(seed + 1))  # noqa: S311  # same
        self._protocol = protocol or ProtocolConfig()
        self.now = 0
        self._sequence = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._armed: dict[int, int] = {}
        self._trace = hashlib.blake2b(digest_size=16)
        self.drops: Counter[DropReason] = Counter()
        self.changes: list[tuple[int, int, MembershipChanged]] = []
        """(time, observing host, what changed), in order."""
        self.datagrams = 0
        self.largest_datagram = 0
        self._root_seed = self._bytes(32)
        self.root = public_key_of(self._root_seed)
        self.mesh = mesh_id_of(self.root)
        self._statements = Statements(self.mesh)
        self.hosts = [Host(index, make_crypto(self._bytes(32))) for index in range(size)]
        self._by_address = {host.address: host for host in self.hosts}
        self._by_id = {host.crypto.node_id: host for host in self.hosts}
        self._streams: dict[int, tuple[Host, int, Host]] = {}
        self._admit_all()

    def _bytes(self, count: int) -> bytes:
        return self._rng.getrandbits(8 * count).to_bytes(count, "big")

    def _admit_all(self) -> None:
        founder, *others = self.hosts
        invite, founding = make_founding(
            self._root_seed,
            founder.crypto,
            self.mesh,
            invite_seed=self._bytes(32),
            owner="founder",
            now_s=WALL_START_S,
        )
        common = [invite.wire, founding.wire]
        founder.snapshot = Snapshot(records=tuple(common))
        if not others:
            return
        invite_seed = self._bytes(32)
        offer = make_invite(
            self._root_seed,
            self.mesh,
            key=public_key_of(invite_seed),
            act=2,
            role=Role.WORKER,
            expires_at_s=WALL_START_S + 3600,
            uses=len(others),
            is_trusted=False,
            owner="founder",
        )
        common.append(offer.wire)
        for slot, host in enumerate(others, start=1):
            proof = make_join_proof(invite_seed, host.crypto, self.mesh)
            admission = make_admission(
                founder.crypto,
                self.mesh,
                proof,
                role=Role.WORKER,
                slot=slot,
                admitted_at_s=WALL_START_S,
            )
            host.snapshot = Snapshot(records=(*common, admission.wire))
        founder.snapshot = Snapshot(records=tuple(common))

    # ---- faults and acts ----

    def start(self, index: int, *seeds: int) -> None:
        """Boot a host's node; it introduces itself to `seeds` as a joined node would."""
        host = self.hosts[index]
        host.life += 1
        host.boot = max(host.boot + 1, self.now // 10**9 << 24 | self._rng.getrandbits(24))
        host.node = Node(
            NodeConfig(
                name=f"n{index}",
                software="sim",
                root=self.root,
                boot=host.boot,
                boot_secret=self._bytes(32),
                incarnation=host.incarnation,
                offers_version=host.offers_version,
                snapshot=host.snapshot,
                protocol=self._protocol,
            ),
            host.crypto,
            random.Random(self._rng.getrandbits(64)),  # noqa: S311  # same
            self._statements,
        )
        self.give(host, Started((host.address,)))
        for seed in seeds:
            other = self.hosts[seed]
            node = host.node
            records, statements = node.join_state()
            self._exchange_state(host, other, records, statements)

    def _exchange_state(
        self, host: Host, other: Host, records: tuple[bytes, ...], statements: tuple[bytes, ...]
    ) -> None:
        data = encode_stream(PushPull(False, records, statements))
        self._open_stream(host, OpenStream(other.crypto.node_id, (other.address,), data))

    def crash(self, index: int) -> None:
        """The process is gone; its disk stays as it was last written."""
        host = self.hosts[index]
        if host.node is not None:
            host.snapshot = host.node.snapshot()
        host.node = None
        host.life += 1

    def leave(self, index: int) -> None:
        """Say goodbye, then stop a second later."""
        host = self.hosts[index]
        self.give(host, LeaveRequested())
        life = host.life
        self.at(10**9, lambda: self.crash(index) if host.life == life else None)

    def give(self, host: Host, event: Event) -> None:
        """Hand an event to a host's node and carry out what it asks."""
        if host.node is None:
            return
        for effect in host.node.handle(event, self.now):
            self._carry_out(host, effect)
        self._arm(host)

    def at(self, delay_ns: int, what: Callable[[], None]) -> None:
        """Do something later."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_ns, self._sequence, what))

    # ---- time ----

    def run(self, duration_ns: int) -> None:
        """Let time pass."""
        end = self.now + duration_ns
        while self._heap and self._heap[0][0] <= end:
            self.now, _, what = heapq.heappop(self._heap)
            what()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_ns: int) -> bool:
        """Let time pass until the condition holds; False when the limit came first."""
        end = self.now + limit_ns
        while not condition():
            if not self._heap or self._heap[0][0] > end:
                self.now = end
                return condition()
            self.now, _, what = heapq.heappop(self._heap)
            what()
        return True

    @property
    def trace_hash(self) -> str:
        """A hash over everything that was sent and changed, in order."""
        return self._trace.hexdigest()

    def _arm(self, host: Host) -> None:
        if host.node is None:
            return
        deadline = host.node.deadline
        if deadline >= NEVER or self._armed.get(host.index) == deadline:
            return
        self._armed[host.index] = deadline
        life = host.life

        def fire() -> None:
            if self._armed.get(host.index) == deadline:
                del self._armed[host.index]
            if host.life == life and host.node is not None:
                if host.node.deadline <= self.now:
                    self.give(host, DeadlineReached())
                else:
                    self._arm(host)

        self.at(max(0, deadline - self.now), fire)

    # ---- effects ----

    def _carry_out(self, host: Host, effect: Effect) -> None:
        match effect:
            case SendDatagram():
                self._send(host, effect)
            case OpenStream():
                self._open_stream(host, effect)
            case AnswerStream():
                self._answer(effect)
            case Persist():
                host.incarnation = effect.incarnation
                host.offers_version = effect.offers_version
            case MembershipChanged():
                self.changes.append((self.now, host.index, effect))
                self._note(b"change", host.index, effect.node, str(effect.state).encode())
            case DatagramDropped():
                self.drops[effect.reason] += 1
            case _:
                pass

    def _send(self, host: Host, effect: SendDatagram) -> None:
        self.datagrams += 1
        self.largest_datagram = max(self.largest_datagram, len(effect.data))
        self._note(b"send", host.index, effect.data, str(effect.to).encode())
        target = self._by_address.get(effect.to)
        if target is None:
            return
        event = DatagramReceived(effect.data, host.address)
        for delay in self.network.delays(host.index, target.index):
            self.at(delay, lambda: self.give(target, event))

    def _open_stream(self, host: Host, effect: OpenStream) -> None:
        target = self._by_id[effect.peer]
        life = host.life

        def fail() -> None:
            if host.life == life:
                self.give(host, StreamFailed(effect.peer))

        delay = self.network.stream_delay(host.index, target.index)
        if delay is None:
            self.at(self.network.options.stream_timeout_ns, fail)
            return
        self._sequence += 1
        number = self._sequence

        def arrive() -> None:
            if target.node is None:
                fail()
                return
            self._streams[number] = (host, life, target)
            event = StreamReceived(
                number, host.crypto.node_id, effect.data, WALL_START_S + self.now // 10**9
            )
            self.give(target, event)

        self.at(delay, arrive)

    def _answer(self, effect: AnswerStream) -> None:
        host, life, target = self._streams.pop(effect.stream)
        delay = self.network.stream_delay(target.index, host.index)
        if delay is None:
            return

        def arrive() -> None:
            if host.life == life:
                event = StreamReceived(
                    effect.stream,
                    target.crypto.node_id,
                    effect.data,
                    WALL_START_S + self.now // 10**9,
                )
                self.give(host, event)

        self.at(delay, arrive)

    def _note(self, what: bytes, host: int, *parts: bytes) -> None:
        self._trace.update(b"%b %d %d " % (what, self.now, host))
        for part in parts:
            self._trace.update(part)

    # ---- looking ----

    def running(self) -> list[Host]:
        """Hosts whose node runs."""
        return [host for host in self.hosts if host.node is not None]

    def states_of(self, subject: int) -> dict[int, State | None]:
        """How every other running node sees one host."""
        node = self.hosts[subject].crypto.node_id
        return {
            host.index: host.node.members.state(node)
            for host in self.running()
            if host.node is not None and host.index != subject
        }

    def is_converged(self) -> bool:
        """Whether every running node sees exactly the running nodes as alive."""
        expected = sorted(host.crypto.node_id for host in self.running())
        return all(
            sorted(_alive(host.node)) == expected
            for host in self.running()
            if host.node is not None
        )


def _alive(node: Node) -> list[NodeId]:
    return [m for m in node.members.present() if node.members.state(m) is State.ALIVE]
