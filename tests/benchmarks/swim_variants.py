"""Variants of plain SWIM for `science.py`: each is what a researcher's own file would hold."""

from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from protocol.effects import Effect, SendDatagram
from protocol.events import Event, StreamReceived
from simulations.bench import WARM_NS
from simulations.latency import even
from simulations.network import NetworkOptions
from simulations.participant import Birth
from simulations.plain_swim import PlainSwim, rows_of
from simulations.pretend_crypto import PretendCrypto
from simulations.world import World


class Aligned(PlainSwim):
    """All periods begin together, as the paper's analysis has it."""

    def _phase(self, now: int) -> int:
        return self._period_ns - now % self._period_ns


class AlignedRandom(Aligned):
    """... and each target is drawn at random."""

    ROUND_ROBIN = False


class NoSuspicion(PlainSwim):
    """The paper's SWIM+Inf."""

    SUSPECTS = False


class Basic(NoSuspicion):
    """The paper's basic SWIM: no suspicion, and updates by multicast."""

    PIGGYBACKS = False


class Counting(PlainSwim):
    """Counts what each member sends in each period."""

    sent: ClassVar[Counter[tuple[bytes, int]]] = Counter()

    def handle(self, event: Event, now: int) -> list[Effect]:
        """As before."""
        effects = super().handle(event, now)
        count = sum(isinstance(effect, SendDatagram) for effect in effects)
        self.sent[self._own, now // self._period_ns] += count
        return effects


def plain_world(nodes: int, seed: int, make_node: Callable[[Birth], PlainSwim]) -> World:
    """Plain SWIM in which everybody has heard of everybody, after three seconds."""
    made: list[PlainSwim] = []

    def make(birth: Birth) -> PlainSwim:
        made.append(make_node(birth))
        return made[-1]

    options = NetworkOptions(delay=even(200_000, 800_000))
    world = World(nodes, seed, network=options, make_crypto=PretendCrypto, make_node=make)
    for index in range(nodes):
        world.start(index)
    everybody = rows_of(member for node in made for member in node._members.values())
    for host in world.hosts:
        other = world.hosts[0 if host.index else 1].crypto.node_id
        world.give(host, StreamReceived(0, other, everybody, 0))
    for node in made:
        node._rumours.clear()
    world.run(WARM_NS)
    return world
