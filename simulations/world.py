"""The one place where virtual time passes: a heap of (time, sequence, what) around real Nodes.

The twin of `meshd/gossip.py`: it gives events to `protocol.Node` and carries out its effects, with
`network.py` in the place of sockets. One seed decides everything.
"""

import functools
import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from protocol.assembly import NodeConfig
from protocol.codec import encode_stream
from protocol.config import MILLISECOND, ProtocolConfig
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
    AddressesChanged,
    DatagramReceived,
    DeadlineReached,
    Delayed,
    Event,
    LeaveRequested,
    Resumed,
    SendFailed,
    Started,
)
from protocol.identity import mesh_id_of
from protocol.members import State
from protocol.messages import PushPull
from protocol.node import Node
from protocol.records import Records
from protocol.statements import Statements
from simulations.admissions import WALL_START_S, admit_all
from simulations.agreement import Agreement
from simulations.host import Host
from simulations.network import Network, NetworkOptions
from simulations.streams import Streams

GAP_NS: Final = 2_000 * MILLISECOND
"""Woken later than this a driver gives Resumed; the daemon's value."""
LAG_NS: Final = 300 * MILLISECOND
"""Woken later than this, but not so late, it gives Delayed; the daemon's value."""


_DEADLINE_REACHED: Final = DeadlineReached()
_NOTED_MAX: Final = 4_096
"""Notes for the trace's hash that are collected before it is fed."""


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
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        """(time, sequence, what, with what)."""
        self._trace = hashlib.blake2b(digest_size=16)
        self._noted: list[bytes] = []
        """What is still to go into it."""
        self.drops: Counter[DropReason] = Counter()
        self.changes: list[tuple[int, int, MembershipChanged]] = []
        """(time, observing host, what changed), in order."""
        self.history: list[tuple[int, int, str]] = []
        """(time, host, act) of all that was done to hosts: what is true, whatever nodes believe."""
        self.mistakes: list[tuple[int, int, int]] = []
        """(time, observer, subject): called dead while it ran and could be reached."""
        self.traffic: dict[str, list[int]] = {}
        """[datagrams, bytes] sent, by kind."""
        self.datagrams = 0
        self.largest_datagram = 0
        self._root_seed = self._bytes(32)
        self.root = public_key_of(self._root_seed)
        self.mesh = mesh_id_of(self.root)
        self._statements = Statements(self.mesh)
        self._records = Records()
        self.hosts = [Host(index, make_crypto(self._bytes(32))) for index in range(size)]
        self._by_address = {host.address: host for host in self.hosts}
        self._by_id = {host.crypto.node_id: host for host in self.hosts}
        self.agreement = Agreement(size)
        self._reading = random.Random(seed + 2)  # noqa: S311  # same
        self._streams = Streams(
            self.network, at=self.at, arrive=self._wait, give=self.give, wall_s=self._wall_s
        )
        admit_all(self.hosts, self._root_seed, self.mesh, self._bytes)

    def _bytes(self, count: int) -> bytes:
        return self._rng.getrandbits(8 * count).to_bytes(count, "big")

    def _wall_s(self) -> int:
        return WALL_START_S + self.now // 10**9

    # ---- faults and acts ----

    def start(self, index: int, *seeds: int) -> None:
        """Boot a host's node; it introduces itself to `seeds` as a joined node would."""
        host = self.hosts[index]
        self._remember(index, "start")
        host.life += 1
        host.is_silent = False
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
            self._records,
        )
        self.agreement.begin(index)
        self.give(host, Started((host.address,)))
        for seed in seeds:
            other = self.hosts[seed]
            records, statements = host.node.join_state()
            self._streams.open(host, other, encode_stream(PushPull(False, records, statements)))

    def crash(self, index: int, *, is_silent: bool = False) -> None:
        """The process is gone; its disk stays as it was last written.

        Its machine answers streams with a refusal, unless `is_silent`: then it is gone too.
        """
        host = self.hosts[index]
        self._remember(index, "crash")
        if host.node is not None:
            host.snapshot = host.node.snapshot()
        host.end_life()
        self.agreement.end(index)
        host.is_silent = is_silent
        if not is_silent:
            self._streams.reset(host)

    def leave(self, index: int) -> None:
        """Say goodbye, then stop a second later."""
        host = self.hosts[index]
        self._remember(index, "leave")
        self.give(host, LeaveRequested())
        life = host.life
        self.at(10**9, lambda: self.crash(index) if host.life == life else None)

    def pause(self, index: int) -> None:
        """Stop the process (SIGSTOP): time passes, no timer fires, what arrives waits."""
        self._remember(index, "pause")
        self.hosts[index].is_paused = True

    def resume(self, index: int) -> None:
        """Wake it (SIGCONT): it notices the gap, reads what waited, then does what is due."""
        host = self.hosts[index]
        if host.node is None or not host.is_paused:
            return
        self._remember(index, "resume")
        host.is_paused = False
        gap = self.now - host.node.deadline
        if gap > GAP_NS:
            self.give(host, Resumed(gap))
        elif gap > LAG_NS:
            self.give(host, Delayed(gap))
        waiting = list(host.backlog)
        host.backlog.clear()
        for read in waiting:
            read()
        self._arm(host)

    def starve(self, index: int, low_ns: int, high_ns: int) -> None:
        """From now on its process reads each message (datagrams and streams) so much late, in
        order, while its timers fire on time: the slow member of the Lifeguard paper. 0, 0 ends it.
        """
        self.hosts[index].starved_ns = (low_ns, high_ns) if high_ns else None

    def move(self, index: int) -> None:
        """It is at another address from now on (roaming); its node, if it runs, notices."""
        host = self.hosts[index]
        self._remember(index, "move")
        del self._by_address[host.address]
        host.move()
        self._by_address[host.address] = host
        self.give(host, AddressesChanged((host.address,)))

    def _remember(self, index: int, act: str) -> None:
        self.history.append((self.now, index, act))

    def give(self, host: Host, event: Event) -> None:
        """Hand an event to a host's node and carry out what it asks; a stopped one hears it when
        it wakes.
        """
        if host.node is None:
            return
        if host.is_paused:
            host.backlog.append(lambda: self.give(host, event))
            return
        for effect in host.node.handle(event, self.now):
            if isinstance(effect, SendDatagram):
                self._send(host, effect)
            else:
                self._carry_out(host, effect)
        self._arm(host)

    def _arrive(self, host: Host, event: Event) -> None:
        """A datagram is at a host's door."""
        if host.starved_ns is None and not host.is_paused:
            self.give(host, event)
        else:
            self._wait(host, functools.partial(self.give, host, event))

    def _wait(self, host: Host, read: Callable[[], None]) -> None:
        """A message is at a host's door: its process reads it now, or when it can."""
        if host.starved_ns is None:
            self._read(host, host.life, read)
            return
        low, high = host.starved_ns
        late = low + (self._reading.getrandbits(32) * (high - low) >> 32)
        host.read_ns = max(host.read_ns, self.now + late)
        life = host.life
        self.at(host.read_ns - self.now, self._read, host, life, read)

    def _read(self, host: Host, life: int, read: Callable[[], None]) -> None:
        if host.life != life:
            return
        if host.is_paused:
            host.backlog.append(read)
        else:
            read()

    def at(self, delay_ns: int, what: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        """Do something later, with these arguments."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_ns, self._sequence, what, arguments))

    # ---- time ----

    def run(self, duration_ns: int) -> None:
        """Let time pass."""
        end = self.now + duration_ns
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, what, arguments = heapq.heappop(heap)
            what(*arguments)
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_ns: int) -> bool:
        """Let time pass until the condition holds; False when the limit came first."""
        end = self.now + limit_ns
        while not condition():
            if not self._heap or self._heap[0][0] > end:
                self.now = end
                return condition()
            self.now, _, what, arguments = heapq.heappop(self._heap)
            what(*arguments)
        return True

    @property
    def trace_hash(self) -> str:
        """A hash over everything that was sent and changed, in order."""
        self._hash_noted()
        return self._trace.hexdigest()

    def _arm(self, host: Host) -> None:
        """See that the node's deadline is kept; one that moves back is looked at when it comes."""
        if host.node is None or host.is_paused:
            return
        deadline = host.node.deadline
        if deadline >= host.armed_ns:
            return
        host.armed_ns = deadline
        self.at(max(0, deadline - self.now), self._fire, host, deadline)

    def _fire(self, host: Host, deadline: int) -> None:
        if host.armed_ns != deadline:
            return
        host.armed_ns = NEVER
        if host.node is None or host.is_paused:
            return
        if host.node.deadline <= self.now:
            self.give(host, _DEADLINE_REACHED)
        else:
            self._arm(host)

    # ---- effects ----

    def _carry_out(self, host: Host, effect: Effect) -> None:
        match effect:
            case OpenStream():
                self._streams.open(host, self._by_id[effect.peer], effect.data)
            case AnswerStream():
                self._streams.answer(effect.stream, effect.data)
            case Persist():
                host.incarnation = effect.incarnation
                host.offers_version = effect.offers_version
            case MembershipChanged():
                self.changes.append((self.now, host.index, effect))
                self.agreement.note(
                    host.index,
                    self._by_id[effect.node].index,
                    is_present=effect.state in (State.ALIVE, State.SUSPECT),
                    is_suspect=effect.state is State.SUSPECT,
                )
                self._judge(host, effect)
                self._note(b"change", host.index, effect.node, str(effect.state).encode())
            case DatagramDropped():
                self.drops[effect.reason] += 1
            case _:
                pass

    def _judge(self, observer: Host, change: MembershipChanged) -> None:
        if change.state is not State.DEAD:
            return
        subject = self._by_id[change.node]
        both = (observer.index, subject.index)
        is_reached = self.network.is_connected(*both) and self.network.is_connected(*both[::-1])
        if subject.node is not None and not subject.is_paused and is_reached:
            self.mistakes.append((self.now, *both))

    def _send(self, host: Host, effect: SendDatagram) -> None:
        self.datagrams += 1
        size = len(effect.data)
        sent = self.traffic.get(effect.kind)
        if sent is None:
            sent = self.traffic[effect.kind] = [0, 0]
        sent[0] += 1
        sent[1] += size
        self.largest_datagram = max(self.largest_datagram, size)
        target = self._by_address.get(effect.to)
        address = target.address_text if target is not None else str(effect.to).encode()
        self._note(b"send", host.index, effect.data, address)
        if self.network.is_unplugged(host.index):
            self.at(0, self.give, host, SendFailed(effect.to))
            return
        if target is None:
            return
        event = DatagramReceived(effect.data, host.address)
        for delay in self.network.delays(host.index, target.index):
            self.at(delay, self._arrive, target, event)

    def _note(self, what: bytes, host: int, *parts: bytes) -> None:
        self._noted.append(b"%b %d %d " % (what, self.now, host))
        self._noted += parts
        if len(self._noted) >= _NOTED_MAX:
            self._hash_noted()

    def _hash_noted(self) -> None:
        self._trace.update(b"".join(self._noted))
        self._noted.clear()

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
        """Whether every running node sees exactly the running nodes, and doubts nobody."""
        return self.agreement.wrong == self.agreement.suspected == 0

    def is_agreed(self) -> bool:
        """Whether every running node has exactly the running nodes in its view."""
        return self.agreement.wrong == 0
