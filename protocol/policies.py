"""The one place for policies: in which order candidates are tried. Pure, by integers.

`fastest`, the default, asks where a request would be complete first (`expectation.py`).

Loads are told, so they are old, and whoever looks best looks so to all gateways at once: if each
sent its requests there, it would be swamped before anybody heard of it, then shunned, and so on in
turns. So it is reckoned how many requests come before that is heard of, and the first to be tried
is drawn from as many of the best as have room for them, by how much room each has (`_drawn`). Where
little comes, that is the best alone. Who has just failed a request is tried last, whatever the
policy.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from protocol.expectation import HALF_LIFE, Demand, Expected, expected_of_all
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.routing import Candidate, alive, rank
from protocol.speeds import typical

COOL_DOWN_NS: Final = 10_000_000_000
"""So long a node that failed a request is tried last."""
EQUAL_PERCENT: Final = 105
"""As good as the best: not longer than so much of it ..."""
EQUAL_NS: Final = 20_000_000
"""... and this."""
NEAR_PERCENT: Final = 200
"""Nearly as good: not longer than so much of the best; they are taken in until ..."""
AMPLE: Final = 8
"""... there is room for so many times what comes before it is heard of."""
CONSIDERED_MAX: Final = 64
"""Of so many candidates that chance has drawn some are as good as the best of all."""


class Policy(Protocol):
    """One gateway's way to choose."""

    def considered(
        self, nodes: Sequence[NodeId], kept: Collection[NodeId], rng: random.Random
    ) -> Sequence[NodeId]:
        """Whom of those that offer the model it wants to have ranked, so that what a choice costs
        has a bound, however large the mesh: `kept` in any case. If none of them can, it is asked
        again, without them.
        """
        ...

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """Whom to try, best first; members under suspicion are not tried at all."""
        ...


class Drawing:
    """Of many candidates it considers some that chance draws: a part of every policy to which any
    that is good enough will do.
    """

    def considered(
        self, nodes: Sequence[NodeId], kept: Collection[NodeId], rng: random.Random
    ) -> Sequence[NodeId]:
        """See Policy."""
        if len(nodes) <= CONSIDERED_MAX:
            return nodes
        drawn = {node: None for node in nodes if node in kept} if kept else {}
        while len(drawn) < CONSIDERED_MAX:
            drawn[nodes[_below(rng, len(nodes))]] = None
        return list(drawn)


def _cooled(candidates: Sequence[Candidate], *, by_time: bool = False) -> list[Candidate]:
    """The same order, but who has just failed comes last; and behind them all, who was not heard
    of at all: to find that out again takes long. Of others who may have too little context comes
    after who has enough. Unless the order is by time, which loading the model is a part of, who
    has it in memory comes before who has to load it.
    """

    def how_badly(candidate: Candidate) -> tuple[int, bool, bool]:
        is_cold = candidate.load_ns > 0 and not by_time
        failed = candidate.failed_ago_ns
        has_failed = 0
        if failed is not None and failed < COOL_DOWN_NS:
            has_failed = 2 if candidate.is_unreached else 1
        return has_failed, candidate.may_be_too_long, is_cold

    return sorted(candidates, key=how_badly)


def _drawn(estimates: Sequence[Expected], ranked: Sequence[Candidate], rng: random.Random) -> int:
    """Which of those in order comes first: one of the best, by chance and by how much room each
    has; of so many that they can take up what comes before it is heard of.
    """
    rooms: list[int] = []
    coming = 0
    for estimate, candidate in zip(estimates, ranked, strict=True):
        load = candidate.load or Load(0, 0, 1)
        service_ns = max(1, estimate.prefill_ns + estimate.decode_ns)
        # What has ended since it was told: in the long run as much has come (Little's law).
        age_ns = min(candidate.load_age_ns, HALF_LIFE * service_ns)
        ended = 1000 * min(load.running, load.slots) * age_ns // service_ns
        taken = max(load.queued + load.running, candidate.own_requests)
        rooms.append(1000 * max(0, load.slots - taken) + ended)
        coming += ended
    best_ns = estimates[0].total_ns
    equal_ns, near_ns = best_ns * EQUAL_PERCENT // 100 + EQUAL_NS, best_ns * NEAR_PERCENT // 100
    many = reached = 0
    for room, estimate in zip(rooms, estimates, strict=True):
        limit_ns = near_ns if reached < AMPLE * coming else equal_ns
        if reached >= coming and estimate.total_ns > limit_ns:
            break
        reached += room
        many += 1
    at = _below(rng, reached) if reached else 0
    for place in range(many):
        at -= rooms[place]
        if at < 0:
            return place
    return 0


class Fastest(Drawing):
    """Where it would be complete first."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        able = alive(candidates)
        keyed = [
            (estimate.total_ns, rng.getrandbits(32), estimate, candidate)
            for estimate, candidate in zip(expected_of_all(able, demand), able, strict=True)
        ]
        keyed.sort(key=lambda entry: entry[:2])
        ranked = [candidate for *_, candidate in keyed]
        if ranked and ranked[0].distance_ns > 0 and not ranked[0].had_before:
            ranked.insert(0, ranked.pop(_drawn([each for *_, each, _ in keyed], ranked, rng)))
        return _cooled(ranked, by_time=True)


class LeastLoaded(Drawing):
    """By requests per slot as told, then by round trip."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        return _cooled(rank(candidates, rng))


class RoundRobin:
    """One after the other, in the order of their ids, from where this gateway began by chance."""

    def __init__(self) -> None:
        self._last = b""
        """Who was first the last time."""

    def considered(
        self, nodes: Sequence[NodeId], kept: Collection[NodeId], rng: random.Random
    ) -> Sequence[NodeId]:
        """The next in turn."""
        del kept
        return self._from_turn(sorted(nodes), rng)[:CONSIDERED_MAX]

    def _from_turn(self, nodes: Sequence[NodeId], rng: random.Random) -> Sequence[NodeId]:
        if not nodes:
            return nodes
        begin = bisect_right(nodes, self._last) if self._last else _below(rng, len(nodes))
        return [*nodes[begin:], *nodes[:begin]]

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        able = {candidate.node: candidate for candidate in alive(candidates)}
        turns = self._from_turn(sorted(able), rng)
        if turns:
            self._last = turns[0]
        return _cooled([able[node] for node in turns])


class ResourceAware(Drawing):
    """The best hardware with a slot free: by tier, then by free slots, then by speed."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        able = alive(candidates)
        usual = typical(c.speed for c in able)

        def key(entry: tuple[Candidate, int]) -> tuple[bool, int, int, int, int]:
            candidate, chance = entry
            load = candidate.load or Load(0, 0, 1)
            used = max(load.queued + load.running, candidate.own_requests)
            free = load.slots - used
            speed = candidate.speed or usual
            return free < 1, candidate.tier, -free, speed.decode_ns, chance

        drawn = sorted(((c, rng.getrandbits(32)) for c in able), key=key)
        return _cooled([candidate for candidate, _ in drawn])


class LocalityAware:
    """The nearest that is not full: by round trip in steps that double, then by load."""

    def considered(
        self, nodes: Sequence[NodeId], kept: Collection[NodeId], rng: random.Random
    ) -> Sequence[NodeId]:
        """All: the nearest is one alone."""
        del kept, rng
        return nodes

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        keyed = [
            (
                c.busy_milli >= 1000,
                (c.distance_ns // 1_000_000).bit_length(),
                c.busy_milli,
                rng.getrandbits(32),
                c,
            )
            for c in alive(candidates)
        ]
        keyed.sort(key=lambda entry: entry[:4])
        return _cooled([candidate for *_, candidate in keyed])


class PriorityFirst(Drawing):
    """Urgent requests where they are complete first; others leave those nodes alone while slower
    ones are idle and have the model in memory.
    """

    def __init__(self) -> None:
        self._fastest = Fastest()

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        ranked = self._fastest.rank(candidates, demand, rng)
        if demand.priority > 0:
            return ranked

        def is_idle(candidate: Candidate) -> bool:
            return candidate.busy_milli < 1000 and candidate.load_ns == 0

        idle = [c for c in ranked if is_idle(c)]
        others = [c for c in ranked if not is_idle(c)]
        return _cooled([*reversed(idle), *others], by_time=True)


class FairShare(Drawing):
    """Who has done least for us, measured by how fast it is: nobody's machine carries all."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        able = alive(candidates)
        usual = typical(c.speed for c in able)
        keyed = [
            (
                c.busy_milli >= 2000,
                c.served_tokens * (c.speed or usual).decode_ns,
                c.busy_milli,
                rng.getrandbits(32),
                c,
            )
            for c in able
        ]
        keyed.sort(key=lambda entry: entry[:4])
        return _cooled([candidate for *_, candidate in keyed])


def _below(rng: random.Random, limit: int) -> int:
    """0 to limit - 1, by bits alone: the same on every machine and Python."""
    bits = (limit - 1).bit_length()
    while (value := rng.getrandbits(bits) if bits else 0) >= limit:
        pass
    return value


DEFAULT: Final = "fastest"
POLICIES: Final[Mapping[str, Callable[[], Policy]]] = {
    DEFAULT: Fastest,
    "least_loaded": LeastLoaded,
    "round_robin": RoundRobin,
    "resource_aware": ResourceAware,
    "locality_aware": LocalityAware,
    "priority_first": PriorityFirst,
    "fair_share": FairShare,
}
"""By name; each gateway makes its own."""
