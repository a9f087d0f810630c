"""The one place for plain SWIM, the example of another protocol: copy it and change what you study.

Das, Gupta, Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group Membership
Protocol" (DSN 2002), section by section, and nothing that came later: no local health, no
shortened suspicions, no fallback over streams, no anti-entropy, no keys.

    meshd sim run starved_nodes --node simulations.plain_swim:PlainSwim

`handle` and `deadline` are all that the simulator asks for. Three things are ours, as the paper
leaves them open: a newcomer asks one member by stream for the list; the upper bits of an
incarnation count lives, so that a restart is above the death of the life before (a death is final
within a life); and a goodbye is an update like others, handed at once to as many as it needs.
"""

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, Final

import msgpack

from protocol import effects, events
from protocol.deadlines import NEVER
from protocol.identity import Address, NodeId
from protocol.members import State
from simulations.participant import Birth

PING: Final = "ping"
ACK: Final = "ack"
PING_REQUEST: Final = "ping-req"
UPDATE: Final = "update"
DATAGRAM_BYTES_MAX: Final = 1_200
HEAD_BYTES: Final = 64
"""Of a message without updates, at most."""
ROW_BYTES_MAX: Final = 72
LIFE_BITS: Final = 32
Row = tuple[int, bytes, int, str, int]
"""An update on the wire: state, node, incarnation, host, port."""
_STATES: Final = (State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT)
_POWERS_OF_E: Final = (1, 2, 7, 20, 54, 148, 403, 1_096, 2_980, 8_103, 22_026, 59_874, 162_754)
"""floor(e^k): no floating logarithm decides anything, so that every machine computes the same."""


def ceil_ln(count: int) -> int:
    """ceil(ln(count)) for 1 <= count <= 162,754."""
    return next(k for k, power in enumerate(_POWERS_OF_E) if power >= count)


@dataclasses.dataclass(slots=True)
class Member:
    """One row of the list."""

    node: NodeId
    address: Address
    incarnation: int
    state: State
    dies_ns: int = NEVER
    """When its suspicion becomes a death."""

    @property
    def is_present(self) -> bool:
        """Alive or suspect."""
        return self.state in (State.ALIVE, State.SUSPECT)


@dataclasses.dataclass(slots=True)
class Rumour:
    """An update that is spread, and how often it was."""

    row: Row
    sent: int = 0


class PlainSwim:
    """One member. Subclasses switch parts off, as the paper's experiments do."""

    SUSPECTS: ClassVar[bool] = True
    """Section 4.2; without it a member that does not answer is dead at once."""
    PIGGYBACKS: ClassVar[bool] = True
    """Section 4.1; without it an update is sent to everybody once, as if by multicast."""
    ROUND_ROBIN: ClassVar[bool] = True
    """Section 4.3; without it each target is drawn at random."""

    def __init__(self, birth: Birth) -> None:
        self._own = birth.node
        self._rng = birth.rng
        self._period_ns = birth.protocol.probe_interval_ns
        self._timeout_ns = birth.protocol.probe_timeout_ns
        self._helpers = birth.protocol.indirect_probes
        self._lambda = birth.protocol.retransmit_mult
        self._suspicion_mult = birth.protocol.suspicion_mult
        self._incarnation = (birth.incarnation >> LIFE_BITS) + 1 << LIFE_BITS
        self._members: dict[NodeId, Member] = {}
        self._others: dict[NodeId, None] = {}
        """Of these, who is present and not ourselves."""
        self._rumours: dict[NodeId, Rumour] = {}
        """By subject: a later update replaces the earlier one."""
        self._seeds: dict[NodeId, Address] = dict(birth.memory or {})
        """Whom to ask for the list."""
        self._order: list[NodeId] = []
        """Whose turn is still to come in this round, the next one last."""
        self._sequence = 0
        """Numbers all our pings; an ack that brings another number is late or not ours."""
        self._target: NodeId | None = None
        self._probe = 0
        self._has_answered = False
        self._helped: dict[int, tuple[Address, int, int]] = {}
        """By number of our ping: who asked for it, by which number, and when."""
        self._period_ends_ns = NEVER
        self._helpers_asked_ns = NEVER
        self._suspicion_ends_ns = NEVER
        self._effects: list[effects.Effect] = []

    @property
    def deadline(self) -> int:
        """The simulator gives DeadlineReached then."""
        return min(self._period_ends_ns, self._helpers_asked_ns, self._suspicion_ends_ns)

    def handle(self, event: events.Event, now: int) -> list[effects.Effect]:
        """One event in, effects out. What plain SWIM does not know of changes nothing."""
        match event:
            case events.DatagramReceived():
                self._on_datagram(event.data, event.source, now)
            case events.DeadlineReached():
                self._advance(now)
            case events.Started():
                self._start(event.addresses[0], now)
            case events.AddressFound():
                self._seeds[event.node] = event.address
                self._join(event.node)
            case events.StreamReceived():
                self._on_stream(event, now)
            case events.AddressesChanged() if self._own in self._members:
                self._state_own_life(event.addresses[0], State.ALIVE, now)
            case events.LeaveRequested() if self._own in self._members:
                self._leave(now)
            case _:
                pass
        wanted, self._effects = self._effects, []
        return wanted

    def snapshot(self) -> dict[NodeId, Address]:
        """Optional: what the next life of this process finds as `Birth.memory`."""
        return {node: self._members[node].address for node in self._others}

    # ---- begin and end ----

    def _start(self, address: Address, now: int) -> None:
        self._state_own_life(address, State.ALIVE, now)
        self._period_ends_ns = now + self._phase(now)
        for seed in self._some(self._helpers, self._seeds):
            self._join(seed)

    def _phase(self, now: int) -> int:
        """Until the first period: random, so that meshes do not pulse."""
        del now
        return 1 + self._below(self._period_ns)

    def _join(self, seed: NodeId) -> None:
        own = self._members[self._own]
        self._effects.append(effects.OpenStream(seed, (self._seeds[seed],), rows_of([own])))

    def _on_stream(self, event: events.StreamReceived, now: int) -> None:
        """A newcomer's own row, or the answer to ours: everybody who is present."""
        for row in msgpack.unpackb(event.data):
            self._take(row, now, is_news=event.stream != 0)
        if event.stream != 0:
            present = (member for member in self._members.values() if member.is_present)
            self._effects.append(effects.AnswerStream(event.stream, rows_of(present)))

    def _leave(self, now: int) -> None:
        self._state_own_life(self._members[self._own].address, State.LEFT, now)
        for node in self._some(self._limit(), self._others):
            self._send(self._members[node].address, UPDATE, 0, self._own)
        self._period_ends_ns = self._helpers_asked_ns = self._suspicion_ends_ns = NEVER

    def _state_own_life(self, address: Address, state: State, now: int) -> None:
        self._incarnation += 1
        self._effects.append(effects.Persist(self._incarnation, 0))
        self._set(Member(self._own, address, self._incarnation, state), now)

    # ---- the failure detector: section 3.1 ----

    def _advance(self, now: int) -> None:
        if now >= self._suspicion_ends_ns:
            self._end_suspicions(now)
        if now >= self._helpers_asked_ns:
            self._helpers_asked_ns = NEVER
            self._ask_helpers()
        if now >= self._period_ends_ns:
            self._end_period(now)

    def _end_period(self, now: int) -> None:
        if self._target is not None and not self._has_answered:
            self._on_silence(self._members[self._target], now)
        for number in [n for n, row in self._helped.items() if now - row[2] > self._period_ns]:
            del self._helped[number]
        self._period_ends_ns = now + self._period_ns
        self._has_answered = False
        self._target = self._next_target()
        if self._target is None:
            for seed in self._seeds:
                self._join(seed)
            return
        self._sequence += 1
        self._probe = self._sequence
        self._helpers_asked_ns = now + self._timeout_ns
        self._send(self._members[self._target].address, PING, self._probe, self._target)

    def _next_target(self) -> NodeId | None:
        if not self._others:
            return None
        if not self.ROUND_ROBIN:
            return list(self._others)[self._below(len(self._others))]
        while True:
            while self._order:
                node = self._order.pop()
                if node in self._others:
                    return node
            self._order = self._some(len(self._others), self._others)

    def _ask_helpers(self) -> None:
        if self._target is None or self._has_answered:
            return
        others = [node for node in self._others if node != self._target]
        for helper in self._some(self._helpers, others):
            self._send(self._members[helper].address, PING_REQUEST, self._probe, self._target)

    def _on_silence(self, target: Member, now: int) -> None:
        if not self.SUSPECTS and target.is_present:
            self._set(dataclasses.replace(target, state=State.DEAD), now)
        elif target.state is State.ALIVE:
            self._set(dataclasses.replace(target, state=State.SUSPECT), now)

    def _end_suspicions(self, now: int) -> None:
        suspects = [m for m in self._members.values() if m.state is State.SUSPECT]
        for member in suspects:
            if now >= member.dies_ns:
                self._set(dataclasses.replace(member, state=State.DEAD, dies_ns=NEVER), now)
        self._suspicion_ends_ns = min(
            (member.dies_ns for member in suspects if now < member.dies_ns), default=NEVER
        )

    def _on_datagram(self, data: bytes, source: Address, now: int) -> None:
        if self.deadline == NEVER:
            return  # not started yet, or it left
        kind, sequence, subject, rows = msgpack.unpackb(data)
        for row in rows:
            self._take(row, now, is_news=True)
        if kind == PING:
            self._send(source, ACK, sequence, self._own)
        elif kind == PING_REQUEST:
            self._help(source, sequence, NodeId(subject), now)
        elif kind == ACK and sequence in self._helped:
            asker, number, _ = self._helped.pop(sequence)
            self._send(asker, ACK, number, NodeId(subject))
        elif kind == ACK and sequence == self._probe and subject == self._target:
            self._has_answered = True

    def _help(self, asker: Address, number: int, target: NodeId, now: int) -> None:
        if target in self._others:
            self._sequence += 1
            self._helped[self._sequence] = (asker, number, now)
            self._send(self._members[target].address, PING, self._sequence, target)

    # ---- what is known, and what replaces it: section 4.2 ----

    def _take(self, row: Row, now: int, *, is_news: bool) -> None:
        number, node, incarnation, host, port = row
        member = Member(NodeId(node), Address(host, port), incarnation, _STATES[number])
        if member.node == self._own:
            self._hear_of_myself(member, now)
        elif self._is_newer(member):
            self._set(member, now, is_news=is_news)

    def _hear_of_myself(self, said: Member, now: int) -> None:
        """Only a suspicion can be refuted; a death is final."""
        own = self._members[self._own]
        is_doubt = said.state is State.SUSPECT and said.incarnation >= own.incarnation
        if is_doubt and own.state is State.ALIVE:
            self._state_own_life(own.address, State.ALIVE, now)

    def _is_newer(self, new: Member) -> bool:
        known = self._members.get(new.node)
        if known is None:
            return new.is_present
        if new.incarnation >> LIFE_BITS != known.incarnation >> LIFE_BITS:
            return new.incarnation > known.incarnation
        if not known.is_present:
            return False
        match new.state:
            case State.ALIVE:
                return new.incarnation > known.incarnation
            case State.SUSPECT:
                if known.state is State.SUSPECT:
                    return new.incarnation > known.incarnation
                return new.incarnation >= known.incarnation
            case _:
                return True

    def _set(self, member: Member, now: int, *, is_news: bool = True) -> None:
        """A row changes: the simulator is told, and everybody else."""
        known = self._members.get(member.node)
        if member.state is State.SUSPECT:
            periods = self._suspicion_mult * self._scale()
            member.dies_ns = now + periods * self._period_ns
            self._suspicion_ends_ns = min(self._suspicion_ends_ns, member.dies_ns)
        self._members[member.node] = member
        if member.node != self._own:
            self._note_presence(member)
        previous = known.state if known is not None else None
        self._effects.append(
            effects.MembershipChanged(member.node, "", member.state, member.incarnation, previous)
        )
        if is_news:
            self._rumours[member.node] = Rumour(_row(member))
            if not self.PIGGYBACKS:
                self._multicast()

    def _note_presence(self, member: Member) -> None:
        """A newcomer enters this round at a random place: section 4.3."""
        if not member.is_present:
            self._others.pop(member.node, None)
        elif member.node not in self._others:
            self._others[member.node] = None
            self._order.insert(self._below(len(self._order) + 1), member.node)

    # ---- how updates travel: section 4.1 ----

    def _scale(self) -> int:
        """ceil(ln(N + 1)), as in the paper's testbed."""
        return ceil_ln(len(self._others) + 2)

    def _limit(self) -> int:
        """How often one member sends one update."""
        return self._lambda * self._scale()

    def _send(self, to: Address, kind: str, sequence: int, subject: NodeId) -> None:
        rows = self._ride() if self.PIGGYBACKS else []
        data = msgpack.packb((kind, sequence, subject, rows))
        self._effects.append(effects.SendDatagram(data, to, kind))

    def _ride(self) -> list[Row]:
        """Updates for one message, the least sent first."""
        room, chosen = DATAGRAM_BYTES_MAX - HEAD_BYTES, list[Row]()
        if not self._rumours:
            return chosen
        limit = self._limit()
        for node, rumour in sorted(self._rumours.items(), key=lambda item: item[1].sent):
            room -= ROW_BYTES_MAX
            if room < 0:
                break
            chosen.append(rumour.row)
            rumour.sent += 1
            if rumour.sent >= limit:
                del self._rumours[node]
        return chosen

    def _multicast(self) -> None:
        rows = [rumour.row for rumour in self._rumours.values()]
        self._rumours.clear()
        data = msgpack.packb((UPDATE, 0, self._own, rows))
        for node in self._others:
            self._effects.append(effects.SendDatagram(data, self._members[node].address, UPDATE))

    # ---- chance: whole numbers only, the same on every Python ----

    def _below(self, bound: int) -> int:
        return self._rng.getrandbits(32) * bound >> 32

    def _some(self, count: int, among: Iterable[NodeId]) -> list[NodeId]:
        """So many of them, or all that there are, in random order."""
        left, chosen = list(among), list[NodeId]()
        while left and len(chosen) < count:
            place = self._below(len(left))
            left[place], left[-1] = left[-1], left[place]
            chosen.append(left.pop())
        return chosen


def _row(member: Member) -> Row:
    address = member.address
    number = _STATES.index(member.state)
    return (number, member.node, member.incarnation, address.host, address.port)


def rows_of(members: Iterable[Member]) -> bytes:
    """A stream's message: what is known of these."""
    data: bytes = msgpack.packb([_row(member) for member in members])
    return data
