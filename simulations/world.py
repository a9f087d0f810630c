"""The one place that joins real Nodes to a virtual network in virtual time.

The twin of `meshd/gossip.py`: events into `protocol.Node`, its effects carried out, `network.py` in
the place of sockets. One seed decides everything. Other protocols live here, too (`population.py`).
"""

import functools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from protocol.config import SECOND, ProtocolConfig
from protocol.crypto import Crypto, SodiumCrypto, public_key_of
from protocol.deadlines import NEVER
from protocol.effects import (
    AnswerStream,
    DatagramDropped,
    Effect,
    LoadLearned,
    MembershipChanged,
    OffersChanged,
    OpenStream,
    Persist,
    SendDatagram,
)
from protocol.errors import DropReason
from protocol.events import (
    AddressesChanged,
    DatagramReceived,
    DeadlineReached,
    Event,
    LeaveRequested,
    SendFailed,
    Started,
)
from protocol.identity import Address, NodeId, mesh_id_of
from protocol.members import State
from simulations.admissions import WALL_START_S
from simulations.agreement import Agreement
from simulations.clock import Clock
from simulations.host import Host
from simulations.listener import Deaf, Listener
from simulations.network import Network, NetworkOptions
from simulations.overlaps import Overlaps
from simulations.participant import NodeFactory
from simulations.population import MeshNodes, OtherNodes, Population
from simulations.reading import Reading
from simulations.section import ScenarioError
from simulations.streams import Streams
from simulations.timeline import Timeline
from simulations.trace import Trace
from simulations.verdicts import Verdicts

SPINS_MAX: Final = 1_000
"""Deadlines at one moment, one after the other, after which a node is thought to be stuck."""
_DEADLINE_REACHED: Final = DeadlineReached()


class World(Timeline):
    """A mesh of `size` hosts with admissions already on their disks; nothing runs yet."""

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        network: NetworkOptions | None = None,
        protocol: ProtocolConfig | None = None,
        make_crypto: Callable[[bytes], Crypto] = SodiumCrypto,
        make_node: NodeFactory | None = None,
    ) -> None:
        """`make_node` puts another protocol in the place of ours."""
        super().__init__()
        self._rng = random.Random(seed)  # noqa: S311  # a simulation must be repeatable
        self._trace = Trace()
        self.drops: Counter[DropReason] = Counter()
        self.changes: list[tuple[int, int, MembershipChanged]] = []
        """(time, observing host, what changed), in order."""
        self.history: list[tuple[int, int, str]] = []
        """(time, host, act) of all that was done to hosts: what is true, whatever nodes believe."""
        self.traffic: dict[str, list[int]] = {}
        """[datagrams, bytes] sent, by kind."""
        self.taps: list[Callable[[Host, DatagramReceived], None]] = []
        """Who sees the datagrams that arrive, as somebody on the way would."""
        self.spoofed: dict[Address, list[int]] = {}
        """Of addresses that others spoke for: [bytes that came in their name, bytes sent there, by
        how much an answer was longer than its cause at most]."""
        self.datagrams = 0
        self.largest_datagram = 0
        self.largest_message = 0
        """Bytes of the largest message on a stream."""
        self.listener: Listener = Deaf()
        self._root_seed = self._bytes(32)
        self.root = public_key_of(self._root_seed)
        self.mesh = mesh_id_of(self.root)
        self.hosts = [Host(index, make_crypto(self._bytes(32))) for index in range(size)]
        options = network or NetworkOptions()
        self.network = Network(options, random.Random(seed + 1), self.hosts)  # noqa: S311  # same
        self._by_id = {host.crypto.node_id: host for host in self.hosts}
        self._verdicts = Verdicts(self.network, self._by_id)
        self.mistakes = self._verdicts.mistakes
        self.agreement = Agreement(size)
        self.overlaps = Overlaps()
        """What goes on that is done to this world."""
        self.chance = random.Random(seed + 4)  # noqa: S311  # same
        """For what is done to this world."""
        self._reading = Reading(self, random.Random(seed + 2))  # noqa: S311  # same
        self._streams = Streams(
            self.network,
            at=self.at,
            arrive=self.hand,
            give=self.give,
            wall_s=self._wall_s,
            now=lambda: self.now,
        )
        knobs = protocol or ProtocolConfig()
        self._population: Population
        if make_node is None:
            self._population = MeshNodes(self.hosts, self._root_seed, self.mesh, knobs, self._bytes)
        else:
            self._population = OtherNodes(make_node, knobs, self._by_id)

    def _bytes(self, count: int) -> bytes:
        return self._rng.getrandbits(8 * count).to_bytes(count, "big")

    def _wall_s(self, host: Host) -> int:
        return WALL_START_S + self.now // 10**9 + host.wall_ahead_s

    # ---- faults and acts ----

    def start(self, index: int, *seeds: int) -> None:
        """Boot a host's node; it introduces itself to `seeds`."""
        host = self.hosts[index]
        self.note_act(index, "start")
        host.life += 1
        host.is_silent = False
        host.node = self._population.make(host, self.now, self._rng)
        self.agreement.begin(index)
        self.listener.on_act(host, "start")
        self.give(host, Started((host.address,)))
        for seed in seeds:
            self.introduce(index, seed)

    def introduce(self, index: int, seed: int) -> None:
        """A running host meets another, as after joining."""
        host = self.hosts[index]
        self._carry_out_all(host, self._population.introduce(host, self.hosts[seed], self.now))
        self._arm(host)

    def send_stream(self, host: Host, target: Host, data: bytes) -> None:
        """A host opens a stream to another and says this, in its own name."""
        self.largest_message = max(self.largest_message, len(data))
        self._streams.open(host, target, data)

    def crash(self, index: int, *, is_silent: bool = False) -> None:
        """The process is gone; its disk stays as it was last written. Its machine answers streams
        with a refusal, unless `is_silent`: then it is gone too.
        """
        host = self.hosts[index]
        self.note_act(index, "crash")
        if host.node is not None:
            self._population.remember(host)
        host.end_life()
        self.agreement.end(index)
        host.is_silent = is_silent
        if not is_silent:
            self._streams.reset(host)
        self.listener.on_act(host, "crash")

    def back_up(self, index: int) -> None:
        """Copy a host's disk, as its node would find it if it started now."""
        host = self.hosts[index]
        if host.node is not None:
            self._population.remember(host)
        host.back_up()

    def leave(self, index: int) -> None:
        """Say goodbye, then stop a second later."""
        host = self.hosts[index]
        self.note_act(index, "leave")
        self.give(host, LeaveRequested())
        life = host.life
        self.at(10**9, lambda: self.crash(index) if host.life == life else None)

    def pause(self, index: int) -> None:
        """Stop the process (SIGSTOP): time passes, no timer fires, what arrives waits."""
        if (host := self.hosts[index]).node is not None:
            self.note_act(index, "pause")
            host.is_paused = True
            self.listener.on_act(host, "pause")

    def resume(self, index: int) -> None:
        """Wake it (SIGCONT): it notices the gap, reads what waited, then does what is due."""
        if (host := self.hosts[index]).node is None or not host.is_paused:
            return
        self.note_act(index, "resume")
        host.is_paused = False
        self.listener.on_act(host, "resume")
        self._note_lag(host)
        waiting = list(host.backlog)
        host.backlog.clear()
        for read in waiting:
            read()
        self._arm(host)

    def starve(self, index: int, low_ns: int, high_ns: int, *, is_slow: bool = False) -> None:
        """From now on its process reads each message so much late, in order, while its timers fire
        on time (the slow member of the Lifeguard paper) or, with `is_slow`, late too. 0, 0 ends it.
        """
        host = self.hosts[index]
        self.note_act(index, "starve" if high_ns else "feed")
        host.starved_ns = (low_ns, high_ns) if high_ns else None
        host.is_slow = is_slow and high_ns > 0

    def move(self, index: int) -> None:
        """It is at another address from now on (roaming); its node, if it runs, notices."""
        host = self.hosts[index]
        self.note_act(index, "move")
        self.network.move(host)
        self.give(host, AddressesChanged((host.address,)))

    def set_clock(self, index: int, drift_ppm: int, ahead_s: int) -> None:
        """Its clock gains so many millionths from now on, and its wall clock is so wrong."""
        host = self.hosts[index]
        host.wall_ahead_s = ahead_s
        host.clock = host.clock or Clock()
        host.clock.drift(drift_ppm, self.now)
        host.armed_ns = NEVER
        self._arm(host)

    def note_act(self, index: int, act: str) -> None:
        """Remember what was done to a host."""
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
        self._carry_out_all(host, host.node.handle(event, host.time(self.now)))
        self._arm(host)

    def _arrive(self, host: Host, event: Event) -> None:
        """A datagram is at a host's door."""
        if host.starved_ns is None and not host.is_paused:
            self.give(host, event)
        else:
            self.hand(host, functools.partial(self.give, host, event))

    def hand(self, host: Host, read: Callable[[], None]) -> None:
        """A message is at a host's door: its process reads it now, or when it can."""
        self._reading.hand(host, read)

    # ---- time ----

    @property
    def trace_hash(self) -> str:
        """A hash over everything that was sent and changed, in order."""
        return self._trace.hexdigest()

    def _arm(self, host: Host) -> None:
        """See that the node's deadline is kept; one that moves back is looked at when it comes."""
        if host.node is None or host.is_paused:
            return
        deadline = host.node.deadline
        if deadline >= host.armed_ns:
            return
        host.armed_ns = deadline
        late = self._reading.late_ns(host) if host.is_slow else 0
        due = deadline if host.clock is None else host.clock.when(deadline)
        self.at(max(0, due - self.now) + late, self._fire, host, deadline)

    def _fire(self, host: Host, deadline: int) -> None:
        if host.armed_ns != deadline:
            return
        host.armed_ns = NEVER
        if host.node is None or host.is_paused:
            return
        shown = host.time(self.now)
        if host.node.deadline > shown:
            self._arm(host)
            return
        self._note_lag(host)
        self.give(host, _DEADLINE_REACHED)
        self._see_that_time_passes(host, shown)

    def _note_lag(self, host: Host) -> None:
        """A driver that is woken late says so."""
        if host.node is None:
            return
        word = host.lag.word(host.time(self.now) - host.node.deadline, self.now)
        if word is not None:
            self._be_told(host, word)

    def _be_told(self, host: Host, word: Event) -> None:
        self.give(host, word)

    def _see_that_time_passes(self, host: Host, shown: int) -> None:
        is_still_due = host.node is not None and host.node.deadline <= shown
        host.spins = host.spins + 1 if is_still_due else 0
        if host.spins > SPINS_MAX:
            at = f"n{host.index} at {self.now / SECOND:.3f} s"
            raise ScenarioError(f"{at}: its deadline never moves on")

    # ---- effects ----

    def _carry_out_all(self, host: Host, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendDatagram):  # most are
                self.send(host, effect)
            else:
                self._carry_out(host, effect)

    def _carry_out(self, host: Host, effect: Effect) -> None:
        match effect:
            case OpenStream():
                self.send_stream(host, self._by_id[effect.peer], effect.data)
            case AnswerStream():
                self.largest_message = max(self.largest_message, len(effect.data))
                self._streams.answer(effect.stream, effect.data)
            case Persist():
                host.incarnation = effect.incarnation
                host.offers_version = effect.offers_version
            case MembershipChanged():
                self.changes.append((self.now, host.index, effect))
                self.agreement.note(host.index, self._by_id[effect.node].index, effect.state)
                self._verdicts.judge(self.now, host, effect)
                self.note(b"change", host.index, effect.node, str(effect.state).encode())
                self.listener.on_effect(host, effect)
            case LoadLearned() | OffersChanged():
                self.listener.on_effect(host, effect)
            case DatagramDropped():
                self.drops[effect.reason] += 1
            case _:
                pass

    def send(self, host: Host, effect: SendDatagram) -> None:
        """A datagram leaves a host."""
        self.datagrams += 1
        size = len(effect.data)
        sent = self.traffic.get(effect.kind)
        if sent is None:
            sent = self.traffic[effect.kind] = [0, 0]
        sent[0] += 1
        sent[1] += size
        self.largest_datagram = max(self.largest_datagram, size)
        if self.network.is_unplugged(host.index):
            self.note(b"send", host.index, effect.data, str(effect.to).encode())
            self.at(0, self.give, host, SendFailed(effect.to))
            return
        target, seen, delays = self.network.carry(host, effect.to, size, self.now)
        is_plain = target is not None and target.address == effect.to
        address = target.address_text if target and is_plain else str(effect.to).encode()
        self.note(b"send", host.index, effect.data, address)
        if target is None or not delays:
            if effect.to in self.spoofed:
                self.spoofed[effect.to][1] += size
            return
        event = DatagramReceived(effect.data, seen)
        for tap in self.taps:
            tap(target, event)
        for delay in delays:
            self.at(delay, self._arrive, target, event)

    def note(self, what: bytes, host: int, *parts: bytes) -> None:
        """Part of the trace, and so of its hash."""
        self._trace.note(what, self.now, host, *parts)

    # ---- looking ----

    def host_of(self, node: NodeId) -> Host:
        """Where a node lives."""
        return self._by_id[node]

    def running(self) -> list[Host]:
        """Hosts whose node runs."""
        return [host for host in self.hosts if host.node]

    def states_of(self, subject: int) -> dict[int, State | None]:
        """How every other running node sees one host, by what it has told in this life."""
        return {
            host.index: self.agreement.state(host.index, subject)
            for host in self.running()
            if host.index != subject
        }

    def is_converged(self) -> bool:
        """Whether every running node sees exactly the running nodes, and doubts nobody."""
        return self.agreement.wrong == self.agreement.suspected == 0

    def is_agreed(self) -> bool:
        """Whether every running node has exactly the running nodes in its view."""
        return self.agreement.wrong == 0
