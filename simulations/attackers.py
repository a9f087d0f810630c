"""The one place for those who mean ill: members that lie or flood, and strangers on the way.

A liar, a forger and a flooder are admitted: they hold their own key and nobody else's, and their
own node runs as ever beside what they do. A replayer sees datagrams pass and sends them again; a
spoofer sends to nodes in the name of an address that never asked, to have it buried in answers.
"""

import abc
from collections import deque
from typing import Final

from protocol.codec import encode_datagram, encode_rider, encode_stream
from protocol.effects import SendDatagram
from protocol.envelope import PAYLOAD_BYTES_MAX
from protocol.events import AddressesChanged, DatagramReceived, OfferChanged
from protocol.identity import Address
from protocol.messages import (
    Ack,
    DatagramMessage,
    Gossip,
    Load,
    Nack,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
)
from protocol.node import Node
from protocol.statements import make_accusation, make_alive, make_left
from simulations.chance import below
from simulations.host import Host
from simulations.world import World

RECORDED_MAX: Final = 512
"""Datagrams that are kept for replaying."""
_FLOOD_KEYS: Final = 16
_FLOOD_VALUE_BYTES: Final = 600
_GARBAGE_BYTES_MAX: Final = 1_200
_MOVE_EVERY: Final = 10


class Attacker(abc.ABC):
    """Does one thing after the other at a pace, until it is ended."""

    def __init__(self, world: World, index: int, pace_ns: int) -> None:
        """`index`: the host from which it acts."""
        self._world = world
        self._host = world.hosts[index]
        self._pace_ns = pace_ns
        self._is_over = False
        world.note_act(index, "attack")
        world.at(pace_ns, self._act)

    def end(self) -> None:
        """It is done."""
        self._is_over = True
        self._world.note_act(self._host.index, "peace")

    def _act(self) -> None:
        if self._is_over:
            return
        self._step()
        self._world.at(self._pace_ns, self._act)

    @abc.abstractmethod
    def _step(self) -> None:
        """One deed."""

    def _pick(self, choices: int) -> int:
        return below(self._world.chance, choices)

    def _another(self) -> Host | None:
        others = [host for host in self._world.running() if host is not self._host]
        return others[self._pick(len(others))] if others else None

    def _garbage(self) -> bytes:
        return self._bytes(1 + self._pick(_GARBAGE_BYTES_MAX))

    def _bytes(self, count: int) -> bytes:
        return self._world.chance.getrandbits(8 * count).to_bytes(count, "big")


class Liar(Attacker):
    """Tells one member after the other what is not so of a third."""

    def _step(self) -> None:
        told, victim = self._another(), self._another()
        node, crypto, mesh = self._host.mesh_node, self._host.crypto, self._world.mesh
        if told is None or victim is None or node is None:
            return
        target = victim.crypto.node_id
        incarnation = node.members.incarnation(target)
        match self._pick(5):
            case 0 | 1:
                is_dead, is_refused = bool(self._pick(2)), bool(self._pick(2))
                said = make_accusation(
                    crypto, mesh, target, incarnation, is_dead=is_dead, is_refused=is_refused
                ).wire
            case 2:
                own = make_alive(crypto, mesh, incarnation + 1, "n", (self._host.address,), "sim")
                said = own.wire.replace(crypto.node_id, target)
            case 3:
                left = make_left(crypto, mesh, incarnation)
                said = left.wire.replace(crypto.node_id, target)
            case _:
                self._world.send_stream(self._host, told, self._garbage())
                return
        self._world.send_stream(self._host, told, encode_stream(PushPull(False, (), (said,))))


class Forger(Attacker):
    """Seals datagrams of its own making: answers that nobody waits for, wrong digests, tokens and
    coordinates, statements that it cannot sign, and bytes that mean nothing.
    """

    def _step(self) -> None:
        told, victim = self._another(), self._another()
        node = self._host.mesh_node
        if told is None or victim is None or node is None:
            return
        data = node.envelope.seal(told.crypto.node_id, self._payload(node, victim))
        if data is not None:
            self._world.send(self._host, SendDatagram(data, told.address, "forged"))

    def _payload(self, node: Node, victim: Host) -> bytes:
        target, draw = victim.crypto.node_id, self._world.chance.getrandbits
        number, digest = draw(53), draw(64)
        match self._pick(8):
            case 0:
                message: DatagramMessage = Ping(number, None, None, digest, self._bytes(8))
            case 1:
                message = Ping(number, Load(draw(31), draw(31), draw(31)))
            case 2:
                where = tuple(draw(63) - 2**62 for _ in range(11))
                message = Ack(number, None, self._bytes(64), digest, where)
            case 3:
                message = PingRequest(number, target)
            case 4:
                message = RelayedAck(number, target, self._bytes(64))
            case 5:
                message = Nack(number, target, self._accusation(node, victim))
            case 6:
                return encode_datagram(Gossip()) + encode_rider(self._accusation(node, victim))
            case _:
                return self._bytes(1 + self._pick(PAYLOAD_BYTES_MAX))
        return encode_datagram(message)

    def _accusation(self, node: Node, victim: Host) -> bytes:
        """Its own, or one that bears another's name."""
        target, crypto = victim.crypto.node_id, self._host.crypto
        incarnation = max(1, node.members.incarnation(target))
        is_dead, is_refused = bool(self._pick(2)), bool(self._pick(2))
        said = make_accusation(
            crypto, self._world.mesh, target, incarnation, is_dead=is_dead, is_refused=is_refused
        ).wire
        another = self._another()
        if another is None or self._pick(8):
            return said
        return said.replace(crypto.node_id, another.crypto.node_id)


class Flooder(Attacker):
    """Says so much that is true of itself that nothing else should get through."""

    _steps = 0

    def _step(self) -> None:
        self._steps += 1
        key = f"flood{self._steps % _FLOOD_KEYS}"
        value = self._bytes(_FLOOD_VALUE_BYTES)
        self._world.give(self._host, OfferChanged(key, value))
        if self._steps % _MOVE_EVERY == 0:
            port = 1_024 + self._pick(60_000)
            addresses = (self._host.address, Address(self._host.address.host, port))
            self._world.give(self._host, AddressesChanged(addresses))
        if (target := self._another()) is not None:
            garbage = DatagramReceived(self._garbage(), self._host.address)
            self._world.give(target, garbage)


class Replayer(Attacker):
    """Sends again what it saw pass, to whom it was meant for or to somebody else."""

    def __init__(self, world: World, index: int, pace_ns: int) -> None:
        """See `Attacker`."""
        super().__init__(world, index, pace_ns)
        self._recorded: deque[tuple[Host, DatagramReceived]] = deque(maxlen=RECORDED_MAX)
        world.taps.append(self._record)

    def end(self) -> None:
        """It is done."""
        if self._record in self._world.taps:
            self._world.taps.remove(self._record)
        super().end()

    def _record(self, target: Host, event: DatagramReceived) -> None:
        self._recorded.append((target, event))

    def _step(self) -> None:
        if not self._recorded:
            return
        target, event = self._recorded[self._pick(len(self._recorded))]
        if self._pick(4) == 0:
            target = self._another() or target
        self._world.give(target, event)


class Spoofer(Replayer):
    """The same, with a victim's address in the place of the sender's."""

    def _step(self) -> None:
        target = self._another()
        if target is None:
            return
        victim = Address(f"203.0.113.{self._pick(4)}", 7_700)
        data = self._garbage()
        if self._recorded and self._pick(4):
            target, event = self._recorded[self._pick(len(self._recorded))]
            data = event.data
        counts = self._world.spoofed.setdefault(victim, [0, 0, 0])
        counts[0] += len(data)
        most = counts[1] + len(data)
        self._world.give(target, DatagramReceived(data, victim))
        counts[2] = max(counts[2], counts[1] - most)
